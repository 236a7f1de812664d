"""Which images a run has, and how they part into training, validation and test images."""

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.catalog import directory, find
from datamodules.files import write_text
from datamodules.idx import unpacked
from datamodules.images import DataError, image_files, listing, read_header

log = logging.getLogger(__name__)
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Item:
    """One image: the set it is reported under, its name there, its clean file, its noisy one, or both.

    Frames of a video follow each other, and say which one they are of.
    """

    set: str
    name: str
    clean: Path | None
    noisy: Path | None = None
    video: str | None = None

    @property
    def views(self) -> dict[str, Path]:
        """``clean`` and ``noisy``, those that there are → their files."""
        return {view: path for view, path in (("clean", self.clean), ("noisy", self.noisy)) if path}

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


def part(items: Sequence[Item], sizes: Sequence[int], split_seed: int) -> list[list[Item]]:
    """The items in parts of the given sizes, drawn by the seed, each in the order of the items."""
    order = np.random.default_rng(split_seed).permutation(len(items))
    return [[items[i] for i in sorted(chosen)] for chosen in np.split(order, np.cumsum(sizes)[:-1])]


def images_of(name: str, root: str) -> list[Item]:
    """The images of a named set; see :func:`datamodules.catalog.find`."""
    return [Item(name, path.stem, path) for path in find(name, root)]


def named(*, train: str, hold_out: int, test: Sequence[str], root: str, split_seed: int) -> Splits:
    """A named training set, of which ``hold_out`` images are for validation, and named test sets."""
    items = images_of(train, root)
    learn, val = part(items, [len(items) - hold_out, hold_out], split_seed)
    return Splits(learn, val, [item for name in test for item in images_of(name, root)])


def tests(*, names: Sequence[str], root: str) -> Splits:
    """Named test sets; nothing to train on.

    Raises:
        DataError: an unknown set; or see :func:`find`.
    """
    return Splits([], [], [item for name in names for item in images_of(name, root)])


def sample(*, channels: int, train: Sequence[str], val: Sequence[str], test: Sequence[str]) -> Splits:
    """Natural images that ship inside scikit-image (CC0 or public domain), by file name.

    With ``channels=3`` the grey ones among them are left out.
    """
    directory = Path(str(files("skimage") / "data"))

    def items(names: Sequence[str]) -> list[Item]:
        paths = [directory / name for name in names]
        return [Item("sample", p.stem, p) for p in paths if read_header(p).channels >= channels]

    return Splits(items(train), items(val), items(test))


def folder(
    *,
    path: str | None,
    train: str | None,
    val: str | None,
    test: str | None,
    fractions: Sequence[float],
    split_seed: int,
) -> Splits:
    """One directory parted by ``fractions`` and the seed, or three directories.

    Who goes where is kept in the one directory, in ``.split-SEED-FRACTIONS.json``: images that come later or go do not
    move the others.

    Raises:
        DataError: nothing or both are given, the fractions do not add up to 1, too few images, or a file in two splits.
    """
    given = {"train": train, "val": val, "test": test}
    if (path is None) == (not any(given.values())):
        raise DataError(
            "data=folder needs either data.path=DIR, which is parted into training, validation and test images, "
            "or data.train=DIR data.val=DIR data.test=DIR"
        )
    if path is not None:
        return _parted(_directory(path), fractions, split_seed, kept_in=Path(path))
    if train and (missing := [f"data.{name}" for name, value in given.items() if value is None]):
        raise DataError(f"data=folder with data.train needs {' and '.join(missing)} as well")
    splits = {name: _directory(value) if value else [] for name, value in given.items()}
    seen: dict[Path, str] = {}
    for name, items in splits.items():
        for path_ in (path_ for item in items for path_ in item.files):
            if (other := seen.setdefault(path_.resolve(), name)) != name:
                raise DataError(f"{path_} is in both data.{other} and data.{name}: no image may be in two splits")
    return Splits(**splits)


def videos(*, path: str | None, fractions: Sequence[float], split_seed: int, **three: str | None) -> Splits:
    """Frames of videos, each in a directory of its own, in the order of their names, in which numbers count as numbers.

    Three videos or more in one directory are parted like the images of :func:`folder`; of fewer, each one is parted in
    time: its beginning is for training, its end for test.

    Raises:
        DataError: see :func:`folder`.
    """
    if path is None:
        parts = folder(path=None, fractions=fractions, split_seed=split_seed, **three)
        return Splits(*(in_order(part_) for part_ in (parts.train, parts.val, parts.test)))
    if any(three.values()):
        raise DataError("data=frames needs either data.path=DIR or data.train=DIR data.val=DIR data.test=DIR")
    frames = in_order(_directory(path))
    found: dict[str, list[Item]] = {}
    for item in frames:
        found.setdefault(item.video or "", []).append(item)
    if len(found) >= 3:
        whole = [Item(frames[0].set, video, None) for video in found]
        parts = _parted(whole, fractions, split_seed, kept_in=Path(path))
        chosen = [{video.name for video in part_} for part_ in (parts.train, parts.val, parts.test)]
        return Splits(*([item for item in frames if item.video in names] for names in chosen))
    _require(fractions)
    cuts = {video: np.round(np.cumsum([0, *fractions]) * len(items)).astype(int) for video, items in found.items()}
    return Splits(
        *([item for video, items in found.items() for item in items[slice(*cuts[video][n : n + 2])]] for n in range(3))
    )


