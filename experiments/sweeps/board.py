"""What the terminal shows of a sweep: a live table, or, where there is no terminal, a line for each change."""

import logging
import time
from collections.abc import Container, Sequence
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from experiments.sweeps import progress
from experiments.sweeps.ledger import Cell, Ledger

log = logging.getLogger(__name__)
STYLES = {"running": "cyan", "done": "green", "failed": "red", "interrupted": "yellow", "pruned": "dim"}


class Board:
    """The states of cells; of those that run, the step, the validation PSNR and the time that is left.

    Args:
        ledger: of the sweep.
        cells: that are shown.
        running: the fingerprints of those that run at the moment.
    """

    def __init__(self, ledger: Ledger, cells: Sequence[Cell], running: Container[str]) -> None:
        self.ledger, self.cells, self.running = ledger, cells, running
        self.console = Console()
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self.seen = {cell.fingerprint: ledger.state(cell) for cell in cells}
        self.first: dict[str, tuple[float, int]] = {}  # when a cell was first seen at work, and its step then

    def __enter__(self) -> "Board":
        if self.live:
            self.live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refresh()
        if self.live:
            self.live.__exit__(kind, error, trace)

    def refresh(self) -> None:
        """Shows what has changed."""
        for cell in self.cells:
            if (state := self.ledger.state(cell)) != self.seen.get(cell.fingerprint):
                self.seen[cell.fingerprint] = state
                if self.live is None:
                    self.line(cell, state)
        if self.live:
            self.live.update(self.table(), refresh=True)

    def line(self, cell: Cell, state: str) -> None:
        """Logs a change."""
        entry = self.ledger.entries[cell.fingerprint]
        _, psnr = progress.read(self.ledger.folder_of(cell))
        more = f": {entry.reason}" if entry.reason else f", validation PSNR {psnr[-1][1]:.2f}" if psnr else ""
        log.info(f"{state:<12}{entry.number}: {cell.title}{more}")

    def table(self) -> Table:
        """A row for each cell."""
        table = Table("job", "cell", "state", "step", "PSNR", "left", box=None, title_justify="left")
        for cell in self.cells:
            entry, state = self.ledger.entries[cell.fingerprint], self.seen[cell.fingerprint]
            step, psnr = progress.read(self.ledger.folder_of(cell)) if state != "waiting" else (0, [])
            shown = f"{step:,}" + (f" of {cell.steps:,}" if cell.steps else "") if step else ""
            more = entry.reason or "" if state == "failed" else self.left(cell, step)
            row = [str(entry.number), cell.title, state, shown, f"{psnr[-1][1]:.2f}" if psnr else "", more]
            table.add_row(*row, style=STYLES.get(state))
        return table

    def left(self, cell: Cell, step: int) -> str:
        """How long a cell will take to its last step, by its pace since it was first seen at work."""
        if cell.fingerprint not in self.running or not step or not cell.steps:
            return ""
        from experiments.callbacks import duration  # brings torch, which other commands do without

        since, before = self.first.setdefault(cell.fingerprint, (time.monotonic(), step))
        made = step - before
        return duration((time.monotonic() - since) / made * max(cell.steps - step, 0)) if made else ""
