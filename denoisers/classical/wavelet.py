"""Soft thresholding of wavelet coefficients."""

from collections.abc import Mapping
from functools import partial
from typing import Literal

import numpy as np
import pywt
from skimage.restoration import cycle_spin, denoise_wavelet

from denoisers.classical.base import Classical, Sigma, Tuned, channel_axis
from denoisers.layers import require_positive


class Wavelet(Classical):
    """Soft wavelet thresholding, averaged over shifts of the image (Coifman and Donoho, 1995), by scikit-image.

    Args:
        strength: σ counts as so many times itself; or by noise level, in between which it is interpolated.
        sigma: see :class:`Classical`.
        method: BayesShrink, a threshold for each subband (Chang, Yu and Vetterli, IEEE TIP 2000); or VisuShrink, one
            for all (Donoho and Johnstone, Biometrika 1994).
        wavelet: an orthogonal one, by its name in PyWavelets.
        levels: of the transform, each at half the resolution of the one before.
        shifts: the mean is over 0 … shifts pixels in each direction, (shifts + 1)² transforms; the image wraps around.
        ycbcr: colour images in YCbCr, instead of each of their channels.
    """

    def __init__(
        self,
        *,
        strength: float | Mapping[float, float] = 1.0,
        sigma: Sigma = "given",
        method: Literal["BayesShrink", "VisuShrink"] = "BayesShrink",
        wavelet: str = "db2",
        levels: int = 4,
        shifts: int = 3,
        ycbcr: bool = True,
    ) -> None:
        super().__init__(sigma=sigma)
        require_positive(levels=levels)
        if shifts < 0:
            raise ValueError(f"shifts={shifts}: must be at least 0")
        if method not in ("BayesShrink", "VisuShrink"):
            raise ValueError(f"method={method}: must be BayesShrink or VisuShrink")
        self.strength = Tuned("strength", strength)
        self.method, self.wavelet, self.levels, self.shifts, self.ycbcr = method, wavelet, levels, shifts, ycbcr
        self.smallest = (pywt.Wavelet(wavelet).dec_len - 1) * 2**levels  # no wavelet is longer than the image

    def clean(self, image: np.ndarray, sigma: float) -> np.ndarray:
        threshold = partial(
            denoise_wavelet,
            sigma=self.strength.at(sigma) * sigma,
            wavelet=self.wavelet,
            mode="soft",
            wavelet_levels=self.levels,
            method=self.method,
            convert2ycbcr=self.ycbcr and image.ndim == 3,
            channel_axis=channel_axis(image),
        )
        return cycle_spin(image, threshold, self.shifts, workers=1, channel_axis=channel_axis(image))
