"""Which images a run has, and how they part into training, validation and test images."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.captures import twinned
from datamodules.catalog import directory, find, known
from datamodules.idx import unpacked
from datamodules.images import DataError, image_files, listing, read_header
from datamodules.parting import Item, Splits, part, parted, require

log = logging.getLogger(__name__)
FEW = 10  # pictures, of which none is held out


def images_of(name: str, root: str) -> list[Item]:
    """The images of a named set, those of a video as its frames; see :func:`datamodules.catalog.find`."""
    video = name if known(name).video else None
    return [Item(name, path.stem, path, video=video) for path in find(name, root)]


def named(*, train: str | Sequence[str], hold_out: int, test: Sequence[str], root: str, split_seed: int) -> Splits:
    """Named training sets, of whose images ``hold_out`` are for validation, and named test sets."""
    items = [item for name in ([train] if isinstance(train, str) else train) for item in images_of(name, root)]
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
        return parted(_directory(path), fractions, split_seed, kept_in=Path(path))
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
        parts = parted(whole, fractions, split_seed, kept_in=Path(path))
        chosen = [{video.name for video in part_} for part_ in (parts.train, parts.val, parts.test)]
        return Splits(*([item for item in frames if item.video in names] for names in chosen))
    require(fractions)
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
    return parted([Item(name, picture.stem, picture) for picture in pictures], fractions, split_seed)


def unreferenced(*, path: str | None, hold_out: float, split_seed: int, captures: str | None = None) -> Splits:
    """Noisy pictures without clean ones: all of them to be cleaned, and, for objectives that need no clean image, to
    learn from, less a share ``hold_out`` for validation; fewer than ten are all for either. With ``captures`` those of
    one scene as each other's twins, see :func:`datamodules.captures.twinned`.

    Raises:
        DataError: no directory is given, or it holds no image.
    """
    if path is None:
        raise DataError("data=noisy needs data.path=DIR, a directory of noisy pictures")
    items = [Item(item.set, item.name, None, item.clean) for item in _directory(path)]
    held = round(hold_out * len(items)) if len(items) >= FEW else 0
    learn, val = part(items, [len(items) - held, held], split_seed)
    parts = Splits(learn, val or items, items)
    return twinned(parts, captures) if captures else parts


def pairs(
    *,
    noisy: str | None,
    clean: str | None,
    groups: str | None,
    synthetic: bool,
    fractions: Sequence[float],
    split_seed: int,
    unpaired: bool = False,
    captures: str | None = None,
    test: str | None = None,
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
        unpaired: whether training and validation images are the noisy ones alone, whose clean ones are not opened.
        captures: so that, moreover, those of one scene are each other's twins, see
            :func:`datamodules.captures.twinned`.
        test: a regular expression: the pairs whose names it finds something in are the test images; of the others those
            that fractions would make test images are for training.
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
    parts = parted(items, fractions, split_seed, groups, kept_in=Path(clean) if keep else None)
    if test is not None:
        parts = chosen_for_test(parts, test)
    if synthetic and (unpaired or captures):
        named = "data.unpaired=true" if unpaired else f"data.captures={captures}"
        raise DataError(f"data.synthetic=true learns from clean images, {named} from noisy ones: choose")
    if unpaired or captures:
        train, val = ([replace(item, clean=None) for item in items] for items in (parts.train, parts.val))
        parts = replace(parts, train=train, val=val)
        return twinned(parts, captures) if captures else parts
    return replace(parts, train=[replace(item, noisy=None) for item in parts.train]) if synthetic else parts


def chosen_for_test(parts: Splits, pattern: str) -> Splits:
    """The splits with those items as test images in whose names a regular expression finds something.

    Raises:
        DataError: it is none, or finds nothing.
    """
    try:
        finder = re.compile(pattern)
    except re.error as error:
        raise DataError(f"data.test={pattern}: not a regular expression: {error}") from error
    train, val, test = (
        [item for item in items if bool(finder.search(item.name)) == chosen]
        for items, chosen in (
            ([*parts.train, *parts.test], False),
            (parts.val, False),
            ([*parts.train, *parts.val, *parts.test], True),
        )
    )
    if not test:
        raise DataError(f"data.test={pattern}: found in no name of the {len(train) + len(val)} pairs")
    return Splits(train, val, sorted(test, key=lambda item: item.name))


def named_pairs(*, name: str, root: str, **options: Any) -> Splits:
    """:func:`pairs`, of a named set: its folders ``noisy`` and ``clean``, whose files do not change."""
    folder = directory(name, root)
    return pairs(noisy=str(folder / "noisy"), clean=str(folder / "clean"), keep=False, **options)


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
