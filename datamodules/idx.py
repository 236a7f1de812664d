"""idx files, in which digits come: many small grey pictures in one file (LeCun, Cortes and Burges, "MNIST")."""

import gzip
import os
import shutil
import tempfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.files import digest
from datamodules.images import DataError

MAGIC = b"\x00\x00\x08\x03"  # unsigned bytes in three dimensions
LARGEST = 2**30  # values in a file


def read_idx(path: Path) -> np.ndarray:
    """The pictures of a file, gzipped or not: [N, H, W], uint8.

    Raises:
        DataError: no such file, or not one of pictures, or shorter or longer than its header says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(16)
            if header[:4] != MAGIC or len(header) < 16:
                raise DataError(f"{path}: not an idx file of 8-bit pictures (it begins with {header[:4].hex(' ')})")
            shape = tuple(int.from_bytes(header[at : at + 4], "big") for at in (4, 8, 12))
            size = int(np.prod(shape, dtype=np.int64))
            values = file.read(min(size, LARGEST) + 1)  # no more, whatever a damaged file unpacks to
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if len(values) != size:
        more = "more" if len(values) > size else f"{len(values):,}"
        raise DataError(f"{path}: its header says {'×'.join(map(str, shape))} = {size:,} values, it holds {more}")
    return np.frombuffer(values, np.uint8).reshape(shape)


def unpacked(path: Path, cache_dir: Path) -> Path:
    """A folder below ``cache_dir`` with the pictures of an idx file as PNG files; made once, visible when complete.

    Raises:
        DataError: see :func:`read_idx`.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    folder = cache_dir / f"{path.name.split('.')[0]}-{digest(path)[:12]}"
    if folder.is_dir():
        return folder
    pictures = read_idx(path)
    cache_dir.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".", suffix=".part", dir=cache_dir))
    try:
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(temporary / f"{number:05}.png", compress_level=1)
        os.sync()  # or a machine that stops now might find the folder's name, and not what is in it
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was first
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
