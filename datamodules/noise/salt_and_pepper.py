"""Salt-and-pepper noise: dead and saturated pixels."""

from collections.abc import Sequence

from kornia.augmentation import RandomSaltAndPepperNoise
from torch import Tensor

from datamodules.noise.base import Noise, Params, as_range, per_sample, rms


class SaltAndPepperNoise(RandomSaltAndPepperNoise, Noise):
    """kornia's own: a pixel becomes white (salt) or black (pepper) in all channels, or stays as it is.

    Args:
        amount: the share of pixels that are hit; a number, or a range [a, b], from which each sample draws its own.
        salt_ratio: the share of salt among them; a number or a range.
    """

    def __init__(self, *, amount: float | Sequence[float], salt_ratio: float | Sequence[float]) -> None:
        # kornia treats a list, a tuple and a float differently: it always gets a tuple
        RandomSaltAndPepperNoise.__init__(
            self,
            amount=as_range("amount", amount, high=1),
            salt_vs_pepper=as_range("salt_ratio", salt_ratio, high=1),
            p=1.0,
        )

    def level(self, clean: Tensor, params: Params) -> Tensor:
        amount, salt = (per_sample(params[f"{name}_factor"], clean) for name in ("amount", "salt_and_pepper"))
        return rms(amount * (salt * (1 - clean).square() + (1 - salt) * clean.square()))
