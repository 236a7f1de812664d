"""How strong the noise of a picture is, from the picture alone."""

import numpy as np

from denoisers.classical.base import estimated
from denoisers.inference import LUMA

SIDE, CUTS = 512, 4  # of the squares that a large picture is judged by, and how many there are along a side at most


def estimate_sigma(pixels: np.ndarray, limits: tuple[float, float], luminance: bool = False) -> float:
    """The standard deviation of white noise in [H, W, C], on the scale on which ``limits`` are 0 and 1.

    Of colours it is the mean over them, or, with ``luminance``, that of their luminance, which has less.

    The median over squares 512×512 of what :func:`denoisers.classical.base.estimated` finds in each: an estimate that
    fine texture raises, and noise that demosaicing or compression has smoothed lowers.
    """
    low, high = limits

    def seen(square: np.ndarray) -> np.ndarray:
        values = (square.astype(np.float64) - low) / (high - low)
        return values @ np.array(LUMA)[:, None] if luminance and values.shape[2] == 3 else values

    return float(
        np.median(
            [
                estimated(seen(pixels[rows, columns]))
                for rows in squares(pixels.shape[0])
                for columns in squares(pixels.shape[1])
            ]
        )
    )


def squares(length: int) -> list[slice]:
    """Up to four stretches of 512 pixels, evenly along a side; the whole of a shorter one."""
    count = min(CUTS, max(1, length // SIDE))
    return [slice(start, start + SIDE) for start in np.linspace(0, max(0, length - SIDE), count).astype(int)]
