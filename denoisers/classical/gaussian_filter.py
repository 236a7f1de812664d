"""The Gaussian filter."""

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from denoisers.classical.base import Classical, Sigma, Tuned


class GaussianFilter(Classical):
    """Convolution with a Gaussian that is cut off at four standard deviations; channel by channel, borders mirrored.

    Args:
        blur: the Gaussian's standard deviation in pixels; or by noise level, in between which it is interpolated.
        sigma: see :class:`Classical`; matters where the blur depends on it.
    """

    def __init__(self, *, blur: float | Mapping[float, float], sigma: Sigma = "given") -> None:
        super().__init__(sigma=sigma)
        self.blur = Tuned("blur", blur)
        self.whole = self.blur.varies  # one blur for all tiles

    def clean(self, image: np.ndarray, sigma: float) -> np.ndarray:
        return ndimage.gaussian_filter(image, self.blur.at(sigma), axes=(0, 1))
