"""What a job's files say of it while it works."""

import csv
import math
from pathlib import Path


def read(folder: Path, quantity: str = "val/psnr") -> tuple[int, list[tuple[int, float]]]:
    """How many steps a run has logged, and the values of a quantity as (step, value)."""
    last, points = 0, []
    try:
        with (folder / "metrics.csv").open(newline="", encoding="utf-8", errors="replace") as file:
            for row in csv.DictReader(file):
                try:
                    step, value = int(row.get("step") or 0), float(row.get(quantity) or "nan")
                except ValueError:  # a line that a kill cut
                    continue
                last = max(last, step + 1)
                if math.isfinite(value):
                    points.append((step, value))
    except OSError:
        pass
    return last, points
