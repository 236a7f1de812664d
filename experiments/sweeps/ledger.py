"""What a sweep is made of: cells, each known by the hash of what decides its result, and the ledger that keeps them."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig

from experiments import resume
from experiments.cli import UserError

LEDGER = "ledger.json"


@dataclass(frozen=True)
class Cell:
    """One combination of a sweep.

    Args:
        overrides: what is typed for it.
        fingerprint: of what decides its result.
        title: the values in which the sweep's cells differ.
        steps: how many it makes, if that is known.
    """

    overrides: tuple[str, ...]
    fingerprint: str
    title: str
    steps: int | None


@dataclass
class Entry:
    """What the ledger says of a cell.

    Args:
        number: the name of its folder.
        overrides: what was typed for it.
        state: ``waiting``, ``running``, ``done``, ``failed``, ``interrupted`` or ``pruned``.
        reason: of a failure, in one line.
        attempts: how often it was started.
    """

    number: int
    overrides: list[str]
    state: str = "waiting"
    reason: str | None = None
    attempts: int = 0


@dataclass
class Ledger:
    """The cells of a sweep, by their fingerprints; kept in its folder.

    Args:
        folder: of the sweep.
        program: the command that its jobs run.
        axes: the keys that it goes over.
        entries: fingerprint → entry.
    """

    folder: Path
    program: list[str]
    axes: list[str]
    entries: dict[str, Entry] = field(default_factory=dict)

    def folder_of(self, cell: Cell) -> Path:
        """Where a cell's job writes."""
        return self.folder / str(self.entries[cell.fingerprint].number)

    def state(self, cell: Cell) -> str:
        """A cell's state."""
        return self.state_of(self.entries[cell.fingerprint])

    def state_of(self, entry: Entry) -> str:
        """The state of an entry; ``done`` is what has a summary, whatever was written when."""
        return "done" if (self.folder / str(entry.number) / "summary.json").is_file() else entry.state

    def mark(self, cell: Cell, state: str, reason: str | None = None) -> None:
        """Writes a cell's state down."""
        entry = self.entries[cell.fingerprint]
        entry.state, entry.reason = state, reason
        entry.attempts += state == "running"
        self.write()

    def add(self, cells: Sequence[Cell]) -> None:
        """Gives each cell that is new a number, and notes what has been done since the ledger was written."""
        number = 1 + max((entry.number for entry in self.entries.values()), default=-1)
        for cell in cells:
            if cell.fingerprint not in self.entries:
                self.entries[cell.fingerprint] = Entry(number, list(cell.overrides))
                number += 1
            if self.state(cell) == "done":
                self.entries[cell.fingerprint].state, self.entries[cell.fingerprint].reason = "done", None
        self.write()

    def write(self) -> None:
        """Whole or not at all."""
        from datamodules.files import write_text

        jobs = {fingerprint: asdict(entry) for fingerprint, entry in self.entries.items()}
        content = {"program": self.program, "axes": self.axes, "jobs": jobs}
        write_text(self.folder / LEDGER, json.dumps(content, indent=1))


@contextmanager
def opened(folder: Path, program: Sequence[str], axes: Sequence[str]) -> Iterator[Ledger]:
    """The ledger of a sweep's folder, which no other process works on meanwhile.

    Raises:
        UserError: another process does; or the folder belongs to another sweep, or its ledger is damaged.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=1)  # a report may look at it for a moment
    except Timeout:
        raise UserError(f"{folder}: another process runs this sweep; wait for it, or stop it") from None
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error}") from error
    try:
        for left_over in folder.glob(".*.part*"):
            left_over.unlink()
        yield read(folder, list(program), list(axes))
    finally:
        lock.release()


def read(folder: Path, program: list[str], axes: list[str]) -> Ledger:
    """The ledger that lies in a folder, or a new one; see :func:`opened`."""
    file = folder / LEDGER
    if not file.is_file():
        strange = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        if strange:
            raise UserError(f"{folder} holds other things ({', '.join(sorted(strange)[:3])}): choose another folder")
        return Ledger(folder, program, axes)
    found = load(folder)
    theirs, of = found.program, found.axes
    if (theirs, sorted(of)) != (program, sorted(axes)):
        raise UserError(
            f"{folder} belongs to another sweep, of {' '.join(theirs)} over {', '.join(of) or 'nothing'}; this one is "
            f"of {' '.join(program)} over {', '.join(axes) or 'nothing'}: choose another folder, hydra.sweep.dir=DIR"
        )
    return Ledger(folder, program, axes, found.entries)


def load(folder: Path) -> Ledger:
    """The ledger that lies in a folder.

    Raises:
        UserError: it is damaged.
    """
    file = folder / LEDGER
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        entries = {fingerprint: Entry(**entry) for fingerprint, entry in content["jobs"].items()}
        if not all(isinstance(entry.number, int) for entry in entries.values()):
            raise ValueError("a number is none")
        return Ledger(folder, list(content["program"]), list(content["axes"]), entries)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is damaged ({error}): move the folder away, and the sweep begins anew") from error


def driven(folder: Path) -> bool:
    """Whether a process runs the sweep of a folder at this moment; see :func:`opened`."""
    try:
        with (folder / ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def fingerprint(cfg: DictConfig) -> str:
    """A hash of what decides a job's result: its configuration without paths, workers, loggers and the like."""
    everything: Any = resume.leaves(cfg)
    ignored = (*resume.HARMLESS, *resume.OF_THE_CALL, "hydra")
    deciding = {
        key: value for key, value in everything.items() if not any(f"{key}.".startswith(f"{name}.") for name in ignored)
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True, default=str).encode()).hexdigest()[:16]


def pids_of(folder: Path) -> list[int]:
    """The processes that work on a job's folder, whoever started them; their command lines name it."""
    mark, found = str(folder.resolve()).encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(entry.name) != os.getpid() and any(
            word.startswith((b"run_dir=", b"resume=")) and word.partition(b"=")[2].strip(b"'") == mark for word in words
        ):
            found.append(int(entry.name))
    return sorted(found)
