"""Renders a study as one HTML file that fetches nothing."""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from experiments.report import origin, pictures, scores, sweeps, tables
from experiments.report.curves import QUANTITIES
from experiments.report.pictures import Album, Shots
from experiments.report.scores import METRICS, Case
from experiments.report.study import Method, Study

PAGE_BYTES = 9_900_000
PICTURE_BYTES = 7_000_000  # before base64, which makes 4 bytes of 3
EACH_PICTURE, NOTES = 36, 2000  # bytes: what surrounds a picture, and what is said of those left out
HERE = Path(__file__).parent
SCRIPTS = ("tables.js", "curves.js", "view.js", "explorer.js", "extremes.js", "sweep.js", "follow.js")
FIGURE_KINDS = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg", ".svg": "svg+xml"}
CHARTS = dict(
    zip(QUANTITIES, ("Training loss", "Training PSNR (dB)", "Validation PSNR (dB)", "Validation SSIM"), strict=True)
)


def render(study: Study) -> str:
    """The page, below 10 MB as long as its tables are."""
    cases = scores.cases(study.methods)
    shots = pictures.shots(cases)
    empty = Album([b""], {s.case: dict.fromkeys(s.files, 0) for s in shots}, {s.case: (0, 0) for s in shots})
    around = len(html(study, cases, shots, empty).encode()) + EACH_PICTURE * sum(len(s.files) for s in shots) + NOTES
    budget = min(PICTURE_BYTES, (PAGE_BYTES - around) * 3 // 4)
    return html(study, cases, shots, pictures.album(shots, pictures.order(cases), max(budget, 0)))


def html(study: Study, cases: Sequence[Case], shots: Sequence[Shots], album: Album) -> str:
    """The page with the pictures of an album."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    script = "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}}})();\n'
    groups = tables.by_condition(cases)
    metrics = [metric for metric in METRICS if scores.known(cases, metric)]
    return environment.get_template("page.html.j2").render(
        study=study,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        data=embedded(facts(study, cases, shots, album)),
        warnings=study.warnings + scores.different_noise(study.methods, cases),
        conditions=[(str(condition), len(group)) for condition, group in groups.items()],
        overview=None if study.sweep else tables.overview(study.methods, cases),
        results=[] if study.sweep else [tables.results(study.methods, where, group) for where, group in groups.items()],
        cells=sweeps.table(study.sweep) if study.sweep else None,
        effects=sweeps.all_effects(study.sweep) if study.sweep else [],
        figures=[(title, figure(path)) for title, path in study.figures],
        curves=bool(charts(study)),
        per_image=[(metric, tables.per_image(study.methods, cases, metric)) for metric in metrics],
        album=album,
        shots=len(shots),
        referenced="psnr" in metrics,
        left_out=[f"{cases[n].image} ({cases[n].condition.set})" for n in album.left_out],
        provenance=origin.table(study),
        origins=origin.shared(study),
        configurations=origin.configurations(study),
    )


def facts(study: Study, cases: Sequence[Case], shots: Sequence[Shots], album: Album) -> dict[str, Any]:
    """What the page's scripts draw from: pictures, what is said under each, the extremes, and curves."""
    return {
        "methods": [method.label for method in study.methods],
        "pictures": [pictures.data_uri(picture) for picture in album.pictures],
        "cases": [case_facts(study.methods, cases[s.case], s, album) for s in shots if s.case in album.versions],
        "extremes": [extremes(cases, group) for group in tables.by_condition(cases).values()],
        "charts": charts(study),
        "sweep": sweeps.facts(study.sweep) if study.sweep else None,
    }


def case_facts(methods: Sequence[Method], case: Case, shot: Shots, album: Album) -> dict[str, Any]:
    """One image: its pictures, and its scores as text; a method's are those of the training that its picture shows."""
    lines: list[dict[str, str]] = []
    columns = [metric for metric in METRICS if scores.known([case], metric)]
    for name in scores.baselines([case]):
        told = {metric: tables.score_cell(case.baseline(f"{name}_{metric}"), metric).text for metric in columns}
        if set(told.values()) != {tables.NONE.text}:
            lines.append({"version": name, "label": name, **told})
    for number, rows in case.rows.items():
        note = ""
        if number in shot.rows:
            shown = [row for row in rows if row.folder == shot.rows[number].folder]
            if len({row.folder for row in rows}) > 1:
                seeds = {s.folder: s.seed for s in methods[number].sources}
                note = f"seed {seeds.get(shown[0].folder, 'unknown')}"
            rows = shown
        if len(rows) > 1:
            note = ", ".join(filter(None, [note, f"mean of {len(rows)} noise realisations"]))
        part = Case(case.condition, case.image, {number: rows})
        told = {metric: tables.score_cell(part.score(number, metric), metric).text for metric in columns}
        lines.append({"version": str(number), "label": methods[number].label, "note": note, **told})
    return {
        "case": shot.case,
        "image": case.image,
        "condition": str(case.condition),
        "size": album.sizes[shot.case],
        "versions": album.versions[shot.case],
        "scores": lines,
    }


def extremes(cases: Sequence[Case], group: Sequence[Case]) -> dict[str, Any]:
    """Under one condition, each method's worst and best images by PSNR, and the method that leads."""
    numbers = {id(case): number for number, case in enumerate(cases)}

    def entry(place: int, method: int) -> dict[str, Any]:
        score = tables.score_cell(group[place].score(method, "psnr"), "psnr").text
        return {"case": numbers[id(group[place])], "image": group[place].image, "psnr": score}

    ranks = {}
    for method in dict.fromkeys(m for case in group for m in case.rows):
        ranked = scores.ranking(group, method)
        half = min(pictures.EXTREMES, (len(ranked) + 1) // 2)
        if ranked:
            best, worst = ranked[::-1][:half], ranked[: min(pictures.EXTREMES, len(ranked) - half)]
            ranks[method] = {"best": [entry(n, method) for n in best], "worst": [entry(n, method) for n in worst]}
    return {"condition": str(group[0].condition), "leader": scores.leader(group), "methods": ranks}


def charts(study: Study) -> list[dict[str, Any]]:
    """One chart for each quantity that any training logged; trainings of one number look alike.

    The number is that of the method or, of a sweep, that of the cell in the order of its table.
    """
    owners = [owner.curves for owner in (study.sweep.cells if study.sweep else study.methods)]
    found = []
    for quantity, title in CHARTS.items():
        lines = [
            {"method": number, "label": curve.label, "x": curve.series[quantity][0], "y": curve.series[quantity][1]}
            for number, curves in enumerate(owners)
            for curve in curves
            if quantity in curve.series
        ]
        if lines:
            found.append({"title": title, "lines": lines})
    return found


def embedded(value: Any) -> Markup:
    """JSON that cannot end the element it stands in."""
    return Markup(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))


def figure(path: Path) -> str | None:
    """A figure's file inside the page; None where it is missing or is no picture."""
    kind = FIGURE_KINDS.get(path.suffix.lower())
    return pictures.data_uri(path.read_bytes(), f"image/{kind}") if kind and path.is_file() else None
