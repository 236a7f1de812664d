"""What the classical methods share: a batch as single images, how strong their noise is, and values tuned for that."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from skimage.restoration import estimate_sigma
from torch import Tensor, nn

FAINTEST = 0.01 / 255  # σ is taken to be at least this, for methods divide by it
Sigma = Literal["given", "estimated"] | float


class Tuned:
    """A method's parameter: one number, or a mapping from noise levels σ, on the 0–255 scale, to numbers.

    Raises:
        ValueError: not a positive number, or a mapping that is empty or holds another than positive numbers.
    """

    def __init__(self, name: str, value: float | Mapping[float, float]) -> None:
        pairs = value.items() if isinstance(value, Mapping) else [(0, value)]
        try:
            self.table = dict(sorted((float(sigma), number) for sigma, number in pairs))
            valid = bool(self.table) and min(self.table.values()) > 0 and min(self.table) >= 0
        except (TypeError, ValueError):
            valid = False
        if not valid:
            raise ValueError(f"{name}={value}: must be a positive number, or a mapping {{σ: number, …}} of such")
        self.varies = isinstance(value, Mapping)

    def at(self, sigma: float) -> float:
        """The value for noise of standard deviation σ (on the [0, 1] scale): linear between the neighbouring levels."""
        return float(np.interp(sigma * 255, list(self.table), list(self.table.values())))

    def nearest(self, sigma: float) -> float:
        """The value of the level that is nearest to σ (on the [0, 1] scale)."""
        return self.table[min(self.table, key=lambda level: abs(level - sigma * 255))]


class Classical(nn.Module, ABC):
    """A method with nothing to train, with the face of a network; each image by itself, in float64 on the CPU.

    A subclass says in :meth:`clean` what becomes of one image.

    Args:
        sigma: the standard deviation of the noise. ``given``: the sample's level, of a map its root mean square; where
            there is no level, and with ``estimated``, it is estimated from the image. Or a number, on the 0–255 scale.
    """

    whole = True  # what becomes of a pixel may depend on the whole picture, which must not be cut into tiles
    smallest = 1  # shortest side that the method takes; smaller images are mirrored up to it

    def __init__(self, *, sigma: Sigma = "given") -> None:
        super().__init__()
        if isinstance(sigma, str) and sigma not in ("given", "estimated"):
            raise ValueError(f"sigma={sigma}: must be given, estimated or a number on the 0–255 scale")
        if not isinstance(sigma, str) and not sigma >= 0:
            raise ValueError(f"sigma={sigma}: must be at least 0")
        self.sigma = sigma

    @abstractmethod
    def clean(self, image: np.ndarray, sigma: float) -> np.ndarray:
        """[H, W] or [H, W, 3] with noise of standard deviation σ > 0, both on the [0, 1] scale → estimate."""

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """[B, C, H, W] and its noise level [B, 1, 1, 1] or [B, 1, H, W] → the clean estimate, [B, C, H, W]."""
        levels = [None] * len(noisy) if level is None else level
        return torch.stack([self._estimate(sample, own) for sample, own in zip(noisy, levels, strict=True)])

    def noise(self, sample: Tensor, level: Tensor | None) -> float:
        """The standard deviation σ of a sample's noise, on the [0, 1] scale: [C, H, W], [1, …] → σ > 0."""
        if not isinstance(self.sigma, str):
            return max(self.sigma / 255, FAINTEST)
        if self.sigma == "given" and level is not None:
            return max(level.double().square().mean().sqrt().item(), FAINTEST)
        return max(estimated(to_image(sample)), FAINTEST)

    def _estimate(self, sample: Tensor, level: Tensor | None) -> Tensor:
        sigma, image = self.noise(sample, level), to_image(sample)
        height, width, channels = image.shape
        missing = [(0, max(0, self.smallest - side)) for side in (height, width)]
        image = np.pad(image, [*missing, (0, 0)], mode="symmetric")  # a copy in any case: the input stays untouched
        estimate = self.clean(image[..., 0] if channels == 1 else image, sigma).reshape(image.shape)
        return torch.from_numpy(estimate[:height, :width].copy()).permute(2, 0, 1).to(sample)


def to_image(sample: Tensor) -> np.ndarray:
    """[C, H, W] → float64 [H, W, C]."""
    return sample.detach().permute(1, 2, 0).double().cpu().numpy()


def channel_axis(image: np.ndarray) -> int | None:
    """Where scikit-image finds the channels of [H, W] or [H, W, C]."""
    return -1 if image.ndim == 3 else None


def estimated(image: np.ndarray) -> float:
    """σ of white noise in [H, W, C], the mean over channels; 0 where the image is too plain to tell.

    From the median magnitude of the finest diagonal wavelet coefficients (Donoho and Johnstone, Biometrika 1994).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a median of nothing, and that a row of pixels may be channels
        return float(np.nan_to_num(estimate_sigma(image, average_sigmas=True, channel_axis=-1)))
