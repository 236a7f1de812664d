"""What all kinds of picture files have in common: facts, pixels out, pixels in."""

import math
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from datamodules.errors import DataError
from datamodules.files import replacing

MAX_PIXELS = 10**9
MEMORY_SHARE = 0.5  # of the free memory that one array may take before it is kept in a file
PACKING = 1100  # bytes that one byte may stand for: of Deflate 1032, of LZW and JPEG fewer
MEMORY = Path("/proc/meminfo")
SMALL = 1 << 24  # bytes of pixels that no header is doubted for
BAND = 1 << 20  # bytes of pixels that are decoded or encoded at a time, about


@dataclass(frozen=True)
class Page:
    """One picture of a file.

    Args:
        height, width: in pixels, as stored: not turned upright.
        channels: of colour, 1 or 3.
        dtype: uint8, uint16 or float32.
        alpha: whether an alpha channel follows the colours.
    """

    height: int
    width: int
    channels: int
    dtype: np.dtype
    alpha: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of :meth:`Picture.pixels`: height, width, channels."""
        return self.height, self.width, self.channels

    def require_at_most(self, pixels: int) -> None:
        """Raises ValueError for a page of no pixels, or of more than these."""
        if self.height < 1 or self.width < 1:
            raise ValueError(f"a page of {self.height}×{self.width} pixels holds nothing")
        if self.height * self.width > pixels:
            size = f"{self.height}×{self.width} pixels"
            raise ValueError(f"its header says {size}, more than the {pixels:,} that are allowed: cut it into parts")


@dataclass(frozen=True)
class Picture(ABC):
    """A file whose pixels can be had and exchanged; nothing is decoded before they are asked for.

    Args:
        path: of the file.
        format: PNG, TIFF, JPEG, WEBP or BMP.
        sheets: the facts of each page.
        notes: what will be different in a written file besides the pixels, in words.
    """

    path: Path
    format: str
    sheets: tuple[Page, ...]
    notes: tuple[str, ...]

    @property
    def pages(self) -> int:
        """How many pictures the file holds."""
        return len(self.sheets)

    @property
    def height(self) -> int:
        """Of the first page, as stored."""
        return self.sheets[0].height

    @property
    def width(self) -> int:
        """Of the first page, as stored."""
        return self.sheets[0].width

    @property
    def channels(self) -> int:
        """Of the first page, without alpha: 1 or 3."""
        return self.sheets[0].channels

    @property
    def dtype(self) -> np.dtype:
        """Of the first page: uint8, uint16 or float32."""
        return self.sheets[0].dtype

    @property
    def alpha(self) -> bool:
        """Whether the first page has an alpha channel."""
        return self.sheets[0].alpha

    def pixels(self, page: int = 0) -> np.ndarray:
        """The colours of a page, [H, W, C], as stored: not turned upright, transparent ones too, palettes as RGB.

        Where memory is short it lies in a file, see :func:`room`.

        Raises:
            DataError: the file is truncated or damaged, or holds numbers that are not finite.
        """
        pixels, top = room(self.sheets[page].shape, self.sheets[page].dtype), 0
        for band in self._colours(page):
            pixels[top : top + len(band)] = band
            top += len(band)
        return pixels

    @cached_property
    def limits(self) -> tuple[float, float]:
        """The numbers that stand for black and white.

        0 and 255 or 65535; for floats 0 and 1, or, where the file holds others, the least and the greatest of all its
        pages where they are beyond 0 and 1. Looking for these decodes every page.

        Raises:
            DataError: see :meth:`pixels`.
        """
        if self.dtype.kind == "u":
            return 0.0, float(np.iinfo(self.dtype).max)
        low, high = 0.0, 1.0
        for page in range(self.pages):
            for band in self._colours(page):
                low, high = min(low, float(band.min())), max(high, float(band.max()))
        return low, high

    def _colours(self, page: int) -> Iterator[np.ndarray]:
        """:meth:`bands` without alpha, and with DataErrors for all that is wrong with them."""
        try:
            for band in self.bands(page):
                if band.dtype.kind == "f" and not np.isfinite(band).all():
                    raise ValueError(f"page {page + 1} holds NaN or infinity: replace them by numbers first")
                yield band[..., : self.sheets[page].channels]
        except Exception as error:
            raise DataError(f"{self.path}: cannot be decoded ({reason(error)})") from error

    def write(self, target: Path, pages: Iterable[np.ndarray], overwrite: bool = False) -> None:
        """A file of the same kind with other pixels; alpha, ICC profile, EXIF and the rest are kept, but see ``notes``.

        The file is there when it is whole, or not at all.

        Args:
            target: where to, with a suffix of this kind of file, or the source's own.
            pages: of each page, in turn, what :meth:`pixels` gave, exchanged: the same shapes and types. Only one is
                held at a time.
            overwrite: whether a file may be replaced; the source never is.

        Raises:
            DataError: the target is the source, or exists, or has the suffix of another kind.
            ValueError: pages that do not fit.
            OSError: it cannot be written; nothing is left behind.
        """
        if target.exists() and target.samefile(self.path):
            raise DataError(f"{target} is the picture itself, which is never overwritten: name another file")
        if target.exists() and not overwrite:
            raise DataError(f"{target} exists: name another file, or allow that it is overwritten")
        suffixes = {self.path.suffix.lower(), *SUFFIXES_OF[self.format]}
        if target.suffix.lower() not in suffixes:
            raise DataError(f"{target}: the picture is a {self.format} file: name it {' or '.join(sorted(suffixes))}")
        with replacing(target) as temporary:
            self._write(temporary, self._fitting(pages))

    def _fitting(self, pages: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same, as long as they are what the file's own pages are."""
        count = 0
        for count, pixels in enumerate(pages, 1):
            facts = self.sheets[count - 1] if count <= self.pages else None
            if facts is None or (pixels.shape, pixels.dtype) != (facts.shape, facts.dtype):
                was = f"{facts.shape} {facts.dtype}" if facts else "not there"
                raise ValueError(f"page {count} of {self.path} is to be {pixels.shape} {pixels.dtype}, but was {was}")
            yield pixels
        if count != self.pages:
            raise ValueError(f"{count} pages were given of the {self.pages} of {self.path}")

    def joined(self, page: int, pixels: np.ndarray) -> Iterator[np.ndarray]:
        """New colours of a page, [H, W, C], with its own alpha: [h, W, C or C + 1], some rows at a time."""
        facts, top = self.sheets[page], 0
        if facts.alpha:
            for band in self.bands(page):
                yield np.concatenate([pixels[top : top + len(band)], band[..., facts.channels :]], 2)
                top += len(band)
        else:
            rows = max(1, BAND // (facts.width * facts.channels * facts.dtype.itemsize))
            yield from (pixels[top : top + rows] for top in range(0, facts.height, rows))

    @abstractmethod
    def bands(self, page: int) -> Iterator[np.ndarray]:
        """The rows of a page from the top, some at a time, [h, W, C or C + 1]: colours, alpha; floats as stored."""

    @abstractmethod
    def _write(self, target: Path, pages: Iterator[np.ndarray]) -> None:
        """Writes a file; every page has to be taken."""


SUFFIXES_OF = {
    "PNG": {".png"},
    "TIFF": {".tif", ".tiff"},
    "JPEG": {".jpg", ".jpeg"},
    "WEBP": {".webp"},
    "BMP": {".bmp"},
}


def reason(error: Exception) -> str:
    """What an error says, without the path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def require_held(raw: int, stored: int) -> None:
    """Raises ValueError where so many bytes cannot have been packed into so many: a file that lies about its size."""
    if raw > PACKING * stored + SMALL:
        raise ValueError(f"its header says {raw:,} bytes of pixels, which its {stored:,} cannot hold")


def room(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array with anything in it; one that would take much of the free memory lies in a file that nobody sees.

    The file is in the folder for temporary files ($TMPDIR) and goes with the array.
    """
    if math.prod(shape) * np.dtype(dtype).itemsize <= MEMORY_SHARE * _free():
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile() as file:  # its name is gone already; the mapping holds it
        return np.memmap(file, dtype, "w+", shape=shape)


def _free() -> int:
    """Bytes of memory that can be had: what is free, and what only keeps files at hand."""
    if MEMORY.exists():  # Linux
        return 1024 * next(int(line.split()[1]) for line in MEMORY.open() if line.startswith("MemAvailable"))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
