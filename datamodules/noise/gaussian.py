"""Additive white Gaussian noise."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules.noise.base import Noise, Params, as_range, draw_uniform, per_sample


class GaussianNoise(Noise):
    """noisy = clean + N(0, (σ / 255)²), independent in every value.

    Args:
        sigma: standard deviation σ on the 0–255 scale; or a range [a, b], from which each sample draws its own.
    """

    def __init__(self, *, sigma: float | Sequence[float]) -> None:
        super().__init__()
        self.sigma = as_range("sigma", sigma)

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        return {"sigma": draw_uniform(batch_shape[0], self.sigma) / 255}

    def apply_transform(
        self, input: Tensor, params: Params, flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        # a protocol may bring the standard normal field, see datamodules/realisation.py
        field = params["normal"].to(input) if "normal" in params else torch.randn_like(input)
        return torch.addcmul(input, field, per_sample(params["sigma"], input))

    def level(self, clean: Tensor, params: Params) -> Tensor:
        return params["sigma"].view(-1, 1, 1, 1)
