"""Decoded pixels in one memory-mapped file: a large set is decoded once, and no process holds it in memory of its own.

Each set of files has a folder: ``index.json`` says what every file was when it was decoded, and a data file holds the
pixels. Both appear whole or not at all, the index last; whoever builds holds a lock. A builder that is killed leaves
hidden files, which the next one removes.
"""

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import PIL
from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_only
from pydantic import TypeAdapter
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from datamodules.files import digest, replacing
from datamodules.images import DataError, Header, decode_as, each

log = logging.getLogger(__name__)
IN_MEMORY = 10**9  # bytes of decoded pixels up to which ``auto`` keeps them in memory
VERSION = 2  # of how files become pixels and where they lie
ALIGNMENT = 64
THREADS = min(4, os.cpu_count() or 1)  # each holds one decoded picture
ELSEWHERE = (
    "choose another folder with data.cache_dir=DIR or the environment variable DENOISERS_CACHE, "
    "or hold the images in memory with data.cache=false"
)
T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where the pixels of a file lie in the data file."""

    path: str  # resolved
    offset: int
    shape: tuple[int, int, int]
    dtype: Literal["uint8", "uint16"]

    @property
    def end(self) -> int:
        """The first byte behind them."""
        return self.offset + math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def within(self, data: np.ndarray) -> np.ndarray:
        """The pixels [H, W, C] in the bytes of the data file; a view."""
        return data[self.offset : self.end].view(self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class Stamp:
    """What changes when a file is written, and can be had without reading it."""

    size: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True)
class Source:
    """A file as it was when it was decoded."""

    place: Place
    stamp: Stamp
    sha256: str  # of the file's bytes

    def holds_pixels_of(self, other: "Source") -> bool:
        """Whether the file's bytes are the other's, and its pixels of the same kind."""
        kinds = [(source.sha256, source.place.shape, source.place.dtype) for source in (self, other)]
        return kinds[0] == kinds[1]


@dataclass(frozen=True)
class Index:
    """What a data file holds."""

    sources: list[Source]

    @property
    def data(self) -> str:
        """The data file's name, a digest: other contents never take the place of those that somebody still reads."""
        contents = json.dumps([[source.sha256, asdict(source.place)] for source in self.sources])
        return f"{hashlib.sha256(contents.encode()).hexdigest()[:16]}.pixels"


INDEX = TypeAdapter(Index)


