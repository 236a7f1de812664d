"""Results: one row per test image; every mean, table and summary is computed from the rows."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import scipy.stats
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from datamodules.files import replacing, write_text
from denoisers.clips import frames
from denoisers.module import DenoisingModule
from experiments import provenance
from experiments.wandb_logger import Wandb

Row = dict[str, Any]
LABELS = ("image", "set", "noise", "protocol", "trained", "realisation")  # columns that are no measurement
UNAVAILABLE = "unavailable"  # what stands for a measurement whose means are missing here
SCORES = ("psnr", "ssim")  # of a test; None of an image without a clean one
DIGITS = 6  # after the point; beyond them only the order of additions shows
FORMATS = {"psnr": ".2f", "ssim": ".4f", "lpips": ".4f", "flicker": ".2f"}  # of printed numbers
FLICKER = "flicker"  # which only frames of videos have, and not the first ones
LISTED = 24  # a longer set is shown by its mean alone


class Rows(L.Callback):
    """Collects the rows of a test and writes them as ``per_image.csv``.

    Args:
        path: the CSV file.
        noise, protocol: their names, part of every row; images that bring their own noise have ``none`` of ours.
    """

    def __init__(self, path: str, noise: str, protocol: str) -> None:
        self.path, self.noise, self.protocol = Path(path), noise, protocol
        self.rows: list[Row] = []

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._batches: list[list[Row]] = []

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        about = zip(batch["name"], batch["set"], batch["own_noise"], batch["realisation"], strict=True)
        rows, levels = [], [None] * len(batch["name"]) if batch["level"] is None else frames(batch["level"])
        for index, (name, set_name, own_noise, realisation) in enumerate(about):
            noise = "none" if own_noise else self.noise
            row = label(name, set_name, noise, levels[index], self.protocol, realisation)
            scores = {column: rounded(column, values[index].item()) for column, values in outputs["scores"].items()}
            rows.append(row | (scores or dict.fromkeys(SCORES)))
        self._batches.append(rows)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.rows = [row for rows in self._batches for row in rows]
        if trainer.world_size > 1:
            shares: list[list[list[Row]]] = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(shares, self._batches)
            unique: dict[tuple[str, str, int], Row] = {}
            for row in (row for step in zip(*shares, strict=True) for rows in step for row in rows):  # their own order
                unique.setdefault((row["set"], row["image"], row["realisation"]), row)
            self.rows = list(unique.values())
        self.rows = completed(self.rows)
        if trainer.is_global_zero:
            write_rows(self.path, self.rows)
            for logger in trainer.loggers:
                if isinstance(logger, Wandb):
                    logger.summarise(means(self.rows))
                    logger.log_table("test/per_image", list(self.rows[0]), [list(row.values()) for row in self.rows])


def label(image: str, set_name: str, noise: str, level: Tensor | None, protocol: str, realisation: int) -> Row:
    """The columns that say what a row's measurements are of; ``level`` is written on the 0–255 scale, if known."""
    number = None if level is None else round(level.mean().item() * 255, 4)  # float32 knows no more
    row = {"image": image, "set": set_name, "noise": noise, "level": number}
    return row | {"protocol": protocol, "realisation": realisation}


def rounded(column: str, value: float) -> float | None:
    """A measurement as rows have it; None for the flicker of a frame that has none before it."""
    return None if column.endswith(FLICKER) and math.isnan(value) else round(value, DIGITS)


def completed(rows: Sequence[Row]) -> list[Row]:
    """The rows with the columns of the longest one: None where images lack what videos have."""
    longest: Row = max(rows, key=lambda row: len(row), default={})
    return [dict.fromkeys(longest) | row for row in rows]


