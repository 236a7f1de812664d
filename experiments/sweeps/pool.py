"""Cells at work: as many at a time as an engine takes, every change of state written down before anything follows."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from experiments.ranks import DIED
from experiments.signals import Interrupted, signals
from experiments.sweeps.ledger import Cell, Ledger
from experiments.sweeps.work import BEGIN, LOG, Work

POLL = 0.2  # seconds between looks at the jobs
EVERY = 1.0  # seconds between calls of those who watch, which look into the jobs' folders
MEMORY = ("can't allocate memory", "out of memory", "MemoryError", "bad_alloc", "Cannot allocate memory")


class Job(Protocol):
    """A job that was started.

    Attributes:
        remark: what the engine says of its end, or None.
    """

    remark: str | None

    def code(self) -> int | None:
        """Its exit code, negative for a signal, 0 if nobody knows it; None while it works or waits for its turn."""

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
        watchers: called once in EVERY seconds.
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
        left, watched = True, 0.0
        signals.deferred = True  # or one that comes between a job's start and its place in ``running`` would lose it
        try:
            while left or self.running:
                for cell, job in list(self.running.values()):
                    if (code := job.code()) is not None:
                        self.look(cell, job, code)
                while left and len(self.running) < self.engine.size:
                    cell_ = next(cells, None)
                    left = cell_ is not None
                    if cell_ is not None:
                        self.start(cell_)
                if signals.received:
                    raise Interrupted(signals.received)
                if time.monotonic() - watched >= EVERY:
                    watched = time.monotonic()
                    for watcher in self.watchers:
                        watcher()
                time.sleep(POLL)
        except BaseException as end:
            self.stop(end.number if isinstance(end, Interrupted) else signal.SIGTERM)
            raise
        finally:
            signals.deferred = False

    def start(self, cell: Cell) -> None:
        """Starts the job of a cell that is not done, or takes over the one that is at work."""
        folder = self.ledger.folder_of(cell).resolve()
        job = self.engine.found(folder)
        if job is None:
            if self.ledger.state(cell) == "done":
                return
            self.ledger.mark(cell, "running")
            group = {"WANDB_RUN_GROUP": self.ledger.folder.resolve().name}
            job = self.engine.start(Work(self.ledger.program, cell.overrides, folder, group))
        self.running[cell.fingerprint] = cell, job

    def look(self, cell: Cell, job: Job, code: int) -> None:
        """Writes down how a job has ended."""
        del self.running[cell.fingerprint]
        if self.ledger.state(cell) == "done":
            self.ledger.mark(cell, "done")
        elif cell.fingerprint in self.fates:
            self.ledger.mark(cell, self.fates.pop(cell.fingerprint))
        else:
            self.ledger.mark(cell, "failed", reason(code, self.ledger.folder_of(cell) / LOG, job.remark))
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
            self.ledger.mark(cell, "done" if self.ledger.state(cell) == "done" else "interrupted")
        self.running.clear()


def reason(code: int, log: Path, remark: str | None) -> str:
    """Why a job has failed, in one line: what the engine says, what killed it, or the last line that it printed."""
    text = log.read_text(errors="replace") if log.is_file() else ""
    lines = [line.strip() for line in text.rpartition(BEGIN)[2].splitlines() if line.strip()]
    died = [(number, found) for number, line in enumerate(lines) if (found := DIED.search(line))]
    if died:  # one of several processes: the others print what follows from that
        number, found = died[-1]
        return f"rank {found[1]}: {ending(int(found[2]), lines[:number], remark)}"
    return ending(code, lines, remark)


def ending(code: int, lines: Sequence[str], remark: str | None) -> str:
    """How a process has ended, from its exit code and what it printed."""
    # box drawing and progress are no reason
    last = next((line for line in reversed(lines) if line[0].isalnum()), "it printed nothing")
    if any(word in line for line in lines[-30:] for word in MEMORY):
        return f"out of memory: {last}"
    if remark is not None:
        return remark
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return "killed (SIGKILL)"
    if code < 0:
        return f"killed ({signal.Signals(-code).name})"
    return f"exit code {code}: {last}" if code else f"it ended without a result: {last}"
