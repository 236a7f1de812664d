"""What was done to each file: a journal while it goes on, a report of it, and who is at it."""

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from datamodules.files import write_text
from experiments.cleaning.places import Item
from experiments.cli import UserError

REPORT, JOURNAL, LOCK = "report.json", ".journal.jsonl", ".lock"
TEMPORARY = re.compile(r"\..*\.\d+\.part(\..*)?")  # what a killed process leaves, see datamodules.files.replacing
EVERY = 2.0  # seconds after which the report is written again

Entry = dict[str, Any]


class Journal:
    """The files of a folder: ``begun``, ``done``, ``skipped`` (done before) or ``failed``, with the reason.

    Args:
        folder: of the clean files.
        facts: what decides them, whatever the file: checkpoint and options.
        entries: name → what became of the file.
        tile: of larger pictures; that of a run is kept by the next, so that it gives the same.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.folder, self.facts = folder, dict(facts)
        self.entries: dict[str, Entry] = {}
        self.tile: int | None = None
        self.about: dict[str, Any] = {}
        self._guard, self._written = threading.Lock(), 0.0

    def load(self, overwrite: bool) -> None:
        """Takes over what earlier runs wrote.

        Raises:
            UserError: it is damaged; or it is of other facts, and nothing may be overwritten.
        """
        try:
            found = json.loads((self.folder / REPORT).read_text(encoding="utf-8"))
            theirs, self.entries, self.tile = found["facts"], found["files"], found["tile"]
        except FileNotFoundError:
            theirs = self.facts
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.folder / REPORT} is not a report of this command: choose another folder") from error
        with contextlib.suppress(FileNotFoundError):
            for line in (self.folder / JOURNAL).read_text().splitlines():
                with contextlib.suppress(ValueError):  # the last line of a killed process may be torn
                    note = json.loads(line)
                    self.tile = note.pop("limit")
                    self.entries[note.pop("name")] = note
        if theirs != self.facts and not overwrite:
            other = ", ".join(f"{key}={theirs.get(key)}" for key in self.facts if theirs.get(key) != self.facts[key])
            raise UserError(
                f"output={self.folder} holds what was made with {other}: name another folder, or add overwrite=true"
            )
        if theirs != self.facts:
            self.tile = None
            self.entries = {name: {"status": "begun"} for name in self.entries}

    def is_done(self, item: Item) -> bool:
        """Whether the file was made whole from the input as it is now."""
        entry = self.entries.get(item.name, {})
        try:
            size = item.target.stat().st_size
            return entry["status"] in ("done", "skipped") and (entry["input"], entry["bytes"]) == (stamp(item), size)
        except (OSError, KeyError):
            return False

    def may_not(self, item: Item, overwrite: bool) -> str | None:
        """Why a file may not be written, if it may not."""
        if not os.path.lexists(item.target):
            return None
        if item.target.exists() and item.target.samefile(item.source):
            return f"{item.target} is the input itself, which is never overwritten: name another folder"
        if overwrite:
            return None
        if self.entries.get(item.name, {}).get("status") == "begun":
            return None  # ours, of a process that was killed before it could say so
        return f"{item.target} exists, and is not what this run would make: remove it, or add overwrite=true"

    def note(self, name: str, **entry: Any) -> None:
        """Writes down what became of a file; it survives the process."""
        line = json.dumps({"name": name, "limit": self.tile, **entry}) + "\n"
        with self._guard:
            self.entries[name] = entry
            with (self.folder / JOURNAL).open("a") as file:
                file.write(line)
        if time.monotonic() - self._written > EVERY:
            self.report()

    def report(self) -> None:
        """Writes ``report.json``, whole or not at all."""
        with self._guard:
            self._written = time.monotonic()
            statuses = [entry["status"] for entry in self.entries.values()]
            counts = {status: statuses.count(status) for status in ("done", "skipped", "failed", "begun")}
            content = {"facts": self.facts, **self.about, "tile": self.tile, "counts": counts}
            files = dict(sorted(self.entries.items()))
            text = json.dumps(content | {"files": files}, indent=1, ensure_ascii=False)
            # names need not be UTF-8: a byte that is none becomes \udcXX, which is JSON
            write_text(self.folder / REPORT, text.encode("utf-8", "backslashreplace").decode())

    def close(self) -> None:
        """The report takes over what the journal says."""
        self.report()
        (self.folder / JOURNAL).unlink(missing_ok=True)


@contextmanager
def opened(folder: Path, facts: Mapping[str, Any], overwrite: bool) -> Iterator[Journal]:
    """The journal of a folder, which nobody else may write to meanwhile.

    Raises:
        UserError: somebody else does, or see :meth:`Journal.load`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"output={folder}: another process is writing there; wait for it, or name another") from None
    except OSError as error:
        raise UserError(f"output={folder} cannot be written ({error.strerror}): name another folder") from error
    try:
        journal = Journal(folder, facts)
        journal.load(overwrite)
        if (folder / JOURNAL).exists():  # of a process that was killed
            for place, _, names in os.walk(folder):
                for name in filter(TEMPORARY.fullmatch, names):
                    Path(place, name).unlink()
        try:
            yield journal
        except BaseException:
            with contextlib.suppress(OSError):
                journal.report()
            raise
        journal.close()
    finally:
        lock.release()


def stamp(item: Item) -> list[int]:
    """Size and time of change of an input, by which it is known again."""
    found = item.source.stat()
    return [found.st_size, found.st_mtime_ns]
