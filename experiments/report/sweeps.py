"""Reads a sweep, finished or not, into a study: every cell, the effects of its axes, and its best runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import scipy.special

from experiments import effects, sources
from experiments.report import folders, tables
from experiments.report.study import Cell, Method, Study, Sweep, SweepCell, Table
from experiments.resume import key_of
from experiments.sweeps import progress
from experiments.sweeps.ledger import LEDGER, Entry, Ledger, driven, load, pids_of

SCORES = ("psnr", "ssim")
NAMES = {"psnr": "PSNR (dB)", "ssim": "SSIM"}
UNITS = {"psnr": " dB", "ssim": ""}
FINER = 1  # digits more for a difference than for a score
NOTE = (
    "Worth of a value: its score minus the mean of its block, averaged over the blocks that have all values of the "
    "axis; a block is one combination of all other axes, seeds too. ± is half the 95 % confidence interval (Student's "
    "t over blocks). p that the values are alike: paired t test for two, Friedman's for more. No interaction is shown."
)
RELOAD = 10.0  # seconds after which a page that is followed loads itself again


def is_sweep(folder: Path) -> bool:
    """Whether a folder is a sweep's."""
    return (folder / LEDGER).is_file()


def read(folder: Path, followed: bool = False) -> Study:
    """The study of a sweep's folder.

    Raises:
        UserError: its ledger, or a file of a run, is damaged.
    """
    ledger = load(folder)
    entries = sorted(ledger.entries.values(), key=lambda entry: entry.number)
    busy = driven(folder)
    cells = [cell(ledger, entry, busy) for entry in entries]
    axes = {axis: list(dict.fromkeys(one.levels[axis] for one in cells)) for axis in ledger.axes}
    metrics = sorted({key for one in cells for key in one.scores}, key=lambda key: (key[0], SCORES.index(key[1])))
    found = Sweep(axes, cells, metrics, followed=followed)
    idle = any(one.state == "waiting" for one in cells) and not busy
    description = f"{states(cells)}{'; nobody runs it at the moment' if idle else ''}."
    study = Study(folder.resolve().name, "sweep", folder, description, sweep=found)
    found.shown = [one.number for one in leaders(found)]
    study.methods = [method(one) for number in found.shown for one in cells if one.number == number]
    told = [(one.number, str(one.source.summary["warning"])) for one in cells if one.source.summary.get("warning")]
    failed = [str(one.number) for one in cells if one.state == "failed"]
    study.warnings = [f"cell {number}: {warning}" for number, warning in told]
    study.warnings += (
        [f"{len(failed)} of {len(cells)} cells failed, for the reasons in the table: {', '.join(failed)}"]
        if failed
        else []
    )
    return study


def cell(ledger: Ledger, entry: Entry, busy: bool) -> SweepCell:
    """What a cell's folder says at this moment; what nobody runs any more is no longer running."""
    folder, state = ledger.folder / str(entry.number), ledger.state_of(entry)
    if state == "running" and not busy and not pids_of(folder):
        state = "interrupted"
    typed = {key_of(word): word.partition("=")[2] for word in entry.overrides}
    levels = {axis: typed.get(axis, "–") for axis in ledger.axes}
    step, validated = progress.read(folder) if state != "waiting" else (0, [])
    source = sources.read(folder)
    wall = source.summary.get("wall_seconds")
    return SweepCell(
        entry.number,
        levels,
        state,
        entry.reason or "" if state == "failed" else "",
        step,
        validated[-1][1] if validated else None,
        means(folder) if state == "done" else {},
        wall if isinstance(wall, (int, float)) else None,
        source,
        folders.curves_of(folder, called(entry.number, levels)),
    )


def means(folder: Path) -> dict[tuple[str, str], float]:
    """Set and metric → mean over a run's rows; left out where a row has no finite value."""
    values: dict[tuple[str, str], list[Any]] = {}
    for row, _ in folders.rows(folder / "per_image.csv"):
        for metric in SCORES:
            values.setdefault((row.set, metric), []).append(row.scores.get(metric))
    whole = {key: of for key, of in values.items() if all(isinstance(v, float) and abs(v) < float("inf") for v in of)}
    return {key: sum(of) / len(of) for key, of in whole.items()}


def leaders(found: Sweep) -> list[SweepCell]:
    """The best cell, and the best under each value of an axis, seeds aside, by PSNR on the first set; best first."""
    if not found.metrics:
        return []
    key = found.metrics[0]
    ranked = sorted((one for one in found.cells if key in one.scores), key=lambda one: one.scores[key], reverse=True)
    places = [(axis, level) for axis, levels in found.axes.items() if axis != effects.SEED for level in levels]
    firsts = [next((one for one in ranked if one.levels[axis] == level), None) for axis, level in places]
    return [one for one in ranked if one is ranked[0] or any(one is first for first in firsts)]


def method(one: SweepCell) -> Method:
    """A cell as what the page's pictures and scores of each image are of."""
    rows = [row for row, _ in folders.rows(one.source.folder / "per_image.csv", one.source.seed)]
    return Method(called(one.number, one.levels), seeds=[one.source.seed], rows=rows, sources=[one.source])


