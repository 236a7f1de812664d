"""Gaussian noise whose neighbours resemble each other, as demosaicing, scaling and smoothing leave it."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from kornia.filters import get_gaussian_kernel1d
from torch import Tensor

from datamodules.noise.base import Params, SigmaNoise, as_positive_range, draw, per_sample


class CorrelatedGaussianNoise(SigmaNoise):
    """noisy = clean + N(0, (σ / 255)²), where values d pixels apart correlate by exp(−d² / length²).

    White noise, smoothed by a Gaussian of standard deviation length / 2 and brought to σ; each channel on its own.

    Args:
        sigma: standard deviation σ on the 0–255 scale; or a range [a, b], from which each sample draws its own.
        length: pixels, above 0, at which the correlation has fallen to 1/e; a number or a range. Below 1 the pixels of
            the grid are too far apart to show the formula, and correlate less.
    """

    properties = frozenset({"unbiased"})

    def __init__(self, *, sigma: float | Sequence[float], length: float | Sequence[float]) -> None:
        super().__init__(sigma=sigma)
        self.length = as_positive_range("length", length, "noise=gaussian is the one without correlation")
        self.radius = math.ceil(2 * self.length[1])  # four standard deviations

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        return super().generate_parameters(batch_shape) | {"length": draw(batch_shape[0], self.length)}

    def apply_transform(
        self, input: Tensor, params: Params, flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        batch, channels, height, width = input.shape
        margin = 2 * self.radius  # of the field, so that its borders are like the rest of it
        field = torch.randn(1, batch * channels, height + margin, width + margin, device=input.device)
        kernel = get_gaussian_kernel1d(margin + 1, params["length"].view(-1, 1).to(field) / 2)  # [B, K]
        kernel = (kernel / kernel.norm(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)[:, None, None]
        for weight in (kernel, kernel.mT):
            field = F.conv2d(field, weight, groups=batch * channels)
        return torch.addcmul(input, field.view_as(input).to(input), per_sample(params["sigma"], input))
