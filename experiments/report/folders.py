"""Reads a run, an evaluation, a comparison or a folder of them into one study."""

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments import sources
from experiments.cli import UserError
from experiments.report import curves, tables
from experiments.report.origin import line
from experiments.report.study import Curve, Method, Row, Score, Study, Table
from experiments.sources import Source

TEXTS = ("image", "set", "noise", "protocol", "level", "realisation", "method", "model", "trained", "seed", "folder")
COSTS = ("parameters", "macs", "cpu_ms", "gpu_ms", "peak_mb", "train_seconds", "size_mb")
LOOKED_FOR = (
    "a training run (config.yaml with summary.json, per_image.csv or metrics.csv), an evaluation (summary.json of kind "
    "evaluation, per_image.csv), a comparison (comparison.json, per_image.csv), a sweep (ledger.json), or a folder "
    "with some of these in it"
)


def read(path: Path) -> Study:
    """The study of a folder.

    Raises:
        UserError: nothing that can be reported on is there, or a file of it is damaged.
    """
    if not path.is_dir():
        raise UserError(f"path={path}: there is no such folder; looked for {LOOKED_FOR}")
    found = [path] if is_result(path) else list(results_below(path))
    if not found:
        raise UserError(f"path={path}: nothing to report on; looked for {LOOKED_FOR}")
    comparisons = [folder for folder in found if is_comparison(folder)]
    if comparisons and len(found) == 1:
        return comparison(found[0])
    singles = [sources.read(folder) for folder in found if folder not in comparisons]
    one = found == [path]
    study = Study(title=path.resolve().name, kind=singles[0].kind if one else "collection", folder=path)
    if one:
        study.title = str(singles[0].summary.get("name") or study.title)
    study.methods = methods(singles)
    for folder in comparisons:
        part, seen = comparison(folder), {source.folder.resolve() for source in singles}
        study.methods += [m for m in part.methods if not seen & {s.folder.resolve() for s in m.sources}]
        study.tables += part.tables
        study.figures += part.figures
    warn(study)
    return study


def is_comparison(folder: Path) -> bool:
    """Whether a folder is a comparison."""
    return (folder / "comparison.json").is_file()


def is_result(folder: Path) -> bool:
    """Whether a folder is itself a run, an evaluation or a comparison."""
    if is_comparison(folder) or (folder / "summary.json").is_file():
        return True
    return (folder / "config.yaml").is_file() and any((folder / n).is_file() for n in ("per_image.csv", "metrics.csv"))


def results_below(path: Path) -> Iterator[Path]:
    """The results in a folder; what lies inside a result belongs to it."""
    inside: list[Path] = []
    for folder in sources.below(path, []):
        if is_result(folder) and not any(folder.is_relative_to(result) for result in inside):
            inside.append(folder)
            yield folder


# --- runs and evaluations ---------------------------------------------------------------------------------------------


def methods(singles: Sequence[Source]) -> list[Method]:
    """What the runs and evaluations are of: those that differ but in seed or in what was evaluated are one method."""
    found: dict[str, Method] = {}
    for label, source in zip(sources.labels(singles), singles, strict=True):
        method = found.setdefault(label, Method(label, trained=source.attributes.get("trained", "")))
        method.sources.append(source)
        method.seeds += [source.seed] if source.seed is not None and source.seed not in method.seeds else []
        of_others = {place(row) for row in method.rows if row.seed == source.seed}
        method.rows += [
            row for row, _ in rows(source.folder / "per_image.csv", source.seed) if place(row) not in of_others
        ]
        method.costs.setdefault("parameters", source.summary.get("parameters"))
        if source.run and source.run not in [curve.run for curve in method.curves]:
            method.curves += curves_of(source.run, label)
    for label, method in found.items():
        walls = [source.summary.get("wall_seconds") for source in method.sources if source.kind == "run"]
        if known := [wall for wall in walls if isinstance(wall, (int, float))]:
            method.costs["wall_seconds"] = sum(known) / len(known)
        seeds = {source.run: source.seed for source in method.sources}
        for curve in method.curves if len(method.curves) > 1 else []:
            curve.label = f"{label}, seed {seeds[curve.run]}"
    return list(found.values())


