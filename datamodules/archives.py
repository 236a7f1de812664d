"""Archives, unpacked safely: plain files only, none outside the folder, none larger than it says."""

import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from datamodules.images import DataError

LARGEST = 200 * 2**30  # bytes in all that an archive may unpack to
CHUNK = 1 << 20
Place = Callable[[str], str | None]  # a member's name → the name it gets, or None if it is not wanted
Member = tuple[str, int, Callable[[], IO[bytes] | None] | None]  # name, size, how to open it if it is a plain file


def unpack(archive: Path, folder: Path, place: Place) -> int:
    """Unpacks the wanted members of a zip or tar file into a folder; how many there were.

    Args:
        archive: the file; what it is, its content tells.
        folder: where they go, made if need be.
        place: see above; the names it gives are relative to the folder.

    Raises:
        DataError: not such an archive, or damaged; a wanted member that is a link or a device, would lie outside the
            folder, or is longer than it says; two of one name; more than LARGEST bytes, or than there is room for.
    """
    try:
        with _open(archive) as opened:
            members = _zipped(opened) if isinstance(opened, zipfile.ZipFile) else _tarred(opened)
            return _write(archive, members, folder, place)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{archive}: cannot be unpacked ({error})") from error


def _open(archive: Path) -> zipfile.ZipFile | tarfile.TarFile:
    if zipfile.is_zipfile(archive):
        return zipfile.ZipFile(archive)
    if tarfile.is_tarfile(archive):
        return tarfile.open(archive)
    raise DataError(f"{archive}: neither a zip nor a tar file")


def _zipped(opened: zipfile.ZipFile) -> Iterator[Member]:
    for info in opened.infolist():
        if info.is_dir():
            continue
        mode = info.external_attr >> 16
        special = stat.S_IFMT(mode) not in (0, stat.S_IFREG)
        yield info.filename, info.file_size, None if special else partial(opened.open, info)


def _tarred(opened: tarfile.TarFile) -> Iterator[Member]:
    for info in opened:
        if not info.isdir():
            yield info.name, info.size, partial(opened.extractfile, info) if info.isreg() else None


def _write(archive: Path, members: Iterator[Member], folder: Path, place: Place) -> int:
    written: set[str] = set()
    total = 0
    for name, size, opening in members:
        if (wanted := place(name)) is None:
            continue
        relative = PurePosixPath(wanted.replace("\\", "/"))
        if relative.is_absolute() or ".." in relative.parts or ".." in PurePosixPath(name).parts:
            raise DataError(f"{archive}: its member {name} would lie outside of the folder; nothing of it is used")
        if wanted in written:
            raise DataError(f"{archive}: two of its members would become {wanted}")
        written.add(wanted)
        total += size
        if total > LARGEST or total > shutil.disk_usage(folder.parent).free:
            raise DataError(f"{archive}: it would unpack to {total:,} bytes and more, for which there is no room")
        if opening is None or (source := opening()) is None:
            raise DataError(f"{archive}: its member {name} is a link or a device; nothing of it is used")
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        with source, target.open("xb") as file:
            left = size
            while chunk := source.read(min(CHUNK, left + 1)):
                left -= len(chunk)
                if left < 0:
                    raise DataError(f"{archive}: its member {name} is longer than the {size:,} bytes that it says")
                file.write(chunk)
        if left:
            raise DataError(f"{archive}: its member {name} ends {left:,} bytes early")
    return len(written)