def called(number: int, levels: Mapping[str, str]) -> str:
    """``12: swift l1 cosine_warmup seed 0``."""
    return f"{number}: {' '.join(f'seed {v}' if axis == effects.SEED else v for axis, v in levels.items())}"


def states(cells: Sequence[SweepCell]) -> str:
    """``36 cells: 34 done, 1 running, 1 failed``."""
    counts: dict[str, int] = {}
    for one in cells:
        counts[one.state] = counts.get(one.state, 0) + 1
    return f"{len(cells)} cells: {', '.join(f'{number} {state}' for state, number in counts.items())}"


# --- tables -----------------------------------------------------------------------------------------------------------


def table(found: Sweep) -> Table:
    """A line for each cell, finished or not."""
    heads = [f"{NAMES[metric]} on {name}" if several(found) else NAMES[metric] for name, metric in found.metrics]
    reasons = any(one.reason for one in found.cells)
    lines = []
    for one in found.cells:
        scored = [tables.score_cell(one.scores.get(key), key[1]) for key in found.metrics]
        line = [Cell(str(one.number), one.number), *(tables.given_cell(level) for level in one.levels.values())]
        line += [Cell(one.state), Cell(f"{one.step:,}", one.step) if one.step else tables.NONE]
        line += [tables.score_cell(one.val_psnr, "psnr"), *scored, tables.cost_cell(one.seconds, "wall_seconds")]
        lines.append(line + [Cell(one.reason or "–")] * reasons)
    columns = ["cell", *found.axes, "state", "step", "validation PSNR (dB)", *heads, "time"]
    first = len(columns) - 1 - len(heads)
    for number, _ in enumerate(heads, first):
        tables.mark_best(lines, number)
    return Table("Cells", columns + ["reason"] * reasons, lines, "Means over the test images; time is the whole run's.")


def several(found: Sweep) -> bool:
    """Whether there are several test sets."""
    return len({name for name, _ in found.metrics}) > 1


def title(found: Sweep, key: tuple[str, str]) -> str:
    """``PSNR (dB) on Set12``."""
    return f"{NAMES[key[1]]} on {key[0]}"


def axes_of(found: Sweep, key: tuple[str, str]) -> list[effects.Axis]:
    """The effects of the axes on a metric of a set."""
    scores = [one.scores.get(key) for one in found.cells]
    return effects.effects([one.levels for one in found.cells], scores, list(found.axes))


def sentence(found: Sweep, key: tuple[str, str]) -> str:
    """Which axis matters most, and how much seeds do."""
    scores = [one.scores.get(key) for one in found.cells]
    spread = effects.spread_between_seeds([one.levels for one in found.cells], scores)
    known = axes_of(found, key)
    missing = {axis for axis, levels in found.axes.items() if len(levels) > 1} - {axis.name for axis in known}
    said = effects.sentence(known, spread, UNITS[key[1]], tables.DIGITS[key[1]] + FINER)
    return said + (f" No block is complete yet for {' and '.join(sorted(missing))}." if known and missing else "")


def effects_table(found: Sweep, key: tuple[str, str]) -> Table:
    """What each value of each axis is worth; empty as long as no block is complete."""
    digits = tables.DIGITS[key[1]] + FINER
    lines = []
    for axis in axes_of(found, key):
        best = max(level.effect for level in axis.levels)
        for level in axis.levels:
            half = "" if level.ci95 is None else f" ± {level.ci95:.{digits}f}"
            text = f"{level.effect:+.{digits}f}{half}".replace("-", "−")
            worth = Cell(text, level.effect, best=level.effect == best and axis.name != effects.SEED)
            blocks = Cell(f"{axis.blocks} of {axis.blocks + axis.incomplete}", axis.blocks)
            p = tables.NONE if axis.p is None else Cell(f"{axis.p:.2g}", axis.p)
            span = Cell(f"{axis.range:.{digits}f}", axis.range)
            lines.append([Cell(axis.name), Cell(level.name), worth, span, p, blocks])
    columns = ["axis", "value", f"worth{UNITS[key[1]] and ' (dB)'}", "range of the axis", "p", "complete blocks"]
    return Table(f"Effects on {title(found, key)}", columns, lines, NOTE)


def all_effects(found: Sweep) -> list[tuple[str, Table]]:
    """Of each metric of each set: the sentence and the table."""
    return [(sentence(found, key), effects_table(found, key)) for key in found.metrics]


# --- the page ---------------------------------------------------------------------------------------------------------


def facts(found: Sweep) -> dict[str, Any]:
    """What the page's script draws from; ``quantiles`` are those of Student's t, 97.5 %, by degrees of freedom."""
    return {
        "axes": found.axes,
        "metrics": [
            {"title": title(found, key), "unit": UNITS[key[1]], "digits": tables.DIGITS[key[1]]}
            for key in found.metrics
        ],
        "cells": [
            {
                "number": one.number,
                "levels": list(one.levels.values()),
                "state": one.state,
                "scores": [one.scores.get(key) for key in found.metrics],
                "method": found.shown.index(one.number) if one.number in found.shown else None,
            }
            for one in found.cells
        ],
        "quantiles": [float(scipy.special.stdtrit(n, 0.975)) for n in range(1, len(found.cells))],
        "reload": 1000 * RELOAD if found.followed else None,
    }
