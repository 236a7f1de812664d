"""What there is to clean, and where it goes."""

import glob
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datamodules.images import SUFFIXES
from experiments.cli import UserError

log = logging.getLogger(__name__)
VIDEOS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"}
KNOWN = SUFFIXES | VIDEOS


@dataclass(frozen=True)
class Item:
    """A file to clean.

    Args:
        source: where it lies.
        name: below the folder that was given, with slashes.
        target: where the clean one goes.
    """

    source: Path
    name: str
    target: Path

    @property
    def is_video(self) -> bool:
        """By its suffix."""
        return self.source.suffix.lower() in VIDEOS


def is_single(source: str, output: str) -> bool:
    """Whether one file is to become another, whose name is given.

    Raises:
        UserError: the name has a suffix that no file to be written has, or of a video for a picture, or the reverse.
    """
    target = Path(output)
    if not Path(source).is_file() or target.is_dir() or output.endswith("/") or not target.suffix:
        return False
    if target.suffix.lower() not in KNOWN:
        raise UserError(
            f"output={output}: {target.suffix} is not a picture format; use {Path(source).suffix}, or for a folder "
            f"output={output}/"
        )
    if (target.suffix.lower() in VIDEOS) != (Path(source).suffix.lower() in VIDEOS):
        raise UserError(f"output={output}: a picture becomes a picture, a video a video; use {Path(source).suffix}")
    return True


def single(source: str, output: str, overwrite: bool) -> Item:
    """The file, and its place.

    Raises:
        UserError: that is the file itself, or exists.
    """
    target = Path(output)
    if target.exists() and target.samefile(source):
        raise UserError(f"output={output} is the input, which is never overwritten: name another file")
    if target.exists() and not overwrite:
        raise UserError(f"output={output} exists: name another file, or add overwrite=true")
    return Item(Path(source), target.name, target)


def items(source: str, output: str) -> list[Item]:
    """The pictures and videos of a file, a folder and what is below it, or a pattern, by name.

    Hidden files and folders are left out, and so is what has the suffix of neither.

    Raises:
        UserError: there are none, or the output lies where it would be found as an input.
    """
    path, target = Path(source), Path(output)
    if target.is_file():
        raise UserError(f"output={output} is a file: name a folder")
    if path.is_dir():
        base, found, nested = path, list(below(path)), True
    elif os.path.lexists(path):
        base, found, nested = path.parent, [path], False
    elif glob.has_magic(source):
        base = Path(*Path(source).parts[: first_magic(source)])
        found, nested = [Path(name) for name in glob.glob(source, recursive=True)], "**" in source
        found = [file for file in found if not file.is_dir()]
    else:
        raise UserError(f"input={source}: there is no such file or folder")
    others = sorted({file.suffix.lower() for file in found} - KNOWN)
    count, found = len(found), [file for file in found if file.suffix.lower() in KNOWN]
    inside = target.resolve()
    if nested and inside.is_relative_to(base.resolve()):
        raise UserError(f"output={output} lies inside {base}, where the next run would take it for input: name another")
    if any(file.absolute().is_relative_to(inside) for file in found):
        raise UserError(f"output={output} holds files of the input, which are never overwritten: name another folder")
    if not found:
        raise UserError(f"input={source}: no pictures or videos (looked for {', '.join(sorted(KNOWN))})")
    if others:
        log.info(f"{count - len(found)} files that are no pictures or videos are left out ({', '.join(others)})")
    named = sorted((file.relative_to(base).as_posix(), file) for file in found)
    return [Item(file, name, target / name) for name, file in named]


def first_magic(pattern: str) -> int:
    """The number of the first part of a path that is a pattern."""
    return next(number for number, part in enumerate(Path(pattern).parts) if glob.has_magic(part))


def below(folder: Path) -> Iterator[Path]:
    """The files in a folder and the folders below, but for hidden ones; links to folders are not followed.

    Raises:
        UserError: a folder cannot be looked into.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be looked into ({error.strerror}): make it readable, or leave it out")

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in names if not name.startswith("."))
