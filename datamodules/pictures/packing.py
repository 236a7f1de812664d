"""Bytes packed and unpacked a piece at a time: Deflate by zlib, what else TIFF files use by Pillow's libtiff."""

import zlib
from collections.abc import Callable, Iterator

import numpy as np

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
            got = inflate.decompress(piece, size - len(found))
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
