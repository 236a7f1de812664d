"""The training curves as a CSV file, which a resumed run continues without a gap or a duplicate."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from datamodules.files import replacing, synchronise


class Metrics(Logger):
    """One row for each call of ``log_metrics``, written at once; the rows' number stands in the checkpoint.

    Args:
        path: the CSV file. What it holds already is replaced, unless :meth:`keep` is called first.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = Path(path)
        self.columns: list[str] = []
        self.rows = 0

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """They stand in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row: dict[str, Any] = {"step": step, **metrics}
        if new := [column for column in row if column not in self.columns]:
            self._write([*self.columns, *new], self._read(self.rows))
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(row)
        self.rows += 1

    @rank_zero_only
    def save(self) -> None:
        if self.rows:
            synchronise(self.path)

    @rank_zero_only
    def keep(self, rows: int) -> None:
        """Goes on after the first rows of the file; the others were written after the checkpoint."""
        if rows:
            kept = self._read(rows)
            self._write(list(kept[0]), kept)
            self.rows = rows

    def _read(self, rows: int) -> list[dict[str, Any]]:
        if not rows:
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return [row for row, _ in zip(csv.DictReader(file), range(rows), strict=False)]

    def _write(self, columns: list[str], rows: list[dict[str, Any]]) -> None:
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        self.columns = columns
