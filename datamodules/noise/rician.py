"""Rician noise: the magnitude of a complex signal, as magnetic resonance imaging measures it."""

import math
from typing import Any

import torch
from torch import Tensor

from datamodules.noise.base import Params, SigmaNoise, per_sample, rms

FAINTEST = 1e-6  # a σ that divides; 0 would not


def errors(brightness: Tensor) -> Tensor:
    """E(noisy − clean)² / σ² where the clean image is so many σ bright; from 2 in the dark to 1."""
    half = brightness.square() / 4
    laguerre = (1 + 2 * half) * torch.special.i0e(half) + 2 * half * torch.special.i1e(half)
    return 2 * brightness.square() + 2 - 2 * brightness * math.sqrt(math.pi / 2) * laguerre


# the Bessel functions are slow: their values at these numbers of σ, between which the level is interpolated
FARTHEST, PER_UNIT = 40, 32
ERRORS = errors(torch.linspace(0, FARTHEST, FARTHEST * PER_UNIT + 1, dtype=torch.float64))


class RicianNoise(SigmaNoise):
    """noisy = |clean + n₁ + i·n₂|, both n from N(0, (σ / 255)²): brighter than the clean image, most where it is dark.

    Gudbjartsson and Patz, "The Rician Distribution of Noisy MRI Data", Magnetic Resonance in Medicine 1995: the mean is
    σ √(π/2) L(−clean² / 2σ²), with the Laguerre function L of order one half; the mean square is clean² + 2σ².

    Args:
        sigma: standard deviation of either part on the 0–255 scale; or a range [a, b] that each sample draws from.
    """

    properties = frozenset({"independent"})

    def apply_transform(
        self, input: Tensor, params: Params, flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        sigma = per_sample(params["sigma"], input)
        real = torch.addcmul(input, torch.randn_like(input), sigma)
        return torch.hypot(real, torch.randn_like(input).mul_(sigma))

    def level(self, clean: Tensor, params: Params) -> Tensor:
        """The root of E(noisy − clean)², which holds the bias too."""
        sigma = per_sample(params["sigma"], clean).clamp(min=FAINTEST)
        place = (clean / sigma * PER_UNIT).clamp(0, FARTHEST * PER_UNIT)
        below, table = place.long().clamp(max=FARTHEST * PER_UNIT - 1), ERRORS.to(clean)
        return rms(torch.lerp(table[below], table[below + 1], place - below) * sigma.square())
