"""Cells at work: as many at a time as an engine takes, every change of state written down before anything follows."""

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from experiments.signals import Interrupted
from experiments.sweeps.ledger import Cell, Ledger
from experiments.sweeps.work import BEGIN, LOG, Work

POLL = 0.2  # seconds between looks at the jobs
MEMORY = ("can't allocate memory", "out of memory", "MemoryError", "bad_alloc", "Cannot allocate memory")


class Job(Protocol):
    """A job that was started.

    Attributes:
        remark: what the engine says of its end, or None.
    """

    remark: str | None

    def code(self) -> int | None:
        """Its exit code, negative for a signal; None while it works or waits for its turn."""

    def end(self, number: int) -> None:
        """Hands a signal on to it, at which it saves its state and ends."""


class Engine(Protocol):
    """Where jobs run."""

    @property
    def size(self) -> int:
        """How many may be there at a time."""

    def start(self, work: Work) -> Job:
        """Starts a job."""

    def found(self, folder: Path) -> Job | None:
        """The job that works on a folder already: it outlived the sweep that started it."""

    def close(self) -> None:
        """When no job is left."""


@dataclass
class Pool:
    """Runs cells.

    Args:
        ledger: of the sweep.
        engine: where its jobs run.
        running: fingerprint → cell and job, of those that run at the moment.
        watchers: called as often as changes are looked for.
        heirs: called with a cell, when what has become of it is written down.
        fates: fingerprint → the state of a cell whose end was wished for.
    """

    ledger: Ledger
    engine: Engine
    running: dict[str, tuple[Cell, Job]] = field(default_factory=dict)
    watchers: list[Callable[[], None]] = field(default_factory=list)
    heirs: list[Callable[[Cell], None]] = field(default_factory=list)
    fates: dict[str, str] = field(default_factory=dict)

    def run(self, cells: Iterator[Cell]) -> None:
        """Runs every cell that is not done; each is taken when there is a place for it.

        Raises:
            Interrupted: a signal has come. All jobs have got it, and have ended.
        """
        left = True
        try:
            while left or self.running:
                for cell, job in list(self.running.values()):
                    if (code := job.code()) is not None:
                        self.look(cell, job, code)
                while left and len(self.running) < self.engine.size:
                    cell_ = next(cells, None)
                    left = cell_ is not None
                    if cell_ is not None and self.ledger.state(cell_) != "done":
                        self.start(cell_)
                for watcher in self.watchers:
                    watcher()
                time.sleep(POLL)
        except BaseException as end:
            self.stop(end.number if isinstance(end, Interrupted) else signal.SIGTERM)
            raise

    def start(self, cell: Cell) -> None:
        """Starts a job, or takes over the one that is at work."""
        folder = self.ledger.folder_of(cell).resolve()
        job = self.engine.found(folder)
        if job is None:
            self.ledger.mark(cell, "running")
            group = {"WANDB_RUN_GROUP": self.ledger.folder.resolve().name}
            job = self.engine.start(Work(self.ledger.program, cell.overrides, folder, group))
        self.running[cell.fingerprint] = cell, job

    def look(self, cell: Cell, job: Job, code: int) -> None:
        """Writes down how a job has ended."""
        folder = self.ledger.folder_of(cell)
        del self.running[cell.fingerprint]
        if code == 0 and (folder / "summary.json").is_file():
            self.ledger.mark(cell, "done")
        elif cell.fingerprint in self.fates:
            self.ledger.mark(cell, self.fates.pop(cell.fingerprint))
        else:
            self.ledger.mark(cell, "failed", reason(code, folder / LOG, job.remark))
        for heir in self.heirs:
            heir(cell)

    def prune(self, cell: Cell) -> None:
        """Ends a job of which nothing is hoped."""
        self.fates[cell.fingerprint] = "pruned"
        self.running[cell.fingerprint][1].end(signal.SIGTERM)

    def stop(self, number: int) -> None:
        """Hands a signal on to every job, and waits for them; each leaves its checkpoint."""
        for _, job in self.running.values():
            job.end(number)
        for cell, job in self.running.values():
            while job.code() is None:
                time.sleep(POLL)
            self.ledger.mark(cell, "interrupted")
        self.running.clear()


def reason(code: int, log: Path, remark: str | None) -> str:
    """Why a job has failed, in one line: what the engine says, what killed it, or the last line that it printed."""
    text = log.read_text(errors="replace") if log.is_file() else ""
    lines = [line.strip() for line in text.rpartition(BEGIN)[2].splitlines() if line.strip()]
    # box drawing and progress are no reason
    last = next((line for line in reversed(lines) if line[0].isalnum()), "it printed nothing")
    if any(word in line for line in lines[-30:] for word in MEMORY):
        return f"out of memory: {last}"
    if remark is not None:
        return remark
    if code == -signal.SIGKILL or code == 128 + signal.SIGKILL:
        return "killed (SIGKILL)"
    if code < 0:
        return f"killed ({signal.Signals(-code).name})"
    return f"exit code {code}: {last}"
