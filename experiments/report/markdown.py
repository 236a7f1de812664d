"""Renders a study as Markdown, with links to the picture strips."""

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from experiments.report import origin, scores, sweeps, tables
from experiments.report.scores import METRICS, Case
from experiments.report.study import Cell, Row, Study, Table

SPECIAL = str.maketrans(
    {character: f"\\{character}" for character in "\\`*_[]|#~"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
)


def render(study: Study, output: Path) -> str:
    """The same as the page, in tables; links are relative to the folder that it is written to."""
    cases = scores.cases(study.methods)
    groups = tables.by_condition(cases)
    parts = [f"# {escaped(study.title)}"]
    if study.description:
        parts.append(escaped(study.description))
    warnings = study.warnings + scores.different_noise(study.methods, cases)
    parts += [f"> **Warning:** {escaped(warning)}" for warning in warnings]
    if groups:
        lines = [f"- {escaped(str(condition))}, {len(group)} images" for condition, group in groups.items()]
        parts += ["\n".join(["Every number holds under its protocol:", "", *lines]), "## Results"]
    if study.sweep:
        parts += table(sweeps.table(study.sweep))
        for said, effects in sweeps.all_effects(study.sweep):
            parts += [*table(effects), escaped(said)]
    elif (overview := tables.overview(study.methods, cases)) is not None:
        parts += table(overview)
    for condition, group in [] if study.sweep else groups.items():
        parts += table(tables.results(study.methods, condition, group))
    for given in study.tables:
        parts += table(given)
    for title, path in study.figures:
        parts.append(f"![{escaped(title)}]({link(path, output)})")
    metrics = [metric for metric in METRICS if scores.known(cases, metric)]
    if metrics:
        parts.append("## Every image")
    for metric in metrics:
        shown = tables.per_image(study.methods, cases, metric)
        if metric == metrics[0] and any(strips(case, output) for case in cases):
            shown.columns.append("strips")
        parts += table(shown, [strips(case, output) for case in cases] if "strips" in shown.columns[-1:] else None)
    parts.append("## Provenance")
    parts += [f"{key}: {escaped(value)}" for key, value in study.facts.items()]
    parts += table(origin.table(study))
    parts += [
        f"{name}{escaped(f' ({whose})' if whose else '')}: {escaped(said)}"
        for name, whose, said in origin.shared(study)
    ]
    return "\n\n".join(parts) + "\n"


def table(shown: Table, last: Sequence[str] | None = None) -> list[str]:
    """A table with its title and note; numbers to the right, the best of a column bold, ``last`` as its last column."""
    if not shown.rows:
        return []
    numeric = [any(cell.value is not None for cell in column) for column in zip(*shown.rows, strict=True)]
    marks = ["---:" if right else "---" for right in numeric] + ["---"] * (last is not None)
    lines = [line([escaped(column) for column in shown.columns]), line(marks)]
    for number, cells in enumerate(shown.rows):
        lines.append(line([*map(text, cells), *([] if last is None else [last[number]])]))
    return [f"### {escaped(shown.title)}", *([escaped(shown.note)] if shown.note else []), "\n".join(lines)]


def line(cells: Sequence[str]) -> str:
    """A table's line."""
    return f"| {' | '.join(cells)} |"


def text(cell: Cell) -> str:
    """A cell's text."""
    return f"**{escaped(cell.text)}**" if cell.best else escaped(cell.text)


def strips(case: Case, output: Path) -> str:
    """Links to the strips of an image, one for each folder that has one."""
    paths = dict.fromkeys(path for rows in case.rows.values() for row in rows if (path := strip(row)) is not None)
    return " ".join(f"[{number}]({link(path, output)})" for number, path in enumerate(paths, 1))


def strip(row: Row) -> Path | None:
    """A row's picture strip; a run may have it in place of the image's folder."""
    places = (row.pictures / "strip.png", row.pictures.with_name(f"{row.pictures.name}.png"))
    return next((path for path in places if path.is_file()), None)


def link(path: Path, output: Path) -> str:
    """A file as seen from the folder of the report."""
    return quote(os.path.relpath(path.resolve(), output.resolve()))


def escaped(value: str) -> str:
    """Text that Markdown shows as it is."""
    return " ".join(value.split()).translate(SPECIAL)
