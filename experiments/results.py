"""Results: one row per test image; every mean, table and summary is computed from the rows."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import WandbLogger
from rich.table import Table

from datamodules.files import replacing, write_text
from denoisers.module import DenoisingModule
from experiments import provenance

Row = dict[str, Any]
TEXT_COLUMNS = ("image", "set", "noise", "protocol")
DIGITS = 6  # after the point; beyond them only the order of additions shows
LISTED = 24  # a longer set is shown by its mean alone


class Rows(L.Callback):
    """Collects the rows of a test and writes them as ``per_image.csv``.

    Args:
        path: the CSV file.
        noise, protocol: their names, part of every row.
    """

    def __init__(self, path: str, noise: str, protocol: str) -> None:
        self.path, self.noise, self.protocol = Path(path), noise, protocol
        self.rows: list[Row] = []

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.rows = []

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        for index, (name, set_name) in enumerate(zip(batch["name"], batch["set"], strict=True)):
            row = {"image": name, "set": set_name, "noise": self.noise, "protocol": self.protocol}
            row["level"] = round(batch["level"][index].mean().item() * 255, DIGITS)
            self.rows.append(row | {c: round(values[index].item(), DIGITS) for c, values in outputs["scores"].items()})

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.world_size > 1:
            shares: list[list[Row]] = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(shares, self.rows)
            unique: dict[tuple[str, str], Row] = {}
            for row in (rows[step] for step in range(len(self.rows)) for rows in shares):  # the images' own order
                unique.setdefault((row["set"], row["image"]), row)
            self.rows = list(unique.values())
        if trainer.is_global_zero:
            write_rows(self.path, self.rows)
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_table("test/per_image", list(self.rows[0]), [list(row.values()) for row in self.rows])


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows as CSV; a number as it is."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def means(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Set → the number of its images ``n`` and the mean of each numeric column over them."""
    sets: dict[str, list[Row]] = {}
    for row in rows:
        sets.setdefault(row["set"], []).append(row)
    columns = [column for column in rows[0] if column not in TEXT_COLUMNS]
    return {
        name: {"n": len(group)} | {c: sum(row[c] for row in group) / len(group) for c in columns}
        for name, group in sets.items()
    }


def table(rows: Sequence[Row], network: str) -> Table:
    """PSNR and SSIM of each baseline and of the network, per image and as the mean of each set."""
    baselines = [column.removesuffix("_psnr") for column in rows[0] if column.endswith("_psnr")]
    prefixes = {**{f"{name}_": name for name in baselines}, "": network}
    shown = Table(
        title=f"PSNR (dB) / SSIM, noise {rows[0]['noise']}, protocol {rows[0]['protocol']}", title_justify="left"
    )
    shown.add_column("test image")
    for label in prefixes.values():
        shown.add_column(label, justify="right", no_wrap=True)

    def cells(row: Mapping[str, Any]) -> list[str]:
        return [f"{row[f'{p}psnr']:.2f} / {row[f'{p}ssim']:.4f}" for p in prefixes]

    for name, mean in means(rows).items():
        if mean["n"] <= LISTED:
            for row in rows:
                if row["set"] == name:
                    shown.add_row(row["image"], *cells(row))
        shown.add_row(f"{name}: mean of {mean['n']}", *cells(mean), style="bold", end_section=True)
    return shown


def summary(rows: Sequence[Row], module: DenoisingModule, trainer: L.Trainer) -> dict[str, Any]:
    """What a run found, and everything that the numbers hold under."""
    config = module.record["config"]
    return {
        "name": config["name"],
        "axes": config["axes"],
        "protocol": config["protocol"]["name"],
        "seed": config["seed"],
        "eval_seed": config["eval_seed"],
        "parameters": sum(p.numel() for p in module.network.parameters()),
        "steps": trainer.global_step,
        "precision": str(trainer.precision),
        "results": means(rows),
        "hardware": provenance.hardware(),
        "versions": module.record["versions"],
        "commit": module.record["commit"],
    }


def write_summary(path: Path, facts: Mapping[str, Any]) -> None:
    """Writes a summary as JSON; an infinite PSNR (equal images) is written as the text ``inf``."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(v) for key, v in value.items()}
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    write_text(path, json.dumps(plain(facts), indent=2, ensure_ascii=False) + "\n")
