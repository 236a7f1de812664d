"""Impulses: pixels whose value is lost."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules.noise.base import Noise, Params, as_range, draw, per_sample, rms


class Impulses(Noise):
    """What impulses have in common: a share of the pixels is hit, in all channels or in each on its own.

    Args:
        amount: the share of pixels that are hit; a number, or a range [a, b], from which each sample draws its own.
        per_channel: whether the channels of a pixel are hit independently of each other.
    """

    properties = frozenset({"independent"})

    def __init__(self, *, amount: float | Sequence[float], per_channel: bool) -> None:
        super().__init__()
        self.amount = as_range("amount", amount, high=1)
        self.per_channel = per_channel

    def uniform(self, like: Tensor) -> Tensor:
        """A number from [0, 1) for each pixel, or for each channel of it: below ``amount``, it is hit."""
        return torch.rand_like(like if self.per_channel else like[:, :1])


class SaltAndPepperNoise(Impulses):
    """A pixel becomes white (salt) or black (pepper), or stays as it is: dead and saturated pixels.

    Args:
        amount, per_channel: see :class:`Impulses`.
        salt_ratio: the share of salt among the pixels that are hit; a number, or a range that each sample draws from.
    """

    def __init__(
        self, *, amount: float | Sequence[float], salt_ratio: float | Sequence[float] = 0.5, per_channel: bool = False
    ) -> None:
        super().__init__(amount=amount, per_channel=per_channel)
        self.salt_ratio = as_range("salt_ratio", salt_ratio, high=1)

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        return {"amount": draw(batch_shape[0], self.amount), "salt_ratio": draw(batch_shape[0], self.salt_ratio)}

    def apply_transform(
        self, input: Tensor, params: Params, flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        amount, salt = (per_sample(params[name], input) for name in ("amount", "salt_ratio"))
        uniform = self.uniform(input)
        return input.masked_fill(uniform < amount, 0).masked_fill_(uniform < amount * salt, 1)

    def level(self, clean: Tensor, params: Params) -> Tensor:
        amount, salt = (per_sample(params[name], clean) for name in ("amount", "salt_ratio"))
        return rms(amount * (salt * (1 - clean).square() + (1 - salt) * clean.square()))


class ImpulseNoise(Impulses):
    """A pixel takes any value of [0, 1], each as likely as any other, or stays as it is.

    Args:
        amount, per_channel: see :class:`Impulses`; the value is drawn for each channel either way.
    """

    def __init__(self, *, amount: float | Sequence[float], per_channel: bool = False) -> None:
        super().__init__(amount=amount, per_channel=per_channel)

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        return {"amount": draw(batch_shape[0], self.amount)}

    def apply_transform(
        self, input: Tensor, params: Params, flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        hit = self.uniform(input) < per_sample(params["amount"], input)
        return torch.where(hit, torch.rand_like(input), input)

    def level(self, clean: Tensor, params: Params) -> Tensor:
        return rms(per_sample(params["amount"], clean) * ((clean - 0.5).square() + 1 / 12))
