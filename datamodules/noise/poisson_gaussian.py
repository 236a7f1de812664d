"""Photon shot noise and read noise, as a sensor has them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from datamodules.noise.base import Noise, Params, Spacing, as_positive_range, as_range, draw, per_sample, rms


class PoissonGaussianNoise(Noise):
    """noisy = black + gain · Poisson((clean − black) / gain) + N(0, (read / 255)²).

    variance = gain · (clean − black) + (read / 255)², and no photon noise below the black level.

    Foi, Trimeche, Katkovnik and Egiazarian, "Practical Poissonian-Gaussian Noise Modeling and Fitting for Single-Image
    Raw-Data", IEEE TIP 2008, with its a = gain and b = (read / 255)². Without read noise it is Poisson noise.

    Args:
        gain: the brightness that one photon adds, on the [0, 1] scale: white is 1 / gain photons. A number above 0,
            or a range [a, b], from which each sample draws its own.
        read: standard deviation of the read noise on the 0–255 scale; a number or a range.
        spacing: of what is drawn from ranges: ``linear``, or ``log``, which brings weak noise and strong alike, as
            cameras do that double their sensitivity from setting to setting.
        black: the brightness, on the [0, 1] scale, at which there is no photon.
    """

    def __init__(
        self,
        *,
        gain: float | Sequence[float],
        read: float | Sequence[float],
        spacing: Spacing = "linear",
        black: float = 0.0,
    ) -> None:
        super().__init__()
        self.gain = as_positive_range("gain", gain, "white is 1 / gain photons")
        self.read, self.spacing = as_range("read", read), spacing
        self.black, _ = as_range("black", black, high=1)
        if spacing not in ("linear", "log"):
            raise ValueError(f"spacing={spacing}: must be linear or log")
        if spacing == "log" and self.read[0] == 0 < self.read[1]:
            raise ValueError(f"read={read}: a range that is drawn with spacing=log must begin above 0")

    properties = frozenset({"independent", "unbiased", "stein"})

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        batch = batch_shape[0]
        read = draw(batch, self.read, self.spacing if self.read[0] else "linear")
        return {"gain": draw(batch, self.gain, self.spacing), "read": read / 255}

    def apply_transform(
        self, input: Tensor, params: Params, flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        gain, read = (per_sample(params[name], input) for name in ("gain", "read"))
        light = (input - self.black).clamp_(min=0)
        dark = input - light  # the black level, or what is below it
        return photons(light / gain).mul_(gain).add_(dark).addcmul_(torch.randn_like(input), read)

    def line(self, params: Params) -> Tensor:
        return torch.stack([params["gain"], params["read"] ** 2 - params["gain"] * self.black], 1)

    def level(self, clean: Tensor, params: Params) -> Tensor:
        gain, read = (per_sample(params[name], clean) for name in ("gain", "read"))
        return rms(gain * (clean - self.black).clamp(min=0) + read**2)


def photons(expected: Tensor) -> Tensor:
    """Poisson numbers of the expectations [B, C, H, W]; on the CPU, where PyTorch has one thread for them, in several.

    Each sample has a generator of its own there, seeded by the global one: the number of threads changes nothing.
    """
    if expected.device.type != "cpu":
        return torch.poisson(expected)
    found = torch.empty_like(expected)

    def fill(number: int, seed: int) -> None:
        found[number] = torch.poisson(expected[number], torch.Generator().manual_seed(seed))

    seeds = torch.randint(2**62, (len(expected),)).tolist()
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(fill, range(len(expected)), seeds))
    return found
