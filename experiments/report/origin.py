"""Where results come from: one line for each folder, the software, and the configurations."""

import os
import re
from typing import Any

from experiments.report.study import Cell, Study, Table
from experiments.report.tables import cost_cell
from experiments.sources import Source

COLUMNS = {
    "seed": "seed",
    "eval_seed": "evaluation seed",
    "steps": "steps",
    "precision": "precision",
    "wall_seconds": "wall time",
    "checkpoint": "checkpoint",
    "commit": "commit",
}


def table(study: Study) -> Table:
    """A line for each folder: what it was computed with, and when."""
    keys = [key for key in COLUMNS if any(source.summary.get(key) is not None for _, source in study.sources)]
    lines = []
    for label, source in study.sources:
        told = [fact(key, source.summary.get(key)) for key in keys]
        lines.append([Cell(label), Cell(place(study, source)), Cell(source.written or "–"), *told])
    return Table("Folders", ["method", "folder", "written", *(COLUMNS[key] for key in keys)], lines)


def fact(key: str, value: Any) -> Cell:
    """A cell of the table."""
    if value is None:
        return Cell("–")
    if key == "commit":  # as short as git shows one
        return Cell(re.sub(r"^([0-9a-f]{10})[0-9a-f]{30}", r"\1", str(value)))
    if key == "wall_seconds" or (key == "steps" and isinstance(value, int)):
        return cost_cell(value, "parameters" if key == "steps" else key)
    return Cell(line(value)[:200])


def place(study: Study, source: Source) -> str:
    """A folder as seen from the study's."""
    seen = os.path.relpath(source.folder.resolve(), study.folder.resolve())
    return source.folder.resolve().name if seen == "." else seen


def shared(study: Study) -> list[tuple[str, str, str]]:
    """Hardware and software, each with whose results they computed; nobody is named where it is everybody."""
    found = []
    for key, name in {"hardware": "hardware", "versions": "software"}.items():
        whose: dict[str, list[str]] = {}
        for label, source in study.sources:
            if source.summary.get(key):
                whose.setdefault(line(source.summary[key]), []).append(label)
        one = len(whose) == 1
        found += [(name, "" if one else ", ".join(dict.fromkeys(labels)), text) for text, labels in whose.items()]
    return found


def configurations(study: Study) -> list[tuple[str, str]]:
    """Method and folder → the text of its configuration."""
    return [(f"{label}, {place(study, source)}", source.config) for label, source in study.sources if source.config]


def line(value: Any) -> str:
    """A fact in one line."""
    return ", ".join(f"{key} {v}" for key, v in value.items()) if isinstance(value, dict) else str(value)
