"""Chooses which images a page can carry, and embeds their pictures as WebP within a budget."""

import base64
import functools
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.report.scores import Case, leader, ranking
from experiments.report.study import Row
from experiments.report.tables import by_condition

QUALITIES = (None, 95, 85, 75)  # lossless, then what libwebp calls quality
EXTREMES = 4  # of the best and of the worst images under each condition, which are kept before all others
MISSES = 6  # images in a row that find no room end the search for smaller ones
LARGEST = 16383  # pixels a side that WebP can hold


@dataclass
class Shots:
    """One case's picture files by version (``clean``, ``noisy``, method numbers), and the rows they belong to."""

    case: int
    files: dict[str, Path] = field(default_factory=dict)
    rows: dict[int, Row] = field(default_factory=dict)


@dataclass
class Album:
    """What a page embeds.

    Attributes:
        pictures: each WebP file once.
        sizes: case → height and width.
        versions: case → version (``clean``, ``noisy``, ``0``, ``1``, …) → number of the picture.
        quality: None where every picture is lossless.
        left_out: cases that have pictures but found no room.
        unreadable: files that are no pictures.
    """

    pictures: list[bytes] = field(default_factory=list)
    versions: dict[int, dict[str, int]] = field(default_factory=dict)
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    quality: int | None = None
    left_out: list[int] = field(default_factory=list)
    unreadable: set[Path] = field(default_factory=set)

    @property
    def bytes(self) -> int:
        return sum(map(len, self.pictures))


def album(shots: Sequence[Shots], order: Sequence[int], budget: int) -> Album:
    """All pictures lossless if they fit, else at the highest quality at which they do, else the first of ``order``.

    Args:
        shots: of the cases that have pictures.
        order: case numbers, the most wanted first.
        budget: bytes of all WebP files together.
    """
    rank = {case: place for place, case in enumerate(order)}
    wanted = sorted(shots, key=lambda shot: rank[shot.case])
    for quality in QUALITIES[:-1]:
        filled = fill(wanted, quality, budget, misses=1)
        if not filled.left_out:
            return filled
    return fill(wanted, QUALITIES[-1], budget, MISSES)


def fill(wanted: Sequence[Shots], quality: int | None, budget: int, misses: int) -> Album:
    """Takes cases in their order while they fit; gives up after so many in a row that do not."""
    made, known, missed = Album(quality=quality), {}, 0
    for shot in wanted:
        files, versions, fresh, size = {}, {}, {}, None
        for version, path in shot.files.items():
            try:
                content = path.read_bytes()
                digest = hashlib.sha256(content).digest()
                if digest not in known and digest not in fresh:
                    fresh[digest] = encode(content, quality)
                if size is None:
                    size = Image.open(io.BytesIO(content)).size
            except (OSError, ValueError, Image.DecompressionBombError):
                made.unreadable.add(path)
                continue
            files[version] = digest
        if size is None:
            continue
        if made.bytes + sum(map(len, fresh.values())) > budget:
            made.left_out.append(shot.case)
            missed += 1
            if missed == misses:
                rest = wanted[wanted.index(shot) + 1 :]
                made.left_out += [other.case for other in rest]
                break
            continue
        missed = 0
        for digest, picture in fresh.items():
            known[digest] = len(made.pictures)
            made.pictures.append(picture)
        versions = {version: known[digest] for version, digest in files.items()}
        made.versions[shot.case], made.sizes[shot.case] = versions, (size[1], size[0])
    return made


@functools.lru_cache(1024)  # for reports that are written again and again
def encode(content: bytes, quality: int | None) -> bytes:
    """A picture file as WebP with 8 bits a channel; exact, without a quality, for what has no more.

    Raises:
        OSError, ValueError: it is no picture, or too large for WebP.
    """
    picture: Image.Image = Image.open(io.BytesIO(content))
    if picture.mode.startswith("I"):  # 16 bits
        picture = Image.fromarray((np.asarray(picture).astype(np.uint32) // 257).astype(np.uint8))
    if max(picture.size) > LARGEST:
        raise ValueError(f"more than {LARGEST} pixels a side")
    stream = io.BytesIO()
    options = {"lossless": True, "quality": 50} if quality is None else {"quality": quality}
    picture.convert("RGB").save(stream, "WEBP", method=4, **options)
    return stream.getvalue()


def shots(cases: Sequence[Case]) -> list[Shots]:
    """The picture files of every case that has any."""
    found = []
    for number, case in enumerate(cases):
        shot = Shots(number)
        for method, rows in case.rows.items():
            for row in rows:
                if (path := picture(row, "estimate")) is not None:
                    shot.files[str(method)], shot.rows[method] = path, row
                    break
        for version in ("noisy", "clean"):
            rows = [*shot.rows.values(), *(row for rows in case.rows.values() for row in rows)]
            every = (picture(row, version) for row in rows)
            if (path := next((path for path in every if path is not None), None)) is not None:
                shot.files = {version: path} | shot.files
        if shot.files:
            found.append(shot)
    return found


def picture(row: Row, version: str) -> Path | None:
    """A row's picture file, if it is there and inside the row's own folder."""
    path = row.pictures / f"{version}.png"
    if ".." in (row.set, row.image) or not path.is_file():
        return None
    return path


def order(cases: Sequence[Case]) -> list[int]:
    """Case numbers by how much a page needs them: the extremes of each condition in turn, then the others."""
    numbers = {id(case): number for number, case in enumerate(cases)}
    queues = []
    for group in by_condition(cases).values():
        best = leader(group)
        ranked = [] if best is None else ranking(group, best)
        ends = [n for pair in zip(ranked, reversed(ranked), strict=True) for n in pair][: 2 * EXTREMES]
        queues.append([numbers[id(group[n])] for n in dict.fromkeys([*ends, *range(len(group))])])
    return list(interleaved(queues))


def interleaved(queues: Sequence[Sequence[int]]) -> Iterable[int]:
    """One of each queue in turn."""
    for place in range(max(map(len, queues), default=0)):
        yield from (queue[place] for queue in queues if place < len(queue))


def data_uri(content: bytes, kind: str = "image/webp") -> str:
    """A file inside a page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