def read_rows(path: Path) -> list[Row]:
    """The rows of a ``per_image.csv``: numbers as numbers, an empty cell as None."""

    def value(column: str, text: str) -> Any:
        if column in LABELS[:-1]:
            return text
        try:
            return int(text) if column == "realisation" else float(text)
        except ValueError:
            return text or None

    with path.open(newline="", encoding="utf-8") as file:
        return [{column: value(column, text) for column, text in row.items()} for row in csv.DictReader(file)]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows as CSV; a number as it is."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def means(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Set → the number of its images ``n`` and the mean of each measurement over them.

    A measurement that an image lacks has no mean; that of a flicker is over the frames that have one. With several
    realisations, ``realisations`` says how many, and ``COLUMN_ci95`` is half the width of the 95 % confidence interval
    of the mean, from the means of the realisations (Student's t).
    """
    sets: dict[str, list[Row]] = {}
    for row in rows:
        sets.setdefault(row["set"], []).append(row)
    found: dict[str, dict[str, Any]] = {}
    for name, group in sets.items():
        draws = sorted({row["realisation"] for row in group})
        found[name] = {"n": len({row["image"] for row in group})}
        if len(draws) > 1:
            found[name]["realisations"] = len(draws)
        for column in (column for column in rows[0] if column not in LABELS):
            values = [[row[column] for row in group if row["realisation"] == draw] for draw in draws]
            if column.endswith(FLICKER):
                values = [[v for v in draw if v is not None] or [None] for draw in values]
            if lacking := [v for draw in values for v in draw if not isinstance(v, (int, float))]:
                found[name][column] = lacking[0]
                continue
            of_draws = [sum(draw) / len(draw) for draw in values]
            found[name][column] = sum(of_draws) / len(draws)
            if len(draws) > 1:
                t = scipy.stats.t.ppf(0.975, len(draws) - 1)
                found[name][f"{column}_ci95"] = t * float(np.std(of_draws, ddof=1)) / math.sqrt(len(draws))
    return found


def table(rows: Sequence[Row], network: str) -> Table:
    """PSNR, SSIM and a video's flicker of each baseline and of the network, per image and as the mean of each set."""
    baselines = [column.removesuffix("_psnr") for column in rows[0] if column.endswith("_psnr")]
    prefixes = {**{f"{name}_": name for name in baselines}, "": network}
    metrics = [m for m in FORMATS if m == "psnr" or any(isinstance(row.get(m), (int, float)) for row in rows)]
    named = {"psnr": "PSNR (dB)", "ssim": "SSIM", "lpips": "LPIPS", FLICKER: "flicker (of 255)"}
    title = " / ".join(named[metric] for metric in metrics)
    shown = Table(title=f"{title}, noise {rows[0]['noise']}, protocol {rows[0]['protocol']}", title_justify="left")
    shown.add_column("test image", no_wrap=True)
    for heading in prefixes.values():
        shown.add_column(heading, justify="right", no_wrap=True)
    if timed := "seconds" in rows[0]:
        shown.add_column("seconds", justify="right", no_wrap=True)

    def cells(row: Mapping[str, Any]) -> list[str]:
        texts = [" / ".join(text(row, f"{prefix}{m}", m) for m in metrics) for prefix in prefixes]
        return texts + ([f"{row['seconds']:.3f}"] if timed else [])

    for name, mean in means(rows).items():
        if mean["n"] <= LISTED and "realisations" not in mean:
            for row in rows:
                if row["set"] == name:
                    shown.add_row(row["image"], *cells(row))
        draws = f" × {mean['realisations']}" if "realisations" in mean else ""
        shown.add_row(f"{name}: mean of {mean['n']}{draws}", *cells(mean), style="bold", end_section=True)
    return shown


def show(rows: Sequence[Row], network: str) -> None:
    """Prints :func:`table`, on lines as long as it needs."""
    shown, console = table(rows, network), Console()
    console.width = max(console.width, Console(width=10_000).measure(shown).maximum)
    console.print(shown)


def text(row: Mapping[str, Any], column: str, metric: str) -> str:
    """A measurement as it is printed, a PSNR with its confidence interval; a dash for one that there is not."""
    if not isinstance(row.get(column), (int, float)):
        return "–"
    interval = row.get(f"{column}_ci95") if metric == "psnr" else None
    return format(row[column], FORMATS[metric]) + (f" ± {interval:.3f}" if interval is not None else "")


def summary(rows: Sequence[Row], module: DenoisingModule, trainer: L.Trainer) -> dict[str, Any]:
    """What a run found, and everything that the numbers hold under."""
    config = module.record["config"]
    return {
        "name": config["name"],
        "axes": config["axes"],
        "protocol": config["protocol"]["name"],
        "seed": config["seed"],
        "eval_seed": config["eval_seed"],
        "channels": config["channels"],
        "parameters": sum(p.numel() for p in module.network.parameters()),
        **of_the_start(config, module),
        "steps": trainer.global_step,
        "precision": str(trainer.precision),
        "results": means(rows),
        "hardware": provenance.hardware(),
        "versions": module.record["versions"],
        "commit": module.record["commit"],
    }


def of_the_start(config: Mapping[str, Any], module: DenoisingModule) -> dict[str, Any]:
    """What a run started from, and how many parameters were trained; nothing of one that is not fine-tuned."""
    found: dict[str, Any] = {}
    if config.get("init_from"):
        found["started_from"] = {"path": config["init_from"], "sha256": config["init_sha256"]}
    if config.get("freeze"):
        found["trained_parameters"] = sum(p.numel() for p in module.network.parameters() if p.requires_grad)
    return found


def write_summary(path: Path, facts: Mapping[str, Any]) -> None:
    """Writes a summary as JSON; an infinite PSNR (equal images) is written as the text ``inf``."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(v) for key, v in value.items()}
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    write_text(path, json.dumps(plain(facts), indent=2, ensure_ascii=False) + "\n")
