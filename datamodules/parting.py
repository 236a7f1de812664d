"""Sets of images in parts: training, validation and test, drawn, read from a file, or grouped by a pattern."""

import hashlib
import itertools
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.files import write_text
from datamodules.images import DataError

log = logging.getLogger(__name__)
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Item:
    """One image: the set it is reported under, its name there, its clean file, its noisy one, or both.

    Frames of a video follow each other, and say which one they are of. A twin is another noisy image of the scene.
    """

    set: str
    name: str
    clean: Path | None
    noisy: Path | None = None
    video: str | None = None
    twin: Path | None = None

    @property
    def views(self) -> dict[str, Path]:
        """``clean``, ``noisy`` and ``twin``, those that there are → their files."""
        named = (("clean", self.clean), ("noisy", self.noisy), ("twin", self.twin))
        return {view: path for view, path in named if path}

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of its views, in their order."""
        return tuple(self.views.values())


@dataclass(frozen=True)
class Splits:
    """The images of a run. No image is in two splits."""

    train: list[Item]
    val: list[Item]
    test: list[Item]

    def fingerprint(self) -> dict[str, str]:
        """Split → how many images it has, and a hash of their names and of their files' sizes; wherever they lie."""
        marks = {}
        for name in PARTS:
            items: list[Item] = getattr(self, name)
            listed = [(item.set, item.name, *(path.stat().st_size for path in item.files)) for item in items]
            marks[name] = f"{len(items)} images, {hashlib.sha256(repr(listed).encode()).hexdigest()[:12]}"
        return marks


def together(items: Sequence[Item]) -> list[list[int]]:
    """The numbers of the items that are evaluated together: of all frames of a video, or of one image."""
    numbers = range(len(items))
    groups = itertools.groupby(numbers, lambda n: n if items[n].video is None else (items[n].set, items[n].video))
    return [list(group) for _, group in groups]


def part(items: Sequence[Item], sizes: Sequence[int], split_seed: int) -> list[list[Item]]:
    """The items in parts of the given sizes, drawn by the seed, each in the order of the items."""
    order = np.random.default_rng(split_seed).permutation(len(items))
    return [[items[i] for i in sorted(chosen)] for chosen in np.split(order, np.cumsum(sizes)[:-1])]


def grouped(items: Sequence[Item], pattern: str | None, key: str = "groups") -> dict[str, list[Item]]:
    """Group → its images: what the (groups) of a regular expression find in their names; without one, their folder.

    Raises:
        DataError: it, the value of data.``key``, is no regular expression, or finds nothing in a name.
    """
    try:
        finder = re.compile(pattern) if pattern else None
    except re.error as error:
        raise DataError(f"data.{key}={pattern}: not a regular expression: {error}") from error
    found: dict[str, list[Item]] = {}
    for item in items:
        if finder is None:
            name = item.name.rpartition("/")[0] or "all"
        elif match := finder.search(item.name):
            name = "_".join(part for part in match.groups() if part) or match[0]
        else:
            raise DataError(f"data.{key}={pattern}: nothing of it in the name {item.name}")
        found.setdefault(name, []).append(item)
    return dict(sorted(found.items()))


def parted(
    items: list[Item],
    fractions: Sequence[float],
    split_seed: int,
    groups: str | None = None,
    kept_in: Path | None = None,
) -> Splits:
    """The items in three parts; as they were parted before, if a directory keeps that."""
    require(fractions)
    if list(fractions) == [0, 0, 1]:
        return Splits([], [], items)
    if len(items) < 3:
        raise DataError(
            f"{len(items)} images cannot be parted into training, validation and test: at least 3 are needed"
        )
    if kept_in is None:
        return Splits(*_drawn(items, fractions, split_seed, groups))
    file = kept_in / f".split-{split_seed}-{'-'.join(f'{fraction:g}' for fraction in fractions)}.json"
    before = _read(file)
    here = [[item for item in items if item.name in names] for names in before]
    if not all(here):  # there was none, or what it parted is gone
        parts = _drawn(items, fractions, split_seed, groups)
    else:
        known = set().union(*before)
        parts = _lagging([item for item in items if item.name not in known], here, fractions, split_seed, groups)
    if (found := [[item.name for item in part_] for part_ in parts]) != before:
        try:
            write_text(file, json.dumps(dict(zip(PARTS, found, strict=True)), indent=1))
        except OSError as error:
            log.info(f"{file} cannot be written ({error.strerror}): images may change parts when others are added")
    return Splits(*parts)


def require(fractions: Sequence[float]) -> None:
    """Raises DataError if they are no three fractions."""
    three = len(fractions) == 3 and min(fractions) > 0 and abs(sum(fractions) - 1) < 1e-6
    if not three and list(fractions) != [0, 0, 1]:
        raise DataError(
            f"data.fractions={list(fractions)}: three positive numbers (train, val, test) that add up to 1, "
            "or [0,0,1], which makes all of them test images"
        )


def _read(file: Path) -> list[list[str]]:
    """The names in the three parts that a file keeps; empty parts without a file.

    Raises:
        DataError: it is damaged.
    """
    if not file.is_file():
        return [[], [], []]
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return [[str(name) for name in kept[part_]] for part_ in PARTS]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} keeps which images are for training and which for test; it is damaged: remove it"
        ) from error


def _drawn(items: list[Item], fractions: Sequence[float], split_seed: int, groups: str | None) -> list[list[Item]]:
    val, test = (max(1, round(fraction * len(items))) for fraction in fractions[1:])
    sizes = [len(items) - val - test, val, test]
    if groups is None:
        return part(items, sizes, split_seed)
    return _lagging(items, [[], [], []], [size / len(items) for size in sizes], split_seed, groups)


def _lagging(
    items: Sequence[Item],
    parts: Sequence[Sequence[Item]],
    fractions: Sequence[float],
    split_seed: int,
    groups: str | None,
) -> list[list[Item]]:
    """The parts with further items, group by group: the part that lags most behind its fraction takes the next."""
    random, found = np.random.default_rng(split_seed), [list(part_) for part_ in parts]
    for members in (grouped(items, groups) if groups else {"": list(items)}).values():
        for index in random.permutation(len(members)):
            place = 1 + sum(map(len, found))
            lag = [fraction * place - len(part_) for fraction, part_ in zip(fractions, found, strict=True)]
            found[int(np.argmax(lag))].append(members[index])
    return [sorted(part_, key=lambda item: item.name) for part_ in found]
