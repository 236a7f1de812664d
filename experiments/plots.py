"""Figures of a comparison: quality against cost, and training noise against test noise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from datamodules.files import replacing

# Okabe and Ito's colours, which colour-blind readers can tell apart, and a mark for each
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = "osD^vP*"
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "savefig.dpi": 160,
    "figure.constrained_layout.use": True,
}


def save(figure: Figure, path: Path) -> None:
    """Writes a figure, whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary)


def look(index: int) -> Any:
    """Colour and mark of the n-th series."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKS[index % len(MARKS)]}


def front(cost: Sequence[float], quality: Sequence[float]) -> list[int]:
    """Which points no other one equals or beats in both, from the cheapest on."""
    best, kept = -np.inf, []
    for index in sorted(range(len(cost)), key=lambda i: (cost[i], -quality[i])):
        if quality[index] > best:
            best = quality[index]
            kept.append(index)
    return kept


def pareto(points: pd.DataFrame, costs: dict[str, str], title: str) -> Figure:
    """Quality against cost: a panel for each cost, the points that nothing beats joined by a line.

    Args:
        points: columns ``method``, ``psnr`` and the costs; a point without a cost is left out.
        costs: column → its label, with the unit.
        title: with set, noise and protocol.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2 * len(costs), 4.2))
        panels, names = figure.subplots(1, len(costs), squeeze=False)[0], points["method"].tolist()
        for panel, (column, label) in zip(panels, costs.items(), strict=True):
            known = points[points[column] > 0].reset_index(drop=True)
            kept = known.iloc[front(known[column].tolist(), known["psnr"].tolist())]
            panel.plot(kept[column], kept["psnr"], color="0.6", linewidth=1, zorder=1)
            for _, point in known.iterrows():
                panel.scatter(point[column], point["psnr"], s=45, zorder=2, **look(names.index(point["method"])))
            annotate(panel, known[column].tolist(), known["psnr"].tolist(), known["method"].tolist())
            panel.set(xscale="log", xlabel=label, ylabel="PSNR (dB)")
            panel.margins(x=0.25, y=0.15)
        figure.suptitle(title, fontsize=11)
        return figure


def annotate(panel: Axes, x: Sequence[float], y: Sequence[float], texts: Sequence[str]) -> None:
    """Names points, above or below by turns where they come near each other."""
    for place, index in enumerate(np.argsort(x)):
        offset = (0, 7 if place % 2 == 0 else -15)
        panel.annotate(texts[index], (x[index], y[index]), offset, textcoords="offset points", ha="center", fontsize=9)


def heat_map(grid: pd.DataFrame, title: str) -> Figure:
    """Training noise × test noise → PSNR in numbers; the colour is the distance to the column's best."""
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(2.6 + 1.1 * grid.shape[1], 1.8 + 0.6 * grid.shape[0]))
        panel = figure.subplots()
        loss = grid.max(axis=0) - grid
        image = panel.imshow(loss, cmap="viridis_r", aspect="auto", vmin=0)
        for i, j in np.ndindex(*grid.shape):
            if np.isfinite(grid.iloc[i, j]):
                dark = loss.iloc[i, j] > 0.6 * loss.max(axis=None)
                panel.text(j, i, f"{grid.iloc[i, j]:.2f}", ha="center", va="center", color="white" if dark else "black")
        panel.set_xticks(range(grid.shape[1]), grid.columns)
        panel.set_yticks(range(grid.shape[0]), grid.index)
        panel.set(xlabel="test noise", ylabel="training noise")
        panel.spines[:].set_visible(False)
        figure.colorbar(image, label="dB below the column's best")
        panel.set_title(title, fontsize=11)
        return figure


def curves(points: pd.DataFrame, title: str) -> Figure:
    """PSNR against the level of the test noise, a line for each method.

    Args:
        points: columns ``method``, ``level`` (0–255 scale) and ``psnr``.
        title: with set and protocol.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.2))
        panel = figure.subplots()
        for index, (method, line) in enumerate(points.groupby("method", sort=False)):
            ordered = line.sort_values("level")
            panel.plot(ordered["level"], ordered["psnr"], label=method, markersize=5, **look(index))
        panel.set(xlabel="σ of the test noise (0–255 scale)", ylabel="PSNR (dB)")
        panel.legend(frameon=False, fontsize=9)
        panel.set_title(title, fontsize=11)
        return figure
