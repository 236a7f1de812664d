"""The report's own tables: results under each condition with their cost, an overview, and every image."""

import math
import re
from collections.abc import Sequence
from typing import Any

from experiments.report.scores import (
    LESS_IS_BETTER,
    METRICS,
    Case,
    Condition,
    baselines,
    known,
    mean,
    spread,
)
from experiments.report.study import Cell, Method, Score, Table

DIGITS = {"psnr": 2, "ssim": 4, "lpips": 4, "seconds": 3}
COST_COLUMNS = {
    "parameters": "parameters",
    "macs": "MACs",
    "cpu_ms": "CPU ms",
    "gpu_ms": "GPU ms",
    "peak_mb": "peak MB",
    "train_seconds": "training",
    "wall_seconds": "whole run",
    "size_mb": "size MB",
}
NONE = Cell("–")
NUMBER = re.compile(r"\s*[-+−]?(\d[\d,]*(\.\d*)?|\.\d+)([eE][-+]?\d+)?|\s*[-+−]?(inf|∞)")


def by_condition(cases: Sequence[Case]) -> dict[Condition, list[Case]]:
    """Condition → its cases."""
    groups: dict[Condition, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.condition, []).append(case)
    return groups


def results(methods: Sequence[Method], condition: Condition, cases: Sequence[Case]) -> Table:
    """Mean scores of every method under one condition, and what each costs."""
    present = list(dict.fromkeys(m for case in cases for m in case.rows))
    metrics = [metric for metric in METRICS if known(cases, metric)]
    costs = [key for key in COST_COLUMNS if any(methods[m].costs.get(key) is not None for m in present)]
    trained = any(methods[m].trained for m in present)
    lines, several = [], False
    for name in baselines(cases):
        count = sum(isinstance(c.baseline(f"{name}_psnr"), float) for c in cases)
        scored = [score_cell(mean(c.baseline(f"{name}_{metric}") for c in cases), metric) for metric in metrics]
        if count:
            lines.append([Cell(name), *scored, Cell(str(count), count), *[NONE] * trained, *[NONE] * len(costs)])
    for m in present:
        values = {metric: mean(c.score(m, metric) for c in cases) for metric in metrics}
        spreads = {metric: spread(cases, m, metric) if metric != "seconds" else None for metric in metrics}
        several |= any(spreads.values())
        count = sum(isinstance(c.score(m, "psnr"), float) for c in cases) or sum(m in c.rows for c in cases)
        n = f"{count} of {len(cases)}" if count < len(cases) else str(count)
        scored = [score_cell(values[metric], metric, spreads[metric]) for metric in metrics]
        line = [Cell(methods[m].label), *scored, Cell(n, count), *[Cell(methods[m].trained or "–")] * trained]
        lines.append(line + [cost_cell(methods[m].costs.get(key), key) for key in costs])
    columns = ["method", *(METRICS[k] for k in metrics), "images", *["trained with"] * trained]
    whole = [line for line in lines if line[1 + len(metrics)].value == len(cases)]
    for number, metric in enumerate(metrics, 1):
        mark_best(whole, number, least=metric in LESS_IS_BETTER)
    return Table(str(condition), [*columns, *(COST_COLUMNS[k] for k in costs)], lines, note(metrics, several, costs))


def note(metrics: Sequence[str], several: bool, costs: Sequence[str]) -> str:
    """What a reader of a results table has to know."""
    parts = ["Means over the images."] if "psnr" in metrics else ["No reference: pictures and timings, no PSNR."]
    if several:
        parts.append(
            "± is the standard deviation over a method's trainings (seeds) or, where there is one, noise realisations."
        )
    if "seconds" in metrics:
        parts.append("Seconds are those of one image.")
    if any(key in costs for key in ("macs", "cpu_ms", "gpu_ms")):
        parts.append("MACs and milliseconds are for one 256×256 image, times on the hardware under Provenance.")
    return " ".join(parts)


