"""TIFF: the file is copied and its strips or tiles exchanged, so that every tag stays as it is."""

import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from datamodules.errors import DataError
from datamodules.pictures.packing import (
    DEFLATES,
    LZW,
    NONE,
    PACKBITS,
    packed,
    predicted,
    samples_of_bits,
    unpacking,
    unpredicted,
)
from datamodules.pictures.picture import BAND, Picture, require_held
from datamodules.pictures.tiff_pages import (
    BITS,
    COUNTS,
    OFFSETS,
    PHOTOMETRIC,
    SAMPLES,
    WHITE_IS_ZERO,
    TiffPage,
    facts_of,
    pages_of,
)

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PIECE = 1 << 20


@dataclass(frozen=True)
class TiffPicture(Picture):
    """A TIFF file of one or more pictures."""

    sheets: tuple[TiffPage, ...]

    def bands(self, page: int) -> Iterator[np.ndarray]:
        facts = self.sheets[page]
        with self.path.open("rb") as file:
            for row in range(facts.down):
                height = facts.rows(row)
                if facts.simple:
                    for band in _unpacked(file, facts, row, height, facts.samples):
                        yield _seen(facts, band)
                    continue
                whole = np.empty((height, facts.width, facts.samples), facts.stored.newbyteorder("="))
                for number, left, samples in facts.boxes(row):
                    lines = facts.box[0] if facts.tiled else height
                    bands = list(_unpacked(file, facts, number, lines, samples.stop - samples.start))
                    inside = whole[:, left : left + facts.box[1], samples]
                    inside[:] = np.concatenate(bands)[:height, : inside.shape[1]]
                yield _seen(facts, whole)

    def _write(self, target: Path, pages: Iterator[np.ndarray]) -> None:
        from tifffile import TiffFile

        shutil.copyfile(self.path, target)
        for facts in self.sheets:
            if facts.converted:
                add_tags(target, facts.number, BITS, SAMPLES)
        shared = overlapping([place for facts in self.sheets for place in facts.places])
        with TiffFile(target, mode="r+") as file:
            for number, pixels in enumerate(pages):
                facts = self.sheets[number]
                places = _exchange(file.filehandle, facts.written, self.joined(number, pixels), shared)
                with self._naming():
                    _retag(file.pages[facts.number], facts, places)
        with self._naming():
            sizes = [(page.shape, page.dtype, page.alpha) for page in open_tiff(target).sheets]
            if sizes != [(page.shape, page.dtype, page.alpha) for page in self.sheets]:
                raise ValueError("its directories do not stay what they are when pixels change")

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Makes what goes wrong with its directories a DataError."""
        try:
            yield
        except (ValueError, struct.error) as error:
            raise DataError(f"{self.path}: damaged: {error}") from error


def open_tiff(path: Path) -> TiffPicture:
    """The facts of a TIFF file, from its directories.

    Raises:
        ValueError: the reason why it cannot be read.
    """
    from tifffile import TiffFile

    with TiffFile(path) as file:
        pages = pages_of(file)
        if (file.imagej_metadata or {}).get("images", 1) > len(pages) or any(
            series.get("truncated") for series in file.shaped_metadata or ()
        ):
            raise ValueError("a stack of pictures that has one header for all of them: save it with one for each")
        pictures = [(number, page) for number, page in enumerate(pages) if not page.subfiletype & 5]
        sheets = tuple(facts_of(number, page, file.byteorder) for number, page in pictures)
        size = file.filehandle.size
    notes = []
    if not sheets:
        raise ValueError("it holds no picture, or only previews")
    if len(sheets) < len(pages) or any(page.subifds for page in pages):
        notes.append("its previews stay as they are")
    if any(sheet.palette is not None for sheet in sheets):
        notes.append("its palette becomes RGB")
    if any(sheet.bits < 8 and sheet.palette is None for sheet in sheets):
        notes.append("its few bits a pixel become 8")
    if any(sheet.stored.itemsize == 8 for sheet in sheets):
        notes.append("its floats of 64 bits are rounded to 32")
    if len({sheet.dtype for sheet in sheets}) > 1:
        raise ValueError("its pages have different kinds of numbers: split it")
    for sheet in sheets:
        if any(offset + count > size for offset, count in sheet.places):
            raise ValueError("truncated: its pixels lie beyond its end")
        row = -(-sheet.width * sheet.samples * sheet.bits // 8)
        if sheet.compression in (NONE, LZW, PACKBITS, *DEFLATES):
            require_held(row * sheet.height, sum(count for _, count in sheet.places))
    return TiffPicture(path, "TIFF", sheets, tuple(notes))


def _unpacked(file: BinaryIO, facts: TiffPage, number: int, lines: int, samples: int) -> Iterator[np.ndarray]:
    """The rows of a strip or tile, [h, w, samples], as they are stored, in this machine's byte order."""
    offset, count = facts.places[number]
    width = facts.box[1]
    length = (width * samples * facts.bits + 7) // 8
    many = max(1, BAND // length)
    pieces = _pieces(file, offset, count)
    take = unpacking(facts.compression, pieces, lines, length) if count else bytes
    for top in range(0, lines, many):
        rows = min(many, lines - top)
        raw = np.frombuffer(take(rows * length), np.uint8).reshape(rows, length)
        if facts.bits < 8:
            yield samples_of_bits(raw, facts.bits, width)[..., None]
        else:
            yield unpredicted(raw.reshape(rows, width, -1), facts.stored, samples, facts.predictor)


def _pieces(file: BinaryIO, offset: int, count: int) -> Iterator[bytes]:
    for start in range(0, count, PIECE):
        file.seek(offset + start)
        yield file.read(min(PIECE, count - start))


def _seen(facts: TiffPage, values: np.ndarray) -> np.ndarray:
    """Stored values [h, w, samples] → colours and alpha."""
    if facts.palette is not None:
        return facts.palette[values[..., 0]]
    if facts.bits < 8:
        values = values * (255 // (2**facts.bits - 1))
    return _turned(facts, values)


def _turned(facts: TiffPage, values: np.ndarray) -> np.ndarray:
    """Whole numbers of a page whose white is stored as zero, turned round; and back."""
    if facts.photometric != WHITE_IS_ZERO or values.dtype.kind == "f":
        return values
    return np.concatenate([np.iinfo(values.dtype).max - values[..., :1], values[..., 1:]], 2, dtype=values.dtype)


def _exchange(file: Any, facts: TiffPage, bands: Iterator[np.ndarray], shared: set[int]) -> list[tuple[int, int]]:
    """Writes pixels, [h, W, samples] at a time, in place of a page's → the offset and count of each box.

    What is too large for its old place, or shared its old place with another, goes to the end.
    """
    places, take = list(facts.places), _rows(_turned(facts, band) for band in bands)
    for row in range(facts.down):
        height = facts.rows(row)
        held = None if facts.simple else np.concatenate(list(take(height)))
        for number, left, samples in facts.boxes(row):
            parts = take(height) if held is None else iter([held[:, left : left + facts.box[1], samples]])
            if facts.tiled:
                parts = (_filled(part, *facts.box) for part in parts)
            pieces = packed(facts.compression, (predicted(part, facts.stored, facts.predictor) for part in parts))
            if facts.compression == NONE:
                lines = facts.box[0] if facts.tiled else height
                size = lines * facts.box[1] * (samples.stop - samples.start) * facts.stored.itemsize
            else:
                pieces = iter([whole := b"".join(pieces)])
                size = len(whole)
            offset, room = facts.places[number]
            if size > room or offset in shared:
                offset = file.seek(0, 2)
                offset += offset % 2
            file.seek(offset)
            for piece in pieces:
                file.write(piece)
            places[number] = (offset, size)
    return places


def overlapping(places: list[tuple[int, int]]) -> set[int]:
    """The offsets of those places in a file, given with their counts, that have bytes in common."""
    found, last, end = set(), -1, -1
    for offset, count in sorted(places):
        if offset < end:
            found |= {offset, last}
        if offset + count > end:
            last, end = offset, offset + count
    return found


def _filled(part: np.ndarray, height: int, width: int) -> np.ndarray:
    """A tile at the edge, [h, w, samples], made a whole one."""
    return np.pad(part, [(0, height - part.shape[0]), (0, width - part.shape[1]), (0, 0)], "edge")


def _rows(bands: Iterator[np.ndarray]) -> Callable[[int], Iterator[np.ndarray]]:
    """A function that gives the next so many rows of the bands, [h, …] at a time."""
    left = np.empty(0)

    def take(rows: int) -> Iterator[np.ndarray]:
        nonlocal left
        while rows:
            band = left if len(left) else next(bands)
            yield band[:rows]
            left = band[rows:]
            rows -= len(band) - len(left)

    return take


def _retag(page: Any, facts: TiffPage, places: list[tuple[int, int]]) -> None:
    """Makes the directory of a page say where its pixels are now, and what they are where they became others."""

    def put(codes: tuple[int, ...], values: Any, dtype: str | None = None) -> None:
        tag = next((page.tags[code] for code in codes if code in page.tags), None)
        if tag is None:
            raise ValueError(f"its directory lacks the tag {codes[0]}")
        tag.overwrite(values, dtype=dtype)

    large = "Q" if page.parent.is_bigtiff else "I"
    for codes, values in zip((OFFSETS, COUNTS), zip(*places, strict=True), strict=True):
        if values != tuple(pair[codes == COUNTS] for pair in facts.places):
            put(codes, values if len(values) > 1 else values[0], large)
    if facts.converted:
        written = facts.written
        put((BITS,), (8,) * written.samples if written.samples > 1 else 8)
        put((PHOTOMETRIC,), written.photometric)
        if written.samples != facts.samples:
            put((SAMPLES,), written.samples)


def add_tags(path: Path, number: int, *codes: int) -> None:
    """Gives a directory those of these tags that it lacks, as the number 1; it then moves to the end of the file."""
    from tifffile import TiffFile

    with TiffFile(path) as tiff:
        page: Any = tiff.pages[number]
        order, size = tiff.byteorder, (20 if tiff.is_bigtiff else 12)  # of an entry
        missing = [code for code in codes if code not in page.tags]
    many, place = (struct.Struct(order + kind) for kind in ("QQ" if size == 20 else "HI"))
    if not missing:
        return
    with path.open("r+b") as file:

        def read(packing: struct.Struct, position: int) -> int:
            file.seek(position)
            return int(packing.unpack(file.read(packing.size))[0])

        pointer = 8 if size == 20 else 4  # to the first directory
        while (start := read(place, pointer)) != page.offset:
            pointer = start + many.size + size * read(many, start)
        count = read(many, start)
        entries = [file.read(size) for _ in range(count)]
        ending = file.read(place.size)
        for code in missing:
            entry = struct.pack(order + ("HHQH" if size == 20 else "HHIH"), code, 3, 1, 1)
            entries.append(entry.ljust(size, b"\0"))
        entries.sort(key=lambda entry: struct.unpack(order + "H", entry[:2]))
        end = file.seek(0, 2)
        end += end % 2
        file.seek(end)
        file.write(many.pack(len(entries)) + b"".join(entries) + ending)
        file.seek(pointer)
        file.write(place.pack(end))