def decoded(
    headers: Mapping[Path, Header], channels: int, *, cache: Literal["auto", True, False], cache_dir: str
) -> dict[Path, np.ndarray]:
    """The pixels [H, W, channels] of files, uint8 or uint16, in memory or as read-only views of a memory-mapped file.

    Args:
        headers: of the files that are wanted.
        channels: colour files become grey ones by their luma, where that is asked for.
        cache: whether to map; ``auto`` maps what takes more than a gigabyte.
        cache_dir: where the mapped files lie. Each set of files has one folder there.

    Raises:
        DataError: files that cannot be decoded (all are named), a folder that cannot be written, too little space.
    """
    size = sum(header.height * header.width * channels * header.bits // 8 for header in headers.values())
    if not cache or (cache == "auto" and size <= IN_MEMORY):
        paths = list(headers)
        return dict(zip(paths, each(lambda path: decode_as(path, headers[path], channels), paths), strict=True))
    resolved = {path: str(path.resolve()) for path in headers}
    unique = {resolved[path]: header for path, header in headers.items()}
    pixels = mapped(unique, channels, Path(cache_dir).expanduser())
    return {path: pixels[resolved[path]] for path in headers}


def mapped(headers: Mapping[str, Header], channels: int, cache_dir: Path) -> dict[str, np.ndarray]:
    """The pixels of files, by resolved path, as views of their cache, which is built or brought up to date before.

    Raises:
        DataError: see :func:`decoded`.
    """
    places = layout(headers, channels)
    # another Pillow may decode to other pixels
    backdrops = sorted({str(header.backdrop) for header in headers.values()})
    key = json.dumps([VERSION, PIL.__version__, channels, backdrops, [place.path for place in places]])
    folder = cache_dir / hashlib.sha256(key.encode()).hexdigest()[:16]
    try:
        if (data := current(folder, places)) is None:
            folder.mkdir(parents=True, exist_ok=True)
            with exclusive(folder):
                data = build(folder, places, headers, channels)  # where another process just did, nothing is left to do
    except OSError as error:
        raise DataError(
            f"data.cache_dir={cache_dir}: decoded images cannot be kept there ({error}); {ELSEWHERE}"
        ) from error
    return {place.path: place.within(data) for place in places}


def layout(headers: Mapping[str, Header], channels: int) -> list[Place]:
    """Where the pixels of each file go, in the order of their paths."""
    places: list[Place] = []
    for path, header in sorted(headers.items()):
        offset = -(-places[-1].end // ALIGNMENT) * ALIGNMENT if places else 0
        shape = (header.height, header.width, channels)
        places.append(Place(path, offset, shape, "uint16" if header.bits == 16 else "uint8"))
    return places


def stamp(path: str) -> Stamp:
    """A file's stamp as it is now.

    Raises:
        DataError: the file is gone.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def trusted(folder: Path) -> tuple[Index, np.ndarray] | None:
    """The index and the bytes that it describes; None where either is missing or damaged."""
    try:
        index = INDEX.validate_json((folder / "index.json").read_bytes())
        data = np.memmap(folder / index.data, np.uint8, "r").view(np.ndarray)
    except (OSError, ValueError):
        return None
    return (index, data) if data.size == max((source.place.end for source in index.sources), default=0) else None


def current(folder: Path, places: Sequence[Place]) -> np.ndarray | None:
    """The bytes of the data file, if it holds these places and no file has been written since; None otherwise."""
    if (held := trusted(folder)) is None:
        return None
    index, data = held
    same = [source.place for source in index.sources] == places
    return data if same and all(stamp(source.place.path) == source.stamp for source in index.sources) else None


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """One process at a time; the system lifts the lock of one that dies."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        rank_zero_only(log.info)(f"waiting for another process, which decodes the images into {folder}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def build(folder: Path, places: Sequence[Place], headers: Mapping[str, Header], channels: int) -> np.ndarray:
    """Brings the cache up to date: reads files whose stamp is new, and decodes those whose contents are.

    Raises:
        DataError: see :func:`decoded`.
        OSError: the folder cannot be written.
    """
    before, old = trusted(folder) or (Index([]), np.empty(0, np.uint8))
    sweep(folder, keep=before.data)
    known = {source.place.path: source for source in before.sources}
    stamps = {place.path: stamp(place.path) for place in places}
    new = {path: now.size for path, now in stamps.items() if path not in known or known[path].stamp != now}
    hashes = {path: source.sha256 for path, source in known.items()} | watched("reading", sha256, new)
    index = Index([Source(place, stamps[place.path], hashes[place.path]) for place in places])
    if index.data != before.data:
        kept = {
            source.place.path: previous.place.within(old)
            for source in index.sources
            if (previous := known.get(source.place.path)) and previous.holds_pixels_of(source)
        }
        with replacing(folder / index.data) as temporary:
            write_pixels(temporary, index, kept, headers, channels)
    with replacing(folder / "index.json") as temporary:
        temporary.write_bytes(INDEX.dump_json(index, indent=1))
    sweep(folder, keep=index.data)
    return np.memmap(folder / index.data, np.uint8, "r").view(np.ndarray)


def write_pixels(
    file: Path, index: Index, kept: Mapping[str, np.ndarray], headers: Mapping[str, Header], channels: int
) -> None:
    """Writes a data file: pixels that are kept are copied, all others decoded.

    Raises:
        DataError: too little space, files that cannot be decoded or are written meanwhile.
    """
    sources = {source.place.path: source for source in index.sources}
    size, free = index.sources[-1].place.end, shutil.disk_usage(file.parent).free
    if free < size:
        raise DataError(
            f"data.cache_dir: the decoded images take {size:,} bytes ({decimal(size)}), but {free:,} ({decimal(free)}) "
            f"are free in {file.parent}; make room, {ELSEWHERE}"
        )
    number = f"{len(sources) - len(kept)} of {len(sources)} images"
    rank_zero_only(log.info)(f"decoding {number} into {file.parent} ({decimal(size)}), once for all runs")
    with file.open("wb") as empty:
        empty.truncate(size)

    def fill(path: str) -> None:
        if (pixels := kept.get(path)) is None:
            pixels = decode_as(Path(path), headers[path], channels)
            if stamp(path) != sources[path].stamp:
                raise DataError(f"{path}: was written while it was read")
        with file.open("r+b") as place:
            place.seek(sources[path].place.offset)
            place.write(np.ascontiguousarray(pixels).data)

    watched("decoding", fill, {path: source.place.end - source.place.offset for path, source in sources.items()})


def sweep(folder: Path, keep: str) -> None:
    """Removes what killed builders have left, and every data file but one; who still maps another keeps it."""
    for path in {*folder.glob(".*.part*"), *folder.glob("*.pixels")}:
        if path.name != keep:
            path.unlink()


def sha256(path: str) -> str:
    """The digest of a file's bytes.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return digest(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


def watched(title: str, function: Callable[[str], T], sizes: Mapping[str, int]) -> dict[str, T]:
    """``function`` of each path in threads, under a progress bar of images and bytes, where there is a terminal."""
    console, done = Console(), count(1)
    images = "{task.fields[done]} of {task.fields[images]} images"
    columns = ("{task.description}", BarColumn(), images, DownloadColumn(), TimeRemainingColumn())
    shown = console.is_terminal and getattr(rank_zero_only, "rank", 0) == 0
    with Progress(*columns, console=console, disable=not (shown and sizes)) as bar:
        task = bar.add_task(title, total=sum(sizes.values()), done=0, images=len(sizes))

        def step(path: str) -> T:
            result = function(path)
            bar.update(task, advance=sizes[path], done=next(done))
            return result

        return dict(zip(sizes, each(step, list(sizes), THREADS), strict=True))
