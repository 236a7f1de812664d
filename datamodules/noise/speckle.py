"""Speckle: the brightness of each pixel times a random factor, as coherent light, radar and ultrasound have it."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from datamodules.noise.base import Noise, Params, as_positive_range, draw, per_sample, rms


class SpeckleNoise(Noise):
    """noisy = clean · f, where f has mean 1 and standard deviation ``deviation``: variance = (deviation · clean)².

    Args:
        deviation: relative to the brightness, above 0; a number, or a range [a, b] that each sample draws from.
        distribution: ``gaussian``; or ``gamma``, the intensity of radar images of 1 / deviation² looks (Goodman, "Some
            Fundamental Properties of Speckle", J. Opt. Soc. Am. 1976), which is never negative.
    """

    def __init__(
        self, *, deviation: float | Sequence[float], distribution: Literal["gaussian", "gamma"] = "gaussian"
    ) -> None:
        super().__init__()
        self.deviation = as_positive_range("deviation", deviation, "there would be no noise")
        if distribution not in ("gaussian", "gamma"):
            raise ValueError(f"distribution={distribution}: must be gaussian or gamma")
        self.distribution = distribution

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        return {"deviation": draw(batch_shape[0], self.deviation)}

    def apply_transform(
        self, input: Tensor, params: Params, flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        deviation = per_sample(params["deviation"], input)
        if self.distribution == "gaussian":
            return input + torch.randn_like(input).mul_(input).mul_(deviation)
        looks = deviation.pow(-2)
        return torch._standard_gamma(looks.expand_as(input).contiguous()).div_(looks).mul_(input)

    def level(self, clean: Tensor, params: Params) -> Tensor:
        return rms((per_sample(params["deviation"], clean) * clean).square())
