"""Additive white Gaussian noise: as strong everywhere, or from place to place."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.noise.base import Noise, Params, SigmaNoise, as_range, draw, per_sample, rms


class GaussianNoise(SigmaNoise):
    """noisy = clean + N(0, (σ / 255)²), independent in every value.

    Args:
        sigma: standard deviation σ on the 0–255 scale; or a range [a, b], from which each sample draws its own.
        per_channel: whether each channel of a sample draws its own.
    """

    properties = frozenset({"independent", "unbiased", "stein", "gaussian"})

    def __init__(self, *, sigma: float | Sequence[float], per_channel: bool = False) -> None:
        super().__init__(sigma=sigma)
        self.per_channel = per_channel

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        return {"sigma": draw(tuple(batch_shape[: 2 if self.per_channel else 1]), self.sigma) / 255}

    def apply_transform(
        self, input: Tensor, params: Params, flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        # a protocol may bring the standard normal field, see datamodules/realisation.py
        field = params["normal"].to(input) if "normal" in params else torch.randn_like(input)
        return torch.addcmul(input, field, per_sample(params["sigma"], input))

    def line(self, params: Params) -> Tensor | None:
        variance = params["sigma"].square()
        return None if variance.ndim > 1 else torch.stack([torch.zeros_like(variance), variance], 1)

    def level(self, clean: Tensor, params: Params) -> Tensor:
        return rms(per_sample(params["sigma"], clean).square())


class GaussianMapNoise(Noise):
    """noisy = clean + N(0, (σ(x, y) / 255)²): a σ that changes smoothly over the picture; the level is its map.

    Each sample draws σ at the knots of a grid over the picture; between them it is interpolated bilinearly. Such noise
    is what networks with a noise map are made for (Zhang, Zuo and Zhang, "FFDNet", IEEE TIP 2018, section IV).

    Args:
        sigma: range [a, b] of σ on the 0–255 scale.
        cells: of the grid, along each side.
    """

    def __init__(self, *, sigma: float | Sequence[float], cells: int = 2) -> None:
        super().__init__()
        self.sigma = as_range("sigma", sigma)
        if cells < 1:
            raise ValueError(f"cells={cells}: must be at least 1")
        self.cells = cells

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        return {"knots": draw((batch_shape[0], 1, self.cells + 1, self.cells + 1), self.sigma) / 255}

    def apply_transform(
        self, input: Tensor, params: Params, flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        return torch.addcmul(input, torch.randn_like(input), self.level(input, params))

    def level(self, clean: Tensor, params: Params) -> Tensor:
        return F.interpolate(params["knots"].to(clean), clean.shape[-2:], mode="bilinear", align_corners=True)
