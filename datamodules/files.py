"""Files that are whole or not there."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, with its suffix; what is written there takes its place if nothing fails.

    It lies in the same folder, because no other is sure to be on the same file system, and reaches the disk first.

    Raises:
        OSError: naming ``path``; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    end = f".{os.getpid()}.part{path.suffix}"
    temporary = path.with_name(f".{path.stem}{end}")
    if len(os.fsencode(temporary.name)) > 255:  # more than most file systems allow
        temporary = path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()}{end}")
    try:
        yield temporary
        synchronise(temporary)
        os.replace(temporary, path)
        synchronise(path.parent)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_together(path: Path) -> Iterator[Path]:
    """As :func:`replacing`, for a file that others belong to: what is written beside the temporary one moves, too.

    The others appear first, and an older file is gone before them, so that no file is ever seen with another's.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.stem}.", suffix=".part", dir=path.parent))
    try:
        yield folder / path.name
        written = sorted(folder.iterdir(), key=lambda file: file.name == path.name)
        for file in written:
            synchronise(file)
        if len(written) > 1:
            path.unlink(missing_ok=True)
        for file in written:
            os.replace(file, path.parent / file.name)
        synchronise(path.parent)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        shutil.rmtree(folder)


def synchronise(path: Path) -> None:
    """Returns when a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(path: Path | str) -> str:
    """The SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