def overview(methods: Sequence[Method], cases: Sequence[Case]) -> Table | None:
    """Mean PSNR of every method under every condition; None where there is only one, or no PSNR."""
    groups = by_condition(cases)
    if len(groups) < 2 or not known(cases, "psnr"):
        return None
    lines = []
    for name in baselines(cases):
        means = [mean(c.baseline(f"{name}_psnr") for c in group) for group in groups.values()]
        lines.append([Cell(name), *(score_cell(value, "psnr") for value in means)])
    for m, method in enumerate(methods):
        scores = [score_cell(mean(c.score(m, "psnr") for c in group), "psnr") for group in groups.values()]
        lines.append([Cell(method.label), *scores])
    for number in range(1, len(groups) + 1):
        mark_best(lines, number)
    columns = ["method", *(f"{c.set} {c.noisy}, {c.protocol}" for c in groups)]
    return Table("Mean PSNR (dB)", columns, lines)


def per_image(methods: Sequence[Method], cases: Sequence[Case], metric: str) -> Table:
    """One metric of every image under every method, the baselines first."""
    names = baselines(cases)
    present = [m for m in range(len(methods)) if any(m in case.rows for case in cases)]
    wheres = [(case.condition.set, case.condition.noisy, case.condition.protocol) for case in cases]
    told = [place for place in range(3) if len({where[place] for where in wheres}) > 1]
    lines = []
    for case, where in zip(cases, wheres, strict=True):
        scores = [case.baseline(f"{name}_{metric}") for name in names] + [case.score(m, metric) for m in present]
        cells = [score_cell(value, metric) for value in scores]
        lines.append([Cell(case.image), *(Cell(where[place]) for place in told), *cells])
    heads = ("set", "noise", "protocol")
    columns = ["image", *(heads[place] for place in told), *names, *(methods[m].label for m in present)]
    same = [f"{heads[place]} {wheres[0][place] or 'not stated'}" for place in range(3) if place not in told]
    return Table(METRICS[metric], columns, lines, f"All with {', '.join(same)}." if same else "")


def score_cell(value: Score, metric: str, deviation: float | None = None) -> Cell:
    """``29.48 ± 0.03``; a reason in place of a number as it is."""
    if value is None or isinstance(value, str):
        return Cell(value or "–")
    if math.isinf(value):
        return Cell("∞", value)
    text = f"{value:.{DIGITS[metric]}f}"
    return Cell(text if deviation is None else f"{text} ± {deviation:.{DIGITS[metric]}f}", value)


def cost_cell(value: Score, key: str) -> Cell:
    """``555,137``, ``36.4 G``, ``2.5 min``."""
    if value is None or isinstance(value, str):
        return Cell(value or "–")
    if key in ("train_seconds", "wall_seconds"):
        unit, size = next(((u, s) for u, s in (("h", 3600), ("min", 60)) if value >= s), ("s", 1))
        return Cell(f"{value / size:.1f} {unit}", value)
    if key == "macs":
        prefix, scale = next(((u, s) for u, s in ((" G", 1e9), (" M", 1e6)) if value >= s), ("", 1.0))
        return Cell(f"{value / scale:.3g}{prefix}", value)
    return Cell(f"{value:,.0f}" if key == "parameters" or value >= 100 else f"{value:.3g}", value)


def given_cell(value: Any) -> Cell:
    """A cell of a table that is already made: numbers to four digits, texts as they are, sorted by their number."""
    if value is None:
        return Cell("–")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        found = NUMBER.match(str(value))
        number = found.group().strip().replace(",", "").replace("−", "-").replace("∞", "inf") if found else None
        return Cell(str(value), float(number) if number else None)
    if value != value:
        return Cell("–")
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
    return Cell(text.replace("inf", "∞"), float(value))


def mark_best(lines: list[list[Cell]], column: int, least: bool = False) -> None:
    """Marks the best of a column and what equals it; nothing where only one line has a value."""
    given = [value for line in lines if (value := line[column].value) is not None]
    if len(given) < 2:
        return
    best = min(given) if least else max(given)
    for line in lines:
        if line[column].value == best:
            line[column] = Cell(line[column].text, best, best=True)
