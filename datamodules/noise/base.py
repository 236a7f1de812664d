"""What every noise is: a kornia augmentation that also knows how strong it was."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from kornia.augmentation import IntensityAugmentationBase2D
from torch import Tensor

Params = dict[str, Tensor]
Spacing = Literal["linear", "log"]


class Noise(IntensityAugmentationBase2D):
    """Clean → noisy, every sample with its own parameters; shape, dtype and device kept, nothing clipped.

    A subclass draws its per-sample parameters in ``generate_parameters``, applies them in ``apply_transform`` and gives
    their strength in :meth:`level`, where there is a formula for it.
    """

    #: what can be relied on: ``independent`` from value to value; ``unbiased``: the mean is the clean image; ``stein``:
    #: Gaussian or Poisson–Gaussian; ``gaussian``
    properties: frozenset[str] = frozenset({"independent", "unbiased"})

    def __init__(self, p: float = 1.0, **options: Any) -> None:
        super().__init__(p=p, **options)  # kornia's default p would leave half of the samples clean

    def level(self, clean: Tensor, params: Params) -> Tensor | None:
        """[B, C, H, W] in [0, 1] → each sample's root-mean-square noise on the same scale, as it is to be expected.

        [B, 1, 1, 1]; or a map [B, 1, H, W], where the noise differs from place to place by design; or None where no
        formula says it.
        """
        return None

    def line(self, params: Params) -> Tensor | None:
        """Each sample's gain and floor, [B, 2], where variance = gain · clean + floor; None of other noises."""
        return None

    def corrupt(self, clean: Tensor, params: Params | None = None) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] → noisy, same shape, and its level, which is measured where no formula says it.

        Of clips [B, T, C, H, W] every frame has a level, [B, T, 1, 1, 1] or a map. Drawn from PyTorch's global
        generators.

        Args:
            params: random draws to use, as :meth:`draws` returns them.
        """
        params = self.draws(clean.shape) if params is None else params
        frames = clean.flatten(0, -4)  # [B, C, H, W], or [B · T, C, H, W]
        noisy = self(frames, params)
        level = self.level(frames, params)
        level = rms((noisy - frames).square()) if level is None else level.to(clean)
        return noisy.view_as(clean), level.view(*clean.shape[:-3], *level.shape[1:])

    def draws(self, shape: torch.Size) -> Params:
        """Random draws for images [B, C, H, W], or for clips [B, T, C, H, W], whose frames have the same ones."""
        if len(shape) == 4:
            return self.forward_parameters(shape)
        batch, frames, *image = shape
        shared = {
            key: value.repeat_interleave(frames, 0) for key, value in self.generate_parameters((batch, *image)).items()
        }
        return self.forward_parameters((batch * frames, *image)) | shared


class SigmaNoise(Noise):
    """Noise that has a standard deviation σ, each sample its own.

    Args:
        sigma: on the 0–255 scale; or a range [a, b], from which each sample draws its own.
    """

    def __init__(self, *, sigma: float | Sequence[float]) -> None:
        super().__init__()
        self.sigma = as_range("sigma", sigma)

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        return {"sigma": draw(batch_shape[0], self.sigma) / 255}

    def level(self, clean: Tensor, params: Params) -> Tensor:
        return per_sample(params["sigma"], clean)


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


def as_positive_range(name: str, value: float | Sequence[float], why: str) -> tuple[float, float]:
    """:func:`as_range`, of numbers above 0.

    Raises:
        ValueError: likewise; ``why`` says what 0 would mean.
    """
    ends = as_range(name, value)
    if ends[0] == 0:
        raise ValueError(f"{name}={value}: must be above 0 ({why})")
    return ends


def draw(shape: int | tuple[int, ...], ends: tuple[float, float], spacing: Spacing = "linear") -> Tensor:
    """Numbers from a range, each as likely as any other; with ``log`` it is their logarithms that are."""
    if spacing == "linear":
        return torch.empty(shape).uniform_(*ends)
    low, high = torch.tensor(ends).log().tolist()
    return torch.empty(shape).uniform_(low, high).exp()


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """[B] → [B, 1, 1, 1], [B, C] → [B, C, 1, 1], on the device and in the type of ``like``."""
    return values.view(len(values), -1, 1, 1).to(like)


def rms(variance: Tensor) -> Tensor:
    """[…, C, H, W], a variance per pixel → […, 1, 1, 1], the root of each sample's mean."""
    return variance.mean(dim=(-3, -2, -1), keepdim=True).sqrt()