def place(row: Row) -> tuple[Any, ...]:
    """What a row is of."""
    return row.image, row.set, row.noise, row.level, row.protocol, row.realisation


def curves_of(run: Path, label: str) -> list[Curve]:
    """The training curves in a run's folder, none if there are none."""
    series = curves.read(run / "metrics.csv") if (run / "metrics.csv").is_file() else {}
    return [Curve(label, series, run)] if series else []


# --- a comparison -----------------------------------------------------------------------------------------------------


def comparison(folder: Path) -> Study:
    """A comparison's folder as a study."""
    facts = sources.load_json(folder / "comparison.json")
    if not isinstance(facts, dict) or not isinstance(facts.get("methods"), list):
        raise UserError(f"{folder / 'comparison.json'} is no comparison: it has no list of methods")
    study = Study(
        title=str(facts.get("title") or folder.resolve().name),
        kind="comparison",
        folder=folder,
        description=str(facts.get("description") or ""),
        warnings=[str(warning) for warning in facts.get("warnings") or []],
        facts={key: line(facts[key]) for key in ("hardware", "versions", "commit") if facts.get(key)},
    )
    by_label: dict[str, Method] = {}
    for told in facts["methods"]:
        label = str(told.get("method"))
        method = Method(label, trained=str(told.get("trained") or ""), seeds=list(told.get("seeds") or []))
        method.costs = {key: told.get(key) for key in COSTS}
        places = [folder / place for place in told.get("folders") or []]
        method.sources = [sources.read(place) for place in places if place.is_dir()]
        runs = [folder / told["run"]] if told.get("run") else [source.run for source in method.sources if source.run]
        for number, run in enumerate(dict.fromkeys(runs)):
            method.curves += curves_of(run, label if number == 0 else f"{label} ({number + 1})")
        gone = [place for place in places if not place.is_dir()]
        study.warnings += [f"{label}: {place} is gone, and with it its pictures" for place in gone]
        by_label[label] = method
    for row, written in rows(folder / "per_image.csv"):
        by_label.setdefault(written["method"], Method(written["method"])).rows.append(row)
    study.methods = list(by_label.values())
    try:
        for table in facts.get("tables") or []:
            lines = [[tables.given_cell(value) for value in line] for line in table["rows"]]
            columns = [str(column) for column in table["columns"]]
            study.tables.append(Table(str(table.get("title") or ""), columns, lines, str(table.get("note") or "")))
        for figure in facts.get("figures") or []:
            study.figures.append((str(figure.get("title") or figure["file"]), folder / figure["file"]))
    except KeyError as error:
        raise UserError(f"{folder / 'comparison.json'}: a table or figure has no {error}") from error
    warn(study)
    return study


# --- files ------------------------------------------------------------------------------------------------------------


def rows(path: Path, seed: Any = None) -> Iterator[tuple[Row, dict[str, str]]]:
    """The rows of a ``per_image.csv``, each with its line as it is written; none if there is no such file."""
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(file)
        if missing := {"image", "set"} - set(reader.fieldnames or []):
            raise UserError(f"{path} has no column {' and '.join(sorted(missing))}")
        for line in reader:
            scores = {key: score(text) for key, text in line.items() if key not in TEXTS}
            level = score(line.get("level"))
            told = {key: line.get(key) or "" for key in TEXTS}
            row = Row(
                image=told["image"],
                set=told["set"],
                noise=told["noise"],
                protocol=told["protocol"],
                level=level if isinstance(level, float) else None,
                realisation=told["realisation"],
                folder=path.parent / told["folder"],
                seed=seed,
                scores=scores,
            )
            yield row, told


def score(text: str | None) -> Score:
    """``29.5`` → 29.5, ``inf`` → infinity, ``unavailable`` as it is, nothing and ``nan`` → None."""
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        return text
    return None if math.isnan(number) else number


def warn(study: Study) -> None:
    """Adds what the sources warn of, and which of them have no results."""
    for method in study.methods:
        for source in method.sources:
            if source.summary.get("warning"):
                study.warnings.append(f"{method.label}: {source.summary['warning']}")
            if study.kind != "comparison" and not (source.folder / "per_image.csv").is_file():
                study.warnings.append(f"{method.label}: {source.folder} holds no per_image.csv, so no results (yet)")
    study.warnings = list(dict.fromkeys(study.warnings))