def in_order(items: Sequence[Item]) -> list[Item]:
    """Frames by video and number, each knowing its video: the directory that it is in."""
    named_ = [replace(item, video=item.name.rpartition("/")[0]) for item in items]

    def key(item: Item) -> tuple[str, list[str | int], str]:
        video, _, frame = item.name.rpartition("/")
        return video, [int(part_) if part_.isdecimal() else part_ for part_ in re.split(r"(\d+)", frame)], frame

    return sorted(named_, key=key)


def digits(*, name: str, file: str, root: str, cache_dir: str, fractions: Sequence[float], split_seed: int) -> Splits:
    """The pictures of a named set's idx file, parted by ``fractions`` and the seed.

    Raises:
        DataError: the file is missing or damaged.
    """
    pictures = image_files(unpacked(directory(name, root) / file, Path(cache_dir).expanduser()))
    return _parted([Item(name, picture.stem, picture) for picture in pictures], fractions, split_seed)


def unreferenced(*, path: str | None) -> Splits:
    """Noisy pictures without clean ones, all of them for testing.

    Raises:
        DataError: no directory is given, or it holds no image.
    """
    if path is None:
        raise DataError("data=noisy needs data.path=DIR, a directory of noisy pictures")
    return Splits([], [], [Item(item.set, item.name, None, item.clean) for item in _directory(path)])


def pairs(
    *,
    noisy: str | None,
    clean: str | None,
    groups: str | None,
    synthetic: bool,
    fractions: Sequence[float],
    split_seed: int,
    keep: bool = True,
) -> Splits:
    """Noisy and clean files of the same relative names (suffixes may differ), parted by ``fractions`` and the seed.

    The set is called after the directory that holds the clean one.

    Args:
        noisy, clean: directories.
        groups: a regular expression, see :func:`grouped`; each group is parted alike.
        synthetic: whether the training images are the clean ones alone, for noise that is made.
        fractions: of the pairs for training, validation and test.
        split_seed: of who goes where.
        keep: whether that is kept in the directory of the clean ones, as :func:`folder` keeps it.

    Raises:
        DataError: a directory is not given, both are the same, a file has no partner, or too few pairs.
    """
    if noisy is None or clean is None:
        raise DataError("data=pairs needs data.noisy=DIR and data.clean=DIR, with files of the same names")
    if Path(noisy).resolve() == Path(clean).resolve():
        raise DataError(
            f"data.noisy and data.clean are the same directory, {noisy}: there would be no noise to learn from"
        )
    clean_items, noisy_items = _directory(clean), {item.name: item for item in _directory(noisy)}
    lonely = [f"{item.clean}: no noisy partner" for item in clean_items if item.name not in noisy_items]
    names = {item.name for item in clean_items}
    lonely += [f"{item.clean}: no clean partner" for name, item in noisy_items.items() if name not in names]
    if lonely:
        raise DataError(f"data=pairs: {len(lonely)} files have no partner of the same name:\n" + listing(lonely))
    set_name = Path(clean).resolve().parent.name
    items = [Item(set_name, item.name, item.clean, noisy_items[item.name].clean) for item in clean_items]
    parts = _parted(items, fractions, split_seed, groups, kept_in=Path(clean) if keep else None)
    return replace(parts, train=[replace(item, noisy=None) for item in parts.train]) if synthetic else parts


def named_pairs(*, name: str, root: str, **options: Any) -> Splits:
    """:func:`pairs`, of a named set: its folders ``noisy`` and ``clean``, whose files do not change."""
    folder = directory(name, root)
    return pairs(noisy=str(folder / "noisy"), clean=str(folder / "clean"), keep=False, **options)


def grouped(items: Sequence[Item], pattern: str | None) -> dict[str, list[Item]]:
    """Group → its images: what the (groups) of a regular expression find in their names; without one, their folder.

    Raises:
        DataError: it is no regular expression, or finds nothing in a name.
    """
    try:
        finder = re.compile(pattern) if pattern else None
    except re.error as error:
        raise DataError(f"data.groups={pattern}: not a regular expression: {error}") from error
    found: dict[str, list[Item]] = {}
    for item in items:
        if finder is None:
            name = item.name.rpartition("/")[0] or "all"
        elif match := finder.search(item.name):
            name = "_".join(part for part in match.groups() if part) or match[0]
        else:
            raise DataError(f"data.groups={pattern}: nothing of it in the name {item.name}")
        found.setdefault(name, []).append(item)
    return dict(sorted(found.items()))


def _directory(path: str) -> list[Item]:
    """The images below a directory, named by their relative path without suffix."""
    directory = Path(path)
    items = [
        Item(directory.resolve().name, str(file.relative_to(directory).with_suffix("")), file)
        for file in image_files(directory)
    ]
    if twins := [f"{name}.*" for name, count in Counter(item.name for item in items).items() if count > 1]:
        raise DataError(f"{directory} holds files that differ only in their suffix, rename them:\n" + listing(twins))
    return items


def _parted(
    items: list[Item],
    fractions: Sequence[float],
    split_seed: int,
    groups: str | None = None,
    kept_in: Path | None = None,
) -> Splits:
    """The items in three parts; as they were parted before, if a directory keeps that."""
    _require(fractions)
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


def _require(fractions: Sequence[float]) -> None:
    parted = len(fractions) == 3 and min(fractions) > 0 and abs(sum(fractions) - 1) < 1e-6
    if not parted and list(fractions) != [0, 0, 1]:
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
