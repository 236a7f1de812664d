"""Training curves of a run's ``metrics.csv``, thin enough for a page."""

import itertools
from pathlib import Path

from experiments.sweeps.progress import series

POINTS = 240  # of a line
QUANTITIES = ("train/loss", "train/psnr", "val/psnr", "val/ssim")


def read(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Quantity → steps and values; a longer series is cut into equal parts and each part shown by its mean."""
    return {quantity: thinned(points) for quantity, points in series(path, QUANTITIES).items() if points}


def thinned(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """At most POINTS points: the means of parts that are equally long."""
    parts = min(POINTS, len(points))
    bounds = [len(points) * part // parts for part in range(parts + 1)]
    steps: list[float] = []
    values: list[float] = []
    for begin, end in itertools.pairwise(bounds):
        steps.append(round(sum(step for step, _ in points[begin:end]) / (end - begin)))
        values.append(float(f"{sum(value for _, value in points[begin:end]) / (end - begin):.6g}"))
    return steps, values
