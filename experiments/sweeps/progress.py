"""What a job's files say of it while it works."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path


def read(folder: Path, quantity: str = "val/psnr") -> tuple[int, list[tuple[int, float]]]:
    """How many steps a run has logged, and the values of a quantity as (step, value)."""
    try:
        found = series(folder / "metrics.csv", ("step", quantity))
    except OSError:
        return 0, []
    steps = [int(step) for step, _ in found["step"]]
    return max(steps, default=-1) + 1, [(int(step), value) for step, value in found[quantity]]


def series(path: Path, quantities: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """Quantity → its finite values as (step, value), in a file's order."""
    found: dict[str, list[tuple[float, float]]] = {quantity: [] for quantity in quantities}
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for line in csv.DictReader(file):
            for quantity in quantities:
                try:
                    point = float(line.get("step") or "nan"), float(line.get(quantity) or "nan")
                except ValueError:  # a line that a kill cut
                    continue
                if all(map(math.isfinite, point)):
                    found[quantity].append(point)
    return found
