"""PNG: its chunks are copied, its pixels decoded and encoded some rows at a time (PNG specification, 3rd edition)."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from datamodules.pictures.packing import Take, inflating, samples_of_bits
from datamodules.pictures.picture import BAND, Page, Picture, require_held, room

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LEVEL = 4  # of zlib: photographs become as small as by 6, its own choice, in half the time
PIECE = 1 << 20  # bytes of a file that are read at a time
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
SAMPLES = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}
DEPTHS = {GREY: (1, 2, 4, 8, 16), PALETTE: (1, 2, 4, 8)}  # of the others 8 and 16
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
# chunks that are kept though the large letter at their end says that they belong to the pixels; others of these are not
KNOWN = {b"cHRM", b"gAMA", b"iCCP", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"tIME", b"pHYs"}
OF_SAMPLES = {b"bKGD", b"hIST", b"sBIT"}  # kept where samples stay what they are
SUGGESTED = {b"PLTE"}  # a palette that does not give the colours
# filters work on bytes a pixel, so that all kinds are undone as these: (mode, how Pillow takes the high and low bytes)
KINDS = {
    1: ("L", ("L",)),
    2: ("LA", ("LA",)),
    3: ("RGB", ("RGB",)),
    4: ("RGBA", ("RGBA",)),
    6: ("RGB", ("RGB;16B", "RGB;16L")),
    8: ("RGBA", ("RGBA;16B", "RGBA;16L")),
}


@dataclass(frozen=True)
class PngPicture(Picture):
    """A still PNG picture of any colour type; palettes, transparent colours and few bits become whole samples.

    Args:
        depth: bits of a sample, 1 to 16.
        colour: the colour type.
        interlaced: whether it is stored in seven passes; it is written in one.
        before, after: the chunks that are kept, before and after the pixels.
        palette: the contents of PLTE; empty without.
        transparency: the contents of tRNS; empty without.
    """

    depth: int
    colour: int
    interlaced: bool
    before: bytes
    after: bytes
    palette: bytes
    transparency: bytes

    def bands(self, page: int) -> Iterator[np.ndarray]:
        with self.path.open("rb") as file:
            take = inflating(_data(file))
            if not self.interlaced:
                yield from self._pass(take, self.height, self.width)
            else:
                whole = room((self.height, self.width, self.channels + self.alpha), self.dtype)
                for top, left, down, right in ADAM7:
                    part = whole[top::down, left::right]
                    row = 0
                    for band in self._pass(take, *part.shape[:2]):
                        part[row : row + len(band)] = band
                        row += len(band)
                yield whole
            take(0)

    def _pass(self, take: Take, height: int, width: int) -> Iterator[np.ndarray]:
        """The pixels of so many filtered rows that ``take`` gives, [h, width, C or C + 1] at a time."""
        bits = self.depth * SAMPLES[self.colour]
        length = (width * bits + 7) // 8  # of a row in bytes
        above, many = np.zeros(length, np.uint8), max(1, BAND // (length + 1))
        for top in range(0, height if width else 0, many):
            rows = min(many, height - top)
            lines = np.frombuffer(take(rows * (length + 1)), np.uint8).reshape(rows, length + 1)
            if lines[:, 0].max() > 4:
                raise ValueError("damaged: there is no such filter of rows")
            lines = unfiltered(lines, above, max(1, bits // 8))
            above = lines[-1]
            yield self._samples(lines, width)

    def _samples(self, lines: np.ndarray, width: int) -> np.ndarray:
        """Bytes [h, n] → [h, width, C or C + 1]."""
        if self.depth == 16:
            values: np.ndarray = lines.view(">u2").astype(np.uint16)
        elif self.depth == 8:
            values = lines
        else:
            values = samples_of_bits(lines, self.depth, width)
        values = values.reshape(len(lines), width, -1)
        if self.colour == PALETTE:
            table = np.zeros((256, 3 + self.alpha), np.uint8)
            table[: len(self.palette) // 3, :3] = np.frombuffer(self.palette, np.uint8).reshape(-1, 3)
            table[:, 3:] = 255
            table[: len(self.transparency), 3:] = np.frombuffer(self.transparency, np.uint8)[:, None]
            return table[values[..., 0]]
        if self.transparency:
            key = np.frombuffer(self.transparency, ">u2")
            alpha = np.where((values == key).all(2, keepdims=True), 0, np.iinfo(values.dtype).max)
            values = np.concatenate([values, alpha.astype(values.dtype)], 2)
        if self.depth < 8:
            values = np.concatenate([values[..., :1] * (255 // (2**self.depth - 1)), values[..., 1:]], 2)
        return values

    def _write(self, target: Path, pages: Iterator[np.ndarray]) -> None:
        samples, size = self.channels + self.alpha, self.dtype.itemsize
        colour = {1: GREY, 2: GREY_ALPHA, 3: RGB, 4: RGB_ALPHA}[samples]
        with target.open("wb") as file:
            header = struct.pack(">IIBBBBB", self.width, self.height, 8 * size, colour, 0, 0, 0)
            file.write(SIGNATURE + chunk(b"IHDR", header) + self.before)
            packer = zlib.compressobj(LEVEL, strategy=zlib.Z_FILTERED)
            above = np.zeros(self.width * samples * size, np.uint8)
            for pixels in pages:
                for band in self.joined(0, pixels):
                    lines = np.ascontiguousarray(band, ">u2" if size == 2 else "u1").view(np.uint8)
                    lines = lines.reshape(len(band), -1)
                    file.write(chunk(b"IDAT", packer.compress(filtered(lines, above, samples * size).data)))
                    above = lines[-1]
            file.write(chunk(b"IDAT", packer.flush()) + self.after + chunk(b"IEND", b""))


def open_png(path: Path) -> PngPicture:
    """The facts of a PNG file, from every chunk of it but the pixels.

    Raises:
        ValueError: it is animated, truncated, damaged, or holds less than its header says.
    """
    before, after, stored = _other_chunks(path)
    found = dict(before)  # tRNS and PLTE stand before the pixels
    for name, _ in before + after:
        if name in (b"acTL", b"fcTL"):
            raise ValueError("an animated PNG: only still pictures are cleaned, save its frames as files of their own")
        if name[0] < 97 and name not in (b"IHDR", b"PLTE", b"IEND"):
            raise ValueError(f"its chunk {name.decode()} is critical and of an unknown kind: save it as a common PNG")
    width, height, depth, colour, packing, filters, interlaced = struct.unpack(">IIBBBBB", found[b"IHDR"])
    if depth not in DEPTHS.get(colour, (8, 16)) or colour not in SAMPLES or packing or filters or interlaced > 1:
        raise ValueError(f"damaged: there are no PNGs of colour type {colour} with {depth} bits (…{packing}{filters})")
    require_held((width * depth * SAMPLES[colour] + 7) // 8 * height, stored)
    palette = found.get(b"PLTE", b"")
    transparency = found.get(b"tRNS", b"") if colour in (GREY, RGB, PALETTE) else b""
    notes = []
    if colour == PALETTE:
        if not 3 <= len(palette) <= 768 or len(palette) % 3 or len(transparency) > 256:
            raise ValueError("damaged: its palette is missing or broken")
        notes.append("its palette becomes RGB")
    elif transparency:
        if len(transparency) != 2 * SAMPLES[colour]:
            raise ValueError("damaged: its transparent colour is broken")
        notes.append("its transparent colour becomes an alpha channel")
    if depth < 8 and colour == GREY:
        notes.append(f"its {depth} bit(s) a pixel become 8")
    kept = KNOWN | (set() if notes else OF_SAMPLES) | (SUGGESTED if colour in (RGB, RGB_ALPHA) else set())
    for name, _ in before + after:
        if name[0] >= 97 > name[3] and name not in KNOWN | OF_SAMPLES | {b"tRNS"}:
            notes.append(f"its chunk {name.decode()}, which belongs to the old pixels, is left out")
    first, last = (
        b"".join(chunk(name, data) for name, data in some if name in kept or name[3] >= 97) for some in (before, after)
    )
    alpha = bool(transparency) or colour in (GREY_ALPHA, RGB_ALPHA)
    channels = 1 if colour in (GREY, GREY_ALPHA) else 3
    page = Page(height, width, channels, np.dtype(np.uint16 if depth == 16 else np.uint8), alpha)
    return PngPicture(
        path, "PNG", (page,), tuple(notes), depth, colour, interlaced == 1, first, last, palette, transparency
    )


Chunks = list[tuple[bytes, bytes]]


def _other_chunks(path: Path) -> tuple[Chunks, Chunks, int]:
    """Name and contents of the chunks before and after the pixels, and the bytes of all; ValueError if damaged."""
    before: Chunks = []
    after: Chunks = []
    place = before
    with path.open("rb") as file:
        for name, length in _chunks(file):
            if name == b"IDAT":
                place = after
                file.seek(length + 4, 1)
                continue
            data = file.read(length)
            if file.read(4) != struct.pack(">I", zlib.crc32(name + data)):
                raise ValueError(f"damaged: the check sum of its chunk {name.decode()} is wrong")
            place.append((name, data))
        if place is before:
            raise ValueError("damaged: it holds no pixels")
        return before, after, file.tell()


def chunk(name: bytes, data: bytes) -> bytes:
    """As it stands in the file: length, name, data, check sum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Name and length of each up to the last, the file standing at its data; whoever takes one goes past it."""
    size = file.seek(0, 2)
    file.seek(len(SIGNATURE))
    name = b""
    while name != b"IEND":
        length, name = struct.unpack(">I4s", file.read(8).ljust(8, b"\0"))
        if file.tell() + length + 4 > size:
            raise ValueError("truncated: its end is missing")
        if not name.isalpha() or (name == b"IHDR") != (file.tell() == len(SIGNATURE) + 8):
            raise ValueError("damaged: its chunks are in disorder")
        yield name, length


def _data(file: BinaryIO) -> Iterator[bytes]:
    """What all IDAT chunks hold, in pieces."""
    for name, length in _chunks(file):
        if name != b"IDAT":
            file.seek(length + 4, 1)
            continue
        checked = zlib.crc32(name)
        while length:
            piece = file.read(min(length, PIECE))
            checked, length = zlib.crc32(piece, checked), length - len(piece)
            yield piece
        if file.read(4) != struct.pack(">I", checked):
            raise ValueError("damaged: the check sum of its pixels is wrong")


def unfiltered(lines: np.ndarray, above: np.ndarray, unit: int) -> np.ndarray:
    """Filtered rows, uint8 [h, 1 + n], below one that is not, [n] → [h, n]; ``unit`` is the bytes of a pixel.

    Pillow's decoder does it. It takes pixels of 6 and 8 bytes but gives only their high or their low bytes.
    """
    mode, halves = KINDS[unit]
    size = (lines.shape[1] - 1) // unit, len(lines) + 1
    stored = zlib.compress(b"\0" + above.tobytes() + lines.tobytes(), 0)
    found = [np.asarray(Image.frombytes(mode, size, stored, "zip", half)).reshape(size[1], -1)[1:] for half in halves]
    return found[0] if len(found) == 1 else np.stack(found, 2).reshape(len(lines), -1)


def filtered(lines: np.ndarray, above: np.ndarray, unit: int) -> np.ndarray:
    """The opposite of :func:`unfiltered`: each row with the filter that leaves the smallest differences."""
    up = np.concatenate([above[None], lines[:-1]])
    left, corner = (np.pad(rows, ((0, 0), (unit, 0)))[:, : lines.shape[1]] for rows in (lines, up))
    a, b, c = (rows.astype(np.int16) for rows in (left, up, corner))
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    paeth = np.where((to_a <= to_b) & (to_a <= to_c), left, np.where(to_b <= to_c, up, corner))
    best, least = np.empty((len(lines), 1 + lines.shape[1]), np.uint8), np.full(len(lines), np.inf)
    for kind, guess in enumerate((0, left, up, (a + b) >> 1, paeth)):
        rest = (lines - guess).astype(np.uint8)
        sums = np.abs(rest.view(np.int8).astype(np.int16)).sum(1)
        better = sums < least
        best[better, 0], best[better, 1:], least[better] = kind, rest[better], sums[better]
    return best
