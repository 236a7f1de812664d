"""The noise of pictures by their intensity: how many values there are, its mean and its variance."""

import numpy as np
from torch import Tensor

BINS = 32  # of intensity
FEWEST = 500  # values that a variance is measured from


class Moments:
    """Count, mean and variance of the noise by channel and bin of intensity, over any number of pictures."""

    def __init__(self, channels: int) -> None:
        self.sums = np.zeros((3, channels, BINS))  # of ones, of the noise, of its squares

    def add(self, noisy: Tensor, clean: Tensor) -> None:
        """Counts a pair [C, H, W] in."""
        noise = (noisy - clean).flatten(1).double().numpy()
        for channel, (where, values) in enumerate(zip(bins(clean).flatten(1).numpy(), noise, strict=True)):
            for sums, weights in zip(self.sums, (None, values, values**2), strict=True):
                sums[channel] += np.bincount(where, weights, BINS)

    @property
    def count(self) -> np.ndarray:
        """[C, BINS], how many values there are."""
        return self.sums[0]

    @property
    def variance(self) -> np.ndarray:
        """[C, BINS], about the mean of each bin; NaN where there is no value."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.sums[2] / self.sums[0] - (self.sums[1] / self.sums[0]) ** 2

    def pooled(self) -> tuple[np.ndarray, np.ndarray]:
        """Intensity and variance, over all channels, of the bins that have values enough."""
        count, variance = self.count.sum(0), np.nan_to_num(self.variance * self.count).sum(0)
        enough = count >= FEWEST
        return (np.arange(BINS) + 0.5)[enough] / BINS, variance[enough] / count[enough]


def bins(clean: Tensor) -> Tensor:
    """Which bin of intensity each value is in."""
    return (clean * BINS).long().clamp(0, BINS - 1)
