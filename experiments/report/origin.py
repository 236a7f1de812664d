"""Where results come from: one line for each folder, the software, and the configurations."""

from experiments.report.labels import line
from experiments.report.study import Cell, Study, Table
from experiments.report.tables import cost_cell

COLUMNS = {
    "seed": "seed",
    "eval_seed": "evaluation seed",
    "steps": "steps",
    "precision": "precision",
    "wall_seconds": "wall time",
    "checkpoint": "checkpoint",
    "commit": "commit",
    "hardware": "hardware",
}


def table(study: Study) -> Table:
    """A line for each folder: what it was computed with, where and when."""
    sources = [(method.label, source) for method in study.methods for source in method.sources]
    keys = [key for key in COLUMNS if any(source.summary.get(key) is not None for _, source in sources)]
    lines = []
    for label, source in sources:
        told = [source.summary.get(key) for key in keys]
        cells = [
            cost_cell(value, key) if key == "wall_seconds" else Cell("–" if value is None else line(value)[:200])
            for key, value in zip(keys, told, strict=True)
        ]
        lines.append([Cell(label), Cell(str(source.folder)), Cell(source.written or "–"), *cells])
    return Table("Folders", ["method", "folder", "written", *(COLUMNS[key] for key in keys)], lines)


def versions(study: Study) -> list[tuple[str, str]]:
    """Which software → whose results it computed."""
    found: dict[str, list[str]] = {}
    for method in study.methods:
        for source in method.sources:
            if source.summary.get("versions"):
                found.setdefault(line(source.summary["versions"]), []).append(method.label)
    return [(text, "all" if len(found) == 1 else ", ".join(dict.fromkeys(labels))) for text, labels in found.items()]


def configurations(study: Study) -> list[tuple[str, str]]:
    """Method and folder → the text of its configuration."""
    return [
        (f"{method.label} — {source.folder}", source.config)
        for method in study.methods
        for source in method.sources
        if source.config
    ]
