"""What a comparison finds, as tables and figures; each says under which protocol."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from experiments import comparison, plots
from experiments.results import FORMATS
from experiments.tables import Table

PUBLISHED = Path(__file__).with_name("published.csv")
COSTS = {  # column → heading, what a value is multiplied with, and how it is written
    "parameters": ("parameters", 1, ",.0f"),
    "macs": ("GMACs", 1e-9, ".2f"),
    "cpu_ms": ("CPU ms", 1, ".0f"),
    "gpu_ms": ("GPU ms", 1, ".1f"),
    "peak_mb": ("peak MB", 1, ".0f"),
    "train_seconds": ("training min", 1 / 60, ".1f"),
    "size_mb": ("size MB", 1, ".2f"),
}
PRICES = {"cpu_ms": "CPU ms for 256×256", "parameters": "parameters"}  # that quality is drawn against
EACH = 6  # figures of a kind

Costs = Mapping[str, Mapping[str, Any]]  # method → column of COSTS → value, or None where it is not known
Key = tuple[Any, ...]


def means_table(
    means: pd.DataFrame, down: Sequence[str], across: Sequence[str], metrics: Sequence[str], costs: Costs
) -> Table:
    """Means of :func:`comparison.means` by both axes: a row for each of ``down``, the metrics for each of ``across``.

    Where a row is a method, its costs follow.
    """
    cells = {(tuple(row[a] for a in down), tuple(row[a] for a in across)): row for row in means.to_dict("records")}
    lines, heads = (list(dict.fromkeys(key[side] for key in cells)) for side in (0, 1))
    priced = [c for c in COSTS if [*down] == ["method"] and any(cost.get(c) is not None for cost in costs.values())]
    measured = [(head, metric) for head in heads for metric in metrics]
    body = [
        [*map(str, line)]
        + [value_text(cells.get((line, head)), metric) for head, metric in measured]
        + [cost_text(costs.get(line[0], {}), column) for column in priced]
        for line in lines
    ]
    columns = [
        *down,
        *(
            " ".join([*map(str, head), metric.upper()] if len(heads) > 1 else [metric.upper()])
            for head, metric in measured
        ),
    ]
    best = frozenset(
        (winner, len(down) + j)
        for j, (head, metric) in enumerate(measured)
        if (winner := best_line([cells.get((line, head)) for line in lines], metric)) is not None
    )
    notes = ["Means over images of the values of each image"]
    if means.groupby([*across], sort=False)["images"].nunique().max() > 1:
        notes.append("WARNING: not every row has every image, so that means of one column are of different images")
    if means["seeds"].max() > 1:
        notes.append("± is the standard deviation over seeds")
    if priced:
        notes.append("MACs, times and memory are those of one 256×256 image in float32")
    fixed = [
        f"protocol {part}" if axis == "protocol" else str(part) for axis, part in zip(across, heads[0], strict=True)
    ]
    where = "" if len(heads) > 1 else f" on {', '.join(fixed)}"
    return Table(f"Mean results{where}", [*columns, *(COSTS[c][0] for c in priced)], body, "; ".join(notes) + ".", best)


def value_text(row: Mapping[str, Any] | None, metric: str) -> str:
    """A mean, with its spread over seeds; ``unavailable`` where an image lacks the metric, a dash without images."""
    if row is None:
        return "–"
    if pd.isna(row[metric]):
        return str(row[f"{metric}_why"])
    spread = row[f"{metric}_std"]
    return format(row[metric], FORMATS[metric]) + ("" if pd.isna(spread) else f" ± {spread:{FORMATS[metric]}}")


def cost_text(cost: Mapping[str, Any], column: str) -> str:
    """A cost in its unit, or a dash."""
    _, scale, form = COSTS[column]
    return "–" if cost.get(column) is None else format(cost[column] * scale, form)


def best_line(rows: Sequence[Mapping[str, Any] | None], metric: str) -> int | None:
    """The number of the best row; None if fewer than two have a value."""
    values = {i: row[metric] for i, row in enumerate(rows) if row is not None and not pd.isna(row[metric])}
    return (min if metric == "lpips" else max)(values, key=values.__getitem__) if len(values) > 1 else None


def difference_table(rows: pd.DataFrame, baseline: str) -> Table | None:
    """Each method against the baseline, image by image; None if it has no rival."""
    body = [
        [
            row["method"],
            *(str(row[key]) for key in ("set", "noise", "protocol", "images")),
            f"{row['difference']:+.3f} ± {row['ci95']:.3f}",
            f"{row['better']} of {row['images']}",
            f"{row['p']:.2g}",
        ]
        for row in comparison.differences(rows, "psnr", baseline).to_dict("records")
    ]
    columns = ["method", "set", "noise", "protocol", "images", f"PSNR − that of {baseline} (dB)", "better on", "p"]
    note = (
        "Mean of the paired differences, with its 95 % confidence interval (Student's t); p of the two-sided Wilcoxon "
        "signed-rank test."
    )
    return Table(f"Image by image against {baseline}", columns, body, note) if body else None


def published_table(means: pd.DataFrame) -> Table | None:
    """Measured means by method, model, set, noise, level, channels and protocol beside published ones.

    Those hold for white Gaussian noise, an estimate rounded to 8 bit and no border: for protocol ``kair`` alone.
    """
    with PUBLISHED.open(encoding="utf-8") as file:
        known = {(r["model"], r["set"], int(r["channels"]), float(r["sigma"])): r for r in csv.DictReader(file)}
    body = []
    for row in means.to_dict("records"):
        theirs = known.get((row["model"], row["set"], row["channels"], row["level"]))
        if theirs and row["protocol"] == "kair" and row["noise"].split()[0].startswith(("sigma", "gaussian")):
            psnr = float(theirs["psnr"])
            figures = [f"{row['level']:g}", f"{row['psnr']:.2f}", f"{psnr:.2f}", f"{row['psnr'] - psnr:+.2f}"]
            body.append([row["method"], row["set"], *figures, theirs["published_as"], theirs["source"]])
    columns = ["method", "set", "σ", "PSNR", "published PSNR", "difference", "published as", "source"]
    return Table("Beside published values, protocol kair", columns, body) if body else None


def figures(rows: pd.DataFrame, costs: Costs) -> dict[str, Figure]:
    """Title → quality against cost; PSNR against the level of the noise; training noise × test noise."""
    axes = ["method", "model", "set", "noise", "protocol", "level"]
    means = comparison.means(rows, axes, ["psnr"]).dropna(subset=["psnr"])
    drawn: dict[str, Figure] = {}
    if len(means) == 0:
        return drawn
    known = pd.DataFrame([{"method": name, **cost} for name, cost in costs.items()])
    prices = {c: label for c, label in PRICES.items() if c in known and (known[c] > 0).sum() > 1}
    for (set_name, noise, protocol), group in list(means.groupby(["set", "noise", "protocol"], sort=False))[:EACH]:
        points = group.merge(known, on="method")
        if prices and len(points) > 1:
            title = f"Quality against cost: {set_name}, {noise}, protocol {protocol}"
            drawn[title] = plots.pareto(points, prices, title)
    for (set_name, protocol), group in list(means.groupby(["set", "protocol"], sort=False))[:EACH]:
        if group["level"].nunique() > 1:
            title = f"Quality against noise: {set_name}, protocol {protocol}"
            drawn[title] = plots.curves(group, title)
    trained = rows[rows["trained"].notna()]
    by_training = comparison.means(trained, ["trained", *axes[1:]], ["psnr"]) if len(trained) else means[:0]
    for (model, set_name, protocol), group in list(by_training.groupby(["model", "set", "protocol"], sort=False))[
        :EACH
    ]:
        if group["trained"].nunique() > 1 and group["noise"].nunique() > 1:
            title = f"{model} on {set_name}: PSNR in dB by training and test noise, protocol {protocol}"
            drawn[title] = plots.heat_map(comparison.mismatch(group), title)
    return drawn
