"""The mean filter."""

from collections.abc import Mapping

import numpy as np
from scipy.ndimage import uniform_filter

from denoisers.classical.base import Classical, Sigma, Tuned
from denoisers.layers import require_odd


class Mean(Classical):
    """The mean of each k×k window, channel by channel; borders are mirrored.

    Args:
        kernel_size: side k, odd; or by noise level, of which the nearest counts.
        sigma: see :class:`Classical`; matters where k depends on it.
    """

    def __init__(self, *, kernel_size: int | Mapping[float, int], sigma: Sigma = "given") -> None:
        super().__init__(sigma=sigma)
        self.kernel_size = Tuned("kernel_size", kernel_size)
        for size in self.kernel_size.table.values():
            require_odd(kernel_size=int(size))
        self.whole = self.kernel_size.varies  # one size for all tiles

    def clean(self, image: np.ndarray, sigma: float) -> np.ndarray:
        return uniform_filter(image, int(self.kernel_size.nearest(sigma)), axes=(0, 1))
