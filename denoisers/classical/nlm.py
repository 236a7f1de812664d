"""Non-local means."""

from collections.abc import Mapping

import numpy as np
from skimage.restoration import denoise_nl_means

from denoisers.classical.base import Classical, Sigma, Tuned, channel_axis
from denoisers.layers import require_odd, require_positive


class NonLocalMeans(Classical):
    """Each pixel is the mean of those near it, weighted by how alike the patches around them are; by scikit-image.

    Buades, Coll and Morel, CVPR 2005, with the fast sums of Darbon et al., ISBI 2008. The patches of colour images are
    compared in all channels at once.

    Args:
        h: how fast weights fall off, in units of σ; or by noise level, in between which it is interpolated.
        sigma: see :class:`Classical`.
        patch_size: side of a patch, odd.
        patch_distance: furthest that a patch is looked for, in pixels along each axis.
    """

    def __init__(
        self,
        *,
        h: float | Mapping[float, float],
        sigma: Sigma = "given",
        patch_size: int = 5,
        patch_distance: int = 6,
    ) -> None:
        super().__init__(sigma=sigma)
        require_odd(patch_size=patch_size)
        require_positive(patch_distance=patch_distance)
        self.h = Tuned("h", h)
        self.patch_size, self.patch_distance = patch_size, patch_distance
        self.smallest = patch_size

    def clean(self, image: np.ndarray, sigma: float) -> np.ndarray:
        return denoise_nl_means(
            image,
            patch_size=self.patch_size,
            patch_distance=self.patch_distance,
            h=self.h.at(sigma) * sigma,
            fast_mode=True,
            sigma=sigma,
            channel_axis=channel_axis(image),
        )
