"""BM3D, by its authors' package, whose licence allows non-commercial use only."""

from typing import Any

import numpy as np

from denoisers.classical.base import Classical, Sigma

OPPONENT = np.array(
    [[1 / 3, 1 / 3, 1 / 3], [1 / 2, 0, -1 / 2], [1 / 4, -1 / 2, 1 / 4]]
)  # colours; blocks match in the first


class BM3D(Classical):
    """Block matching and collaborative filtering in 3-D (Dabov et al., IEEE TIP 2007); colour images as CBM3D.

    The PyPI package ``bm3d`` does the work. It is no part of this project: its licence allows non-commercial use only.

    Args:
        sigma: see :class:`Classical`.

    Raises:
        ValueError: the package is missing: how to get it.
    """

    smallest = 16

    def __init__(self, *, sigma: Sigma = "given") -> None:
        super().__init__(sigma=sigma)
        package()

    def clean(self, image: np.ndarray, sigma: float) -> np.ndarray:
        bm3d = package()
        profile = bm3d.BM3DProfile()  # the normal one, which gives the published values
        profile.num_threads = 1  # more would add up in another order each time
        if image.ndim == 2:
            return bm3d.bm3d(image, sigma, profile)
        # bm3d_rgb does the same after dividing by each plane's range, which is 0 where a colour picture is grey
        deviations = sigma * np.linalg.norm(OPPONENT, axis=1)
        return bm3d.bm3d(image @ OPPONENT.T, deviations, profile) @ np.linalg.inv(OPPONENT).T


def package() -> Any:
    """The package ``bm3d``.

    Raises:
        ValueError: it is missing, or cannot be imported: how to get it.
    """
    try:
        import bm3d
    except ImportError as error:
        raise ValueError(
            f"BM3D needs the package bm3d ({error}): pip install 'denoisers[bm3d]', or pip install bm3d. "
            "Mind its licence: it allows non-commercial use only"
        ) from error
    return bm3d
