"""Gain and read noise from one noisy picture: the line of its noise's variance over its brightness."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.images import DataError

BLOCK = 16  # side of the blocks in which brightness and variance are measured
BINS = 24  # of brightness, each with as many blocks
FEWEST = 4  # blocks in a bin
SATURATED = 0.02  # share of white values above which a block is left out
DETAIL = torch.tensor([[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]]) / 6  # keeps the variance of white noise, no plane
ROUNDS = 20  # of the fit, whose weights follow from its line


@dataclass(frozen=True)
class Line:
    """variance = gain · brightness + floor, and what it was fitted to.

    Args:
        gain: brightness of one photon on the [0, 1] scale.
        floor: if positive, the variance of the read noise; if negative, the picture has a black level.
        brightness, variance: of each bin.
    """

    gain: float
    floor: float
    brightness: np.ndarray
    variance: np.ndarray

    @property
    def read(self) -> float:
        """Standard deviation of the read noise on the 0–255 scale."""
        return 255 * max(self.floor, 0.0) ** 0.5

    @property
    def black(self) -> float:
        """The brightness, on the [0, 1] scale, at which there is no photon."""
        return max(-self.floor, 0.0) / self.gain if self.gain else 0.0


def estimate(noisy: Tensor) -> Line:
    """The line of a noisy picture, [C, H, W] in [0, 1]; the channels share one.

    Blocks are put in order of their mean; in each bin of them the median of the variances of what the second difference
    Δ²x Δ²y leaves is taken, which the fewer blocks with edges and texture do not move. The line is fitted to these by
    least squares, weighted by what their spread must be. After Immerkær, "Fast Noise
    Variance Estimation", CVIU 1996, and Foi et al., "Practical Poissonian-Gaussian Noise Modeling and Fitting", IEEE
    TIP 2008; white noise is assumed: what demosaicing or compression smoothed is underestimated.

    Raises:
        DataError: the picture is too small, or of one brightness alone.
    """
    means, variances, white = blocks(noisy)
    kept = white <= SATURATED
    means, variances = means[kept], variances[kept]
    bins = min(BINS, len(means) // FEWEST)
    if bins < 3:
        raise DataError(
            f"{len(means)} blocks of {BLOCK}×{BLOCK} pixels that are not white: too few, give a larger picture"
        )
    parts = np.array_split(np.argsort(means, kind="stable"), bins)
    brightness = np.array([means[part].mean() for part in parts])
    variance = np.array([np.median(variances[part]) for part in parts]) / median_of_blocks()
    if np.ptp(brightness) < 1e-3:
        raise DataError("the picture is of one brightness alone: gain and read noise cannot be told apart")
    return fit(brightness, variance)


def blocks(noisy: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each block and channel: its mean, the variance of its detail, and its share of white values."""
    planes = noisy[:, None].float()  # [C, 1, H, W]
    detail = F.conv2d(planes, DETAIL[None, None])
    inner = planes[..., 1:-1, 1:-1]  # where there is detail
    found = [F.avg_pool2d(values, BLOCK) for values in (inner, detail.square(), (inner >= 1).float())]
    mean, variance, white = (values.flatten().double().numpy() for values in found)
    return mean, variance, white


def median_of_blocks() -> float:
    """The median of blocks' variances over their mean, for white Gaussian noise of variance 1."""
    field = torch.randn(1, 1, 1026, 1026, generator=torch.Generator().manual_seed(0))
    return float(np.median(blocks(field[0])[1]))


def fit(brightness: np.ndarray, variance: np.ndarray) -> Line:
    """The line through variances whose spread is proportional to them; it does not fall."""
    expected = np.maximum(variance, 1e-9)
    for _ in range(ROUNDS):
        slope, floor = np.polyfit(brightness, variance, 1, w=1 / expected)
        if slope < 0:
            slope, floor = 0.0, np.average(variance, weights=expected**-2.0)
        expected = np.maximum(slope * brightness + floor, 0.1 * variance.min() + 1e-9)
    return Line(float(slope), float(floor), brightness, variance)
