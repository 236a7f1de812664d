"""A network goes through files, and what becomes of each is noted."""

import logging
import os
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from experiments.cleaning import video
from experiments.cleaning.journal import Journal, stamp
from experiments.cleaning.pictures import THREADS, Writing, clean, described, pages, tiled
from experiments.cleaning.places import Item
from experiments.cli import NO_ROOM
from experiments.signals import signals

if TYPE_CHECKING:
    from rich.progress import Progress

    from datamodules.pictures import Picture
    from denoisers.inference import Denoiser

log = logging.getLogger(__name__)


class Cleaning:
    """A network that cleans files into a folder.

    Args:
        denoiser: the network.
        journal: of the folder; a tile that it names is taken.
        cfg: ``sigma``, ``overwrite``, and what videos need.

    Attributes:
        done, skipped: how many files were cleaned, or had been before.
        failures: names and reasons of the others.
        megapixels: cleaned.
    """

    def __init__(self, denoiser: "Denoiser", journal: Journal, cfg: DictConfig) -> None:
        self.denoiser, self.journal, self.cfg = denoiser, journal, cfg
        self.done = self.skipped = 0
        self.megapixels = 0.0
        self.failures: dict[str, str] = {}
        self._replaced: set[str] = set()  # files that were there before, and may go
        self._writing: deque[Writing] = deque()
        if denoiser.tile is None and journal.tile:  # or what is done now would differ from what was in the last bit
            denoiser.tile = journal.tile

    def all(self, items: Sequence[Item]) -> None:
        """Cleans what is not clean yet: pictures, then videos.

        Raises:
            OSError: there is no room; what was written stays.
        """
        with progress(len(items)) as self._bar:
            self._task = self._bar.add_task("cleaned", total=len(items), rate="")
            self._started = time.monotonic()
            todo = [item for item in items if not self.settled(item)]
            self.pictures([item for item in todo if not item.is_video])
            for item in todo:
                if item.is_video:
                    self.video(item)

    def settled(self, item: Item) -> bool:
        """Whether there is nothing to do for a file: it is clean, or must not be written."""
        if self.journal.is_done(item):
            self.journal.entries[item.name]["status"] = "skipped"
            self.skipped += 1
            self.advance()
            return True
        if reason := self.journal.may_not(item, self.cfg.overwrite):
            self.failed(item, ValueError(reason))
            return True
        if os.path.lexists(item.target):
            self._replaced.add(item.name)
        return False

    def pictures(self, items: Sequence[Item]) -> None:
        """Cleans pictures; while the network computes the next ones are read and the last ones written."""
        writers = ThreadPoolExecutor(THREADS, "write")
        current: Writing | None = None
        try:
            for read in pages(items, self.cfg.sigma, self.denoiser.luminance):
                if read.page and current is None:
                    continue  # a page before it failed
                try:
                    pixels, sigma = read.pixels.result()
                    assert read.picture is not None  # there are pixels
                    started = time.perf_counter()
                    cleaned = clean(self.denoiser, read.picture, pixels, sigma)
                    seconds = time.perf_counter() - started
                except Exception as error:
                    if current is not None:
                        current.put(None)
                        current = None
                    self.failed(read.item, error)
                    continue
                if current is None:
                    with signals.held():
                        current = self.begun(read.item, read.picture, writers)
                self.describe(current.item, current.entry, seconds, sigma)
                current.put(cleaned)
                del pixels, cleaned
                if read.page == read.picture.pages - 1:
                    current = None
                self.settle(THREADS)
            self.settle(0)
        finally:
            if current is not None:
                current.put(None)
            writers.shutdown()
            self.settle(0, last=True)

    def begun(self, item: Item, picture: "Picture", writers: ThreadPoolExecutor) -> Writing:
        """A file that waits for its pages in a thread."""
        writing = Writing(item, picture, described(item, picture))
        self.journal.note(item.name, status="begun")
        writing.done = writers.submit(writing.write, self.cfg.overwrite or item.name in self._replaced)
        self._writing.append(writing)
        return writing

    def video(self, item: Item) -> None:
        """Cleans a video."""
        self.journal.note(item.name, status="begun")
        try:
            entry = video.clean(item, self.denoiser, self.cfg)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
            self.failed(item, error)
        except Exception as error:
            self.failed(item, error)
        else:
            if "tile" in entry:
                self.journal.tile = self.denoiser.tile
            self.succeeded(item, {"input": stamp(item), **entry})

    def describe(self, item: Item, entry: dict[str, Any], seconds: float, sigma: float | None) -> None:
        """Adds to a file's entry what was done to one of its pages."""
        entry["seconds"] = round(entry.get("seconds", 0) + seconds, 3)
        if sigma is not None:
            entry.setdefault("sigma", []).append(round(sigma, 2))
        if self.cfg.sigma == "auto":
            log.info(f"{item.name}: sigma {sigma:.1f}")
        if cut := tiled(item.name, self.denoiser.plan):
            entry.update(cut)
            self.journal.tile = self.denoiser.tile

    def settle(self, left: int, last: bool = False) -> None:
        """Waits until no more than so many files are being written, and notes what became of the others."""
        while len(self._writing) > left or (self._writing and self._writing[0].done.done()):
            error = self._writing[0].done.exception()
            with signals.held():
                writing = self._writing.popleft()
                if error is None:
                    self.succeeded(writing.item, writing.entry)
                elif isinstance(error, OSError) and error.errno in NO_ROOM:
                    if not last:
                        raise error
                elif not isinstance(error, InterruptedError):
                    self.failed(writing.item, error)

    def succeeded(self, item: Item, entry: dict[str, Any]) -> None:
        """Notes that a file is there."""
        self.journal.note(item.name, status="done", bytes=item.target.stat().st_size, **entry)
        self.done += 1
        self.megapixels += entry["megapixels"]
        self.advance()

    def failed(self, item: Item, error: BaseException) -> None:
        """Notes why there is none."""
        reason = str(error).removeprefix(f"{item.source}: ") or type(error).__name__
        self.failures[item.name] = reason
        self.journal.note(item.name, status="failed", reason=reason)
        self.advance()

    def advance(self) -> None:
        """Moves the bar on."""
        rate = self.megapixels / max(time.monotonic() - self._started, 1e-9)
        self._bar.update(self._task, advance=1, rate=f"{rate:.2f} MP/s")


def progress(count: int) -> "Progress":
    """A bar with the files that are done and the megapixels a second, where somebody looks at it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")]
    return Progress(*columns, TimeRemainingColumn(), console=console, disable=not (console.is_terminal and count))
