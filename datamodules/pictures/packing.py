"""Bytes packed and unpacked a piece at a time: Deflate by zlib, what else TIFF files use by Pillow's libtiff."""

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from PIL import Image, TiffImagePlugin

NONE, LZW, DEFLATES, PACKBITS, ZSTD = 1, 5, (8, 32946), 32773, 50000  # TIFF's numbers
OF_LIBTIFF = {LZW: "tiff_lzw", PACKBITS: "packbits", ZSTD: "zstd"}
PACKED = {NONE, *DEFLATES, *OF_LIBTIFF}
HORIZONTAL, FLOATING = 2, 3  # TIFF's predictors
Take = Callable[[int], bytes]  # gives the next so many bytes; ValueError where there are none


def inflating(pieces: Iterator[bytes]) -> Take:
    """The bytes of a zlib stream; asked for none, it goes through the pieces that are left, for their check sums.

    Never more is unpacked than was asked for, however much the stream would become.
    """
    inflate, left = zlib.decompressobj(), b""

    def take(size: int) -> bytes:
        nonlocal left
        found = bytearray()
        while len(found) < size:
            piece = left or next(pieces, b"")
            try:
                got = inflate.decompress(piece, size - len(found))
            except zlib.error as error:
                raise ValueError(f"damaged: {error}") from error
            left = inflate.unconsumed_tail
            if not got and (inflate.eof or not piece):
                raise ValueError("truncated: its pixels end early")
            found += got
        for _ in pieces if size == 0 else ():
            pass
        return bytes(found)

    return take


def samples_of_bits(lines: np.ndarray, depth: int, width: int) -> np.ndarray:
    """Rows of bytes, [h, n], that hold numbers of 1, 2 or 4 bits → these, uint8 [h, width]."""
    bits = np.unpackbits(lines, axis=1).reshape(len(lines), -1, depth)
    return np.packbits(bits, axis=2)[:, :width, 0] >> (8 - depth)


def unpacking(compression: int, pieces: Iterator[bytes], lines: int, length: int) -> Take:
    """The bytes of one strip or tile of a TIFF file.

    Args:
        compression: one of PACKED.
        pieces: of its packed bytes.
        lines, length: how many rows of how many bytes it becomes.
    """
    if compression in DEFLATES:
        return inflating(pieces)
    if compression == NONE:
        return _joined(pieces)
    packed = b"".join(pieces)
    tags = {256: length, 257: lines, 258: 8, 259: compression, 262: 1, 273: 134, 277: 1, 278: lines, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    file = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(16) + packed  # pixels from byte 134
    with TiffImagePlugin.TiffImageFile(io.BytesIO(file)) as image:
        return _joined(iter([np.asarray(image).tobytes()]))


def packed(compression: int, pieces: Iterable[np.ndarray]) -> Iterator[bytes]:
    """The opposite of :func:`unpacking`, of uint8 [h, length] at a time."""
    if compression == NONE:
        yield from (piece.tobytes() for piece in pieces)
    elif compression in DEFLATES:
        packer = zlib.compressobj()
        yield from (packer.compress(piece.data) for piece in pieces)
        yield packer.flush()
    else:
        lines, file = np.concatenate(list(pieces)), io.BytesIO()
        Image.fromarray(lines).save(file, "TIFF", compression=OF_LIBTIFF[compression], strip_size=lines.size)
        file.seek(0)
        with TiffImagePlugin.TiffImageFile(file) as image:
            [start], [size] = (image.tag_v2[tag] for tag in (273, 279))
        yield file.getbuffer()[start : start + size].tobytes()


def _joined(pieces: Iterator[bytes]) -> Take:
    """The bytes of the pieces, as many at a time as are asked for."""
    left = memoryview(b"")

    def take(size: int) -> bytes:
        nonlocal left
        found = bytearray()
        while len(found) < size:
            left = left or memoryview(next(pieces, b""))
            if not left:
                raise ValueError("truncated: its pixels end early")
            missing = size - len(found)
            found += left[:missing]
            left = left[missing:]
        return bytes(found)

    return take


def unpredicted(raw: np.ndarray, stored: np.dtype, samples: int, predictor: int) -> np.ndarray:
    """Bytes of rows, uint8 [h, w, samples × itemsize] → values [h, w, samples], in this machine's byte order."""
    rows, width, size = *raw.shape[:2], stored.itemsize
    if predictor == FLOATING:  # TIFF technical note 3: the bytes of a row apart, the highest first, as differences
        raw = np.cumsum(raw.reshape(rows, -1, samples), 1, np.uint8).reshape(rows, size, width, samples)
        stored, raw = stored.newbyteorder(">"), np.ascontiguousarray(raw.transpose(0, 2, 3, 1))
    values = raw.view(stored).reshape(rows, width, samples)
    values = values.astype(stored.newbyteorder("="), copy=False)
    if predictor == HORIZONTAL:
        whole = np.dtype(f"u{size}")
        values = np.cumsum(values.view(whole), 1, whole).view(values.dtype)
    return values


def predicted(values: np.ndarray, stored: np.dtype, predictor: int) -> np.ndarray:
    """The opposite of :func:`unpredicted`, [h, w, samples] of any type → uint8 [h, n]."""
    rows, size = len(values), stored.itemsize
    if predictor == HORIZONTAL:
        whole = np.ascontiguousarray(values, stored.newbyteorder("=")).view(f"u{size}")
        values = np.diff(whole, axis=1, prepend=whole.dtype.type(0)).view(stored.newbyteorder("="))
    order = stored.newbyteorder(">") if predictor == FLOATING else stored
    raw: np.ndarray = np.ascontiguousarray(values, order).view(np.uint8)
    if predictor == FLOATING:
        width, samples = values.shape[1:]
        raw = raw.reshape(rows, width, samples, size).transpose(0, 3, 1, 2).reshape(rows, -1, samples)
        raw = np.diff(raw, axis=1, prepend=np.uint8(0))
    return raw.reshape(rows, -1)
