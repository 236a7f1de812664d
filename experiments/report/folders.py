"""Reads a run, an evaluation, a comparison or a folder of them into one study."""

import csv
import json
import math
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments.cli import UserError
from experiments.report import curves, labels, tables
from experiments.report.study import Curve, Method, Row, Score, Source, Study, Table

TEXTS = ("image", "set", "noise", "protocol", "level", "realisation", "method", "model", "trained", "seed", "folder")
COSTS = ("parameters", "macs", "cpu_ms", "gpu_ms", "peak_mb", "train_seconds", "size_mb")
LOOKED_FOR = (
    "a training run (config.yaml with summary.json, per_image.csv or metrics.csv), an evaluation (summary.json of kind "
    "evaluation, per_image.csv), a comparison (comparison.json, per_image.csv), or a folder with some of these in it"
)


def read(path: Path) -> Study:
    """The study of a folder.

    Raises:
        UserError: nothing that can be reported on is there, or a file of it is damaged.
    """
    if not path.is_dir():
        raise UserError(f"path={path}: there is no such folder; looked for {LOOKED_FOR}")
    if (path / "comparison.json").is_file():
        return comparison(path)
    found = [path] if is_result(path) else list(results_below(path))
    if not found:
        raise UserError(f"path={path}: nothing to report on; looked for {LOOKED_FOR}")
    if all((folder / "comparison.json").is_file() for folder in found) and len(found) == 1:
        return comparison(found[0])
    singles = [single(folder) for folder in found if not (folder / "comparison.json").is_file()]
    methods = labels.distinct(singles)
    one = found == [path]
    study = Study(title=path.resolve().name, kind=methods[0].sources[0].kind if one else "collection", folder=path)
    if one:
        study.title = str(methods[0].sources[0].summary.get("name") or study.title)
    study.methods = methods
    for folder in found:
        if (folder / "comparison.json").is_file():
            part, seen = comparison(folder), {s.folder.resolve() for method in singles for s in method.sources}
            study.methods += [m for m in part.methods if not seen & {s.folder.resolve() for s in m.sources}]
            study.tables += part.tables
            study.figures += part.figures
    warn(study)
    return study


def is_result(folder: Path) -> bool:
    """Whether a folder is itself a run, an evaluation or a comparison."""
    if (folder / "comparison.json").is_file() or (folder / "summary.json").is_file():
        return True
    return (folder / "config.yaml").is_file() and any((folder / n).is_file() for n in ("per_image.csv", "metrics.csv"))


def results_below(path: Path) -> Iterator[Path]:
    """The results in a folder, in the order of their names; what lies inside a result belongs to it."""
    for where, folders, _ in os.walk(path):
        folders.sort(key=lambda name: (len(name), name) if name.isdigit() else (0, name))
        if is_result(Path(where)):
            folders.clear()
            yield Path(where)


# --- one folder -------------------------------------------------------------------------------------------------------


def single(folder: Path) -> Method:
    """A run or an evaluation as a method."""
    source = source_of(folder)
    summary = source.summary
    axes = labels.mapping(summary.get("axes"))
    model = str(summary.get("model") or axes.get("model") or summary.get("name") or folder.resolve().name)
    costs: dict[str, Score] = {"parameters": summary.get("parameters")}
    if source.kind == "run":
        costs["wall_seconds"] = summary.get("wall_seconds")
    trained = summary.get("trained") if source.kind == "evaluation" else axes.get("noise")
    return Method(
        label=model,
        trained=str(trained or ""),
        seeds=[] if source.seed is None else [source.seed],
        rows=[row for row, _ in rows(folder / "per_image.csv")],
        costs=costs,
        sources=[source],
        curves=curves_of(training_folder(source), model),
    )


def source_of(folder: Path) -> Source:
    """What a run's or an evaluation's folder says of itself."""
    summary = labels.mapping(load_json(folder / "summary.json"))
    config = folder / "config.yaml"
    told = next((p for p in (folder / "summary.json", config) if p.is_file()), folder)
    written = datetime.fromtimestamp(told.stat().st_mtime, UTC).strftime("%Y-%m-%d") if told.exists() else ""
    kind = "evaluation" if summary.get("kind") == "evaluation" else "run"
    text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
    return Source(folder, kind, summary, text, written)


def training_folder(source: Source) -> Path | None:
    """Where the training of a result was written, if it still lies there."""
    if source.kind == "run":
        return source.folder
    checkpoint = source.summary.get("checkpoint")
    places = [Path(checkpoint), Path(checkpoint).parent.parent] if checkpoint else []
    return next((place for place in places if (place / "metrics.csv").is_file()), None)


def curves_of(folder: Path | None, label: str) -> list[Curve]:
    """The training curves in a run's folder, none if there are none."""
    if folder is None or not (folder / "metrics.csv").is_file():
        return []
    series = curves.read(folder / "metrics.csv")
    return [Curve(label, series)] if series else []


# --- a comparison -----------------------------------------------------------------------------------------------------


def comparison(folder: Path) -> Study:
    """A comparison's folder as a study."""
    facts = load_json(folder / "comparison.json")
    if not isinstance(facts, dict) or not isinstance(facts.get("methods"), list):
        raise UserError(f"{folder / 'comparison.json'} is no comparison: it has no list of methods")
    study = Study(
        title=str(facts.get("title") or folder.resolve().name),
        kind="comparison",
        folder=folder,
        description=str(facts.get("description") or ""),
        facts={key: labels.line(facts[key]) for key in ("hardware", "versions", "commit") if facts.get(key)},
    )
    methods: dict[str, Method] = {}
    for told in facts["methods"]:
        label = str(told.get("method"))
        method = Method(label, trained=str(told.get("trained") or ""), seeds=list(told.get("seeds") or []))
        method.costs = {key: told.get(key) for key in COSTS}
        places = [folder / place for place in told.get("folders") or []]
        method.sources = [source_of(place) for place in places if place.is_dir()]
        if told.get("run"):
            runs = [folder / told["run"]]
        else:
            runs = [place for place in map(training_folder, method.sources) if place]
        for number, run in enumerate(dict.fromkeys(runs)):
            method.curves += curves_of(run, label if number == 0 else f"{label} ({number + 1})")
        gone = [place for place in places if not place.is_dir()]
        study.warnings += [f"{label}: {place} is gone, and with it its pictures" for place in gone]
        methods[label] = method
    for row, line in rows(folder / "per_image.csv"):
        methods.setdefault(line["method"], Method(line["method"])).rows.append(row)
    study.methods = list(methods.values())
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


def rows(path: Path) -> Iterator[tuple[Row, dict[str, str]]]:
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


def load_json(path: Path) -> Any:
    """What a JSON file holds; nothing if there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error


def warn(study: Study) -> None:
    """Adds what the sources warn of, and which of them have no results."""
    for method in study.methods:
        for source in method.sources:
            if source.summary.get("warning"):
                study.warnings.append(f"{method.label}: {source.summary['warning']}")
            if study.kind != "comparison" and not (source.folder / "per_image.csv").is_file():
                study.warnings.append(f"{method.label}: {source.folder} holds no per_image.csv, so no results (yet)")
    study.warnings = list(dict.fromkeys(study.warnings))
