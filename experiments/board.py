"""What the terminal shows of a sweep: a live table, or, where there is no terminal, a line for each change."""

import csv
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from experiments.callbacks import duration
from experiments.pool import Running
from experiments.sweep import Cell, Ledger

log = logging.getLogger(__name__)
EVERY = 1.0  # seconds between looks into the jobs' folders
STYLES = {"running": "cyan", "done": "green", "failed": "red", "interrupted": "yellow"}


class Board:
    """The states of cells; of those that run, the step, the validation PSNR and the time that is left.

    Args:
        ledger: of the sweep.
        cells: that are shown.
        running: fingerprint → job, of those that run at the moment.
    """

    def __init__(self, ledger: Ledger, cells: Sequence[Cell], running: Mapping[str, Running]) -> None:
        self.ledger, self.cells, self.running = ledger, cells, running
        self.console = Console()
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self.seen = {cell.fingerprint: ledger.state(cell) for cell in cells}
        self.looked = 0.0

    def __enter__(self) -> "Board":
        if self.live:
            self.live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.looked = 0.0
        self.refresh()
        if self.live:
            self.live.__exit__(kind, error, trace)

    def refresh(self) -> None:
        """Shows what has changed, at most once in EVERY seconds."""
        if time.monotonic() - self.looked < EVERY:
            return
        self.looked = time.monotonic()
        for cell in self.cells:
            if (state := self.ledger.state(cell)) != self.seen[cell.fingerprint]:
                self.seen[cell.fingerprint] = state
                if self.live is None:
                    self.line(cell, state)
        if self.live:
            self.live.update(self.table(), refresh=True)

    def line(self, cell: Cell, state: str) -> None:
        """Logs a change."""
        entry = self.ledger.entries[cell.fingerprint]
        _, psnr = progress(self.ledger.folder_of(cell))
        more = f": {entry.reason}" if entry.reason else f", validation PSNR {psnr:.2f}" if psnr else ""
        log.info(f"{state:<12}{entry.number}: {cell.title}{more}")

    def table(self) -> Table:
        """A row for each cell."""
        table = Table("job", "cell", "state", "step", "PSNR", "left", box=None, title_justify="left")
        for cell in self.cells:
            entry, state = self.ledger.entries[cell.fingerprint], self.seen[cell.fingerprint]
            step, psnr = progress(self.ledger.folder_of(cell)) if state != "waiting" else (0, None)
            running = self.running.get(cell.fingerprint)
            left = ""
            if running and step and cell.steps and running.process:
                passed = time.monotonic() - running.began
                left = duration(passed / step * max(cell.steps - step, 0))
            shown = f"{step:,}" + (f" of {cell.steps:,}" if cell.steps else "") if step else ""
            reason = entry.reason if state == "failed" else ""
            row = [str(entry.number), cell.title, state, shown, f"{psnr:.2f}" if psnr else "", left or reason or ""]
            table.add_row(*row, style=STYLES.get(state))
        return table


def progress(folder: Path) -> tuple[int, float | None]:
    """The last step that a job has logged, and its last validation PSNR."""
    files = sorted(folder.rglob("metrics.csv"))
    if not files:
        return 0, None
    step, psnr = 0, None
    try:
        with files[-1].open(newline="") as file:
            for row in csv.DictReader(file):
                step = max(step, int(row.get("step") or 0) + 1)
                psnr = float(row["val/psnr"]) if row.get("val/psnr") else psnr
    except (OSError, ValueError):
        return step, psnr
    return step, psnr
