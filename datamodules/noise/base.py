"""What every noise is: a kornia augmentation that also knows how strong it was."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from kornia.augmentation import IntensityAugmentationBase2D
from torch import Tensor

Params = dict[str, Tensor]


class Noise(IntensityAugmentationBase2D, ABC):
    """Clean → noisy, every sample with its own parameters; shape, dtype and device kept, nothing clipped.

    A subclass draws its per-sample parameters in ``generate_parameters``, applies them in ``apply_transform`` and gives
    their strength in :meth:`level`.
    """

    def __init__(self, p: float = 1.0, **options: Any) -> None:
        super().__init__(p=p, **options)  # kornia's default p would leave half of the samples clean

    @abstractmethod
    def level(self, clean: Tensor, params: Params) -> Tensor:
        """[B, C, H, W] in [0, 1] → [B, 1, 1, 1], each sample's root-mean-square noise on the same scale."""

    def corrupt(self, clean: Tensor, params: Params | None = None) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] → noisy, same shape, and its level [B, 1, 1, 1]; drawn from PyTorch's global generators.

        Args:
            params: random draws to use, as ``forward_parameters`` returns them.
        """
        noisy = self(clean, params)
        return noisy, self.level(clean, self._params).to(clean)


def as_range(
    name: str, value: float | Sequence[float], low: float = 0, high: float = float("inf")
) -> tuple[float, float]:
    """A number, or a range [a, b] that each sample draws from → (a, b).

    Raises:
        ValueError: not one or two numbers in order, or outside ``low … high``.
    """
    ends = [float(v) for v in (value if isinstance(value, Sequence) else [value])]
    if len(ends) not in (1, 2) or ends != sorted(ends):
        raise ValueError(f"{name}={value}: give one number, or a range [a, b] with a ≤ b")
    if not low <= ends[0] <= ends[-1] <= high:
        raise ValueError(f"{name}={value}: must be from {low:g} to {high:g}")
    return ends[0], ends[-1]


def draw_uniform(batch: int, ends: tuple[float, float]) -> Tensor:
    """[B], one number from the range for each sample."""
    return torch.empty(batch).uniform_(*ends)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """[B] → [B, 1, 1, 1] on the device and in the type of ``like``."""
    return values.view(-1, 1, 1, 1).to(like)


def rms(variance: Tensor) -> Tensor:
    """[B, C, H, W], a variance per pixel → [B, 1, 1, 1], the root of each sample's mean."""
    return variance.mean(dim=(1, 2, 3), keepdim=True).sqrt()
