"""Malformed and odd picture files, and what must become of each: ``python tests/odd_files.py FOLDER`` makes them."""

import io
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

SIDE = 24, 32  # height and width of the ordinary ones
RANDOM = np.random.default_rng(0)
SMOOTH = np.indices(SIDE).sum(0)[..., None] * [3, 2, 1] % 256  # [H, W, 3]


def pixels(kind="uint8", channels=3, size=SIDE):
    """Noise that fills the type, [H, W, C]."""
    top = np.iinfo(kind).max if np.dtype(kind).kind == "u" else 1
    return (RANDOM.random((*size, channels)) * top).astype(kind)


def saved(format, image=None, **options):
    """The bytes of a file that Pillow writes."""
    file = io.BytesIO()
    (image or Image.fromarray(SMOOTH.astype(np.uint8))).save(file, format, **options)
    return file.getvalue()


def tiff(values, **options):
    """The bytes of a file that tifffile writes."""
    file = io.BytesIO()
    options = {"photometric": "rgb" if values.shape[2:] in ((3,), (4,)) else "minisblack", "metadata": None} | options
    tifffile.imwrite(file, values[..., 0] if values.shape[2:] == (1,) else values, **options)
    return file.getvalue()


def chunk(name, data, broken=0):
    """Of a PNG file; its check sum can be wrong."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) ^ broken)


def png(values, colour, depth=None, extra=b"", data=None, header=None, broken=0):
    """The bytes of a PNG file whose rows are not filtered: [H, W, C] of uint8 or big-endian uint16."""
    depth, (height, width) = depth or 8 * values.itemsize, header or values.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in values.astype(f">u{values.itemsize}"))
    ihdr = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    packed = chunk(b"IDAT", zlib.compress(rows) if data is None else data, broken)
    return b"\x89PNG\r\n\x1a\n" + ihdr + extra + packed + chunk(b"IEND", b"")


def interlaced(values, colour):
    """The bytes of a PNG file in seven passes."""
    height, width = values.shape[:2]
    rows = b""
    for y, x, down, right in (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ):
        part = values[y::down, x::right].astype(f">u{values.itemsize}")
        rows += b"".join(b"\0" + row.tobytes() for row in part) if part.size else b""
    ihdr = struct.pack(">IIBBBBB", width, height, 8 * values.itemsize, colour, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bomb(megabytes, header):
    """A PNG file of black, packed a thousandfold."""
    packer = zlib.compressobj(9)
    start = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    end = b"\3\0" + struct.pack(">HH", (megabytes << 20) % 65521, 1)  # an empty block and the sum of all
    return png(np.zeros((1, 1, 3), np.uint8), 2, data=start + again * (megabytes - 1) + end, header=header)


def plain_tiff(tags, rest=b"", following=0):
    """A little-endian TIFF file of one directory of whole numbers."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + struct.pack("<I", following) + rest


GREY_TAGS = {256: 4, 257: 4, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: 4, 279: 16}


def contents():
    """name → its bytes, and a word of the reason why it is refused, or None: its pixels go through unchanged."""
    ordinary = Image.fromarray(SMOOTH.astype(np.uint8))
    grey, alpha = ordinary.convert("L"), Image.fromarray(pixels(channels=4))
    whole = {
        "png": saved("PNG"),
        "jpg": saved("JPEG", quality=95),
        "webp": saved("WEBP", lossless=True),
        "bmp": saved("BMP"),
        "tif": tiff(pixels(), compression="zlib", rowsperstrip=5),
    }
    for suffix, data in whole.items():
        yield f"good.{suffix}", data, None
        yield f"empty.{suffix}", b"", "empty"
        for part in (10, len(data) // 2, len(data) - 14):
            yield f"cut at {part}.{suffix}", data[:part], ""
        yield f"text.{suffix}", b"Dear reader, this is not a picture.\n" * 9, "not a picture"
        middle = len(data) * 2 // 3
        if suffix == "png":
            yield "damaged.png", data[:middle] + bytes([data[middle] ^ 85]) + data[middle + 1 :], "damaged"
    yield "a jpeg.png", whole["jpg"], None
    yield "a png.jpg", whole["png"], None
    yield "a tiff.png", whole["tif"], None
    yield "CAPITALS.PNG", whole["png"], None
    yield "grüße 日本語 🙂.png", whole["png"], None
    yield "n" * 251 + ".png", whole["png"], None
    yield "two\nlines.png", whole["png"], None
    yield "-rf $(x) 'y' \"z\" [1]*?.png", whole["png"], None
    yield "same.png", whole["png"], None
    yield "same.tif", whole["tif"], None
    yield "same.jpg", whole["jpg"], None
    for name, size in (("1×1", (1, 1)), ("1×5000", (1, 5000)), ("5000×1", (5000, 1))):
        yield f"{name}.png", png(pixels(size=size), 2), None
        yield f"{name}.tif", tiff(pixels(size=size)), None
        yield f"{name}.jpg", saved("JPEG", Image.fromarray(pixels(size=size))), None
    yield "zero wide.png", png(pixels(), 2, header=(24, 0)), "holds nothing"
    yield "zero wide.tif", plain_tiff(GREY_TAGS | {256: 0}, bytes(300)), ""
    yield "zero wide.bmp", whole["bmp"][:18] + bytes(4) + whole["bmp"][22:], ""
    # sizes that are not so
    yield "huge header.png", png(pixels(), 2, header=(2**31 - 1, 2**31 - 1)), "cannot hold"
    yield "lying header.png", png(pixels(), 2, header=(30000, 30000)), "cannot hold"
    yield "huge header.tif", plain_tiff(GREY_TAGS | {256: 2**31, 257: 2**31, 278: 2**31}, bytes(300)), "cannot hold"
    yield "huge header.bmp", whole["bmp"][:18] + struct.pack("<ii", 30000, 30000) + whole["bmp"][26:], "cannot hold"
    start = whole["jpg"].index(b"\xff\xc0") + 5
    yield (
        "huge header.jpg",
        whole["jpg"][:start] + struct.pack(">HH", 65000, 65000) + whole["jpg"][start + 4 :],
        "cannot",
    )
    yield "taller header.png", png(pixels(), 2, header=(48, 32)), "truncated"
    yield "bomb.png", bomb(2970, (32000, 32000)), "allowed"  # 3 MB that hold the 3 GB they speak of
    yield "bomb behind the pixels.png", bomb(2000, (24, 32)), None
    yield "black.png", bomb(1, (500, 600)), None
    yield "more pixels than said.png", png(pixels(), 2, header=(8, 32)), None
    # PNG
    for kind, depth in (("uint8", 8), ("uint16", 16)):
        for channels, colour in ((1, 0), (3, 2), (2, 4), (4, 6)):
            values = pixels(kind, channels)
            yield f"{depth} bits, {channels} samples.png", png(values, colour), None
            yield f"{depth} bits, {channels} samples, interlaced.png", interlaced(values, colour), None
    yield "interlaced 1×5.png", interlaced(pixels(size=(1, 5)), 2), None
    yield "16 bits, keyed.png", png(pixels("uint16", 1), 0, extra=chunk(b"tRNS", b"\1\2")), None
    yield "1 bit.png", saved("PNG", grey.convert("1")), None
    yield "palette.png", saved("PNG", ordinary.convert("P", palette=Image.Palette.ADAPTIVE, colors=13)), None
    transparent = ordinary.convert("P", palette=Image.Palette.ADAPTIVE, colors=200)
    yield "palette, transparent.png", saved("PNG", transparent, transparency=bytes(range(200))), None
    yield "no palette.png", png(pixels(channels=1), 3), "palette"
    yield "short palette.png", png(pixels(channels=1), 3, extra=chunk(b"PLTE", bytes(6))), None
    yield "empty pixels.png", png(pixels(), 2, data=b""), "truncated"
    yield "no pixels.png", whole["png"][:33] + chunk(b"IEND", b""), "no pixels"
    yield "bad check sum.png", png(pixels(), 2, broken=1), "check sum"
    yield "bad check sum of text.png", png(pixels(), 2, extra=chunk(b"tEXt", b"a\0b", broken=1)), "check sum"
    yield "unknown critical.png", png(pixels(), 2, extra=chunk(b"CgBI", b"1234")), "critical"
    yield "24 bits.png", png(pixels(), 2, depth=24), "no PNGs"
    yield "filter 9.png", png(pixels(), 2, data=zlib.compress(b"\x09" + bytes(96 * 24 + 23))), "filter"
    yield "not zlib.png", png(pixels(), 2, data=bytes(90)), ""
    yield "text after the end.png", whole["png"] + b"<html>" * 9, None
    yield "second header.png", png(pixels(), 2, extra=whole["png"][8:33]), "disorder"
    yield "bad ICC.png", png(pixels(), 2, extra=chunk(b"iCCP", b"x\0\0" + bytes(40))), None
    yield "broken EXIF.png", png(pixels(), 2, extra=chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff")), None
    yield "text bomb.png", png(pixels(), 2, extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8)))), None
    frames = [Image.fromarray(pixels()) for _ in range(3)]
    yield "animated.png", saved("PNG", frames[0], save_all=True, append_images=frames[1:]), "animated"
    yield "animated.webp", saved("WEBP", frames[0], save_all=True, append_images=frames[1:]), "animated"
    yield "animated.gif", saved("GIF", frames[0], save_all=True, append_images=frames[1:]), "GIF"
    yield "a gif.png", saved("GIF", frames[0]), "GIF"
    # JPEG, WebP, BMP
    yield "cmyk.jpg", saved("JPEG", ordinary.convert("CMYK")), "CMYK"
    yield "grey.jpg", saved("JPEG", grey), None
    yield "progressive.jpg", saved("JPEG", progressive=True), None
    yield "broken EXIF.jpg", saved("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(9)), None
    yield "bad ICC.jpg", saved("JPEG", icc_profile=b"no profile" * 9), None
    yield "text in the middle.jpg", whole["jpg"][:500] + b"hello" * 20 + whole["jpg"][600:], None  # no check sums
    yield "alpha.webp", saved("WEBP", alpha, lossless=True, exact=True), None
    yield "alpha, lossy.webp", saved("WEBP", alpha), None
    yield "grey.bmp", saved("BMP", grey), None
    yield "1 bit.bmp", saved("BMP", grey.convert("1")), None
    yield "palette.bmp", saved("BMP", ordinary.convert("P", palette=Image.Palette.ADAPTIVE)), None
    # TIFF
    for kind in ("uint8", "uint16", "float16", "float32", "float64"):
        for channels in (1, 3, 2, 4):
            options = {} if channels in (1, 3) else {"extrasamples": ["unassalpha"], "planarconfig": "contig"}
            yield f"{kind}, {channels} samples.tif", tiff(pixels(kind, channels), **options), None
    yield "pages.tif", tiff(pixels("uint16", 5).transpose(2, 0, 1)), None
    yield "tiles.tif", tiff(pixels(), tile=(16, 16), compression="zlib", predictor=2), None
    yield "planes.tif", tiff(pixels("uint16").transpose(2, 0, 1), photometric="rgb", planarconfig="separate"), None
    yield "big-endian.tif", tiff(pixels("uint16"), byteorder=">"), None
    yield "BigTIFF.tif", tiff(pixels("uint16"), bigtiff=True), None
    yield "white is zero.tif", tiff(pixels("uint16", 1), photometric="miniswhite"), None
    for name in ("tiff_lzw", "packbits", "zstd", "tiff_deflate"):
        yield f"{name}.tif", saved("TIFF", compression=name), None
    yield "palette.tif", saved("TIFF", ordinary.convert("P", palette=Image.Palette.ADAPTIVE)), None
    yield "1 bit.tif", saved("TIFF", grey.convert("1")), None
    yield "fax.tif", saved("TIFF", grey.convert("1"), compression="group4"), "CCITT"
    yield "jpeg inside.tif", saved("TIFF", compression="jpeg"), "JPEG"
    yield "cmyk.tif", saved("TIFF", ordinary.convert("CMYK")), "SEPARATED"
    yield "int32.tif", tiff(np.zeros(SIDE, np.int32)), "INT of 32 bits"
    yield "uint32.tif", tiff(np.zeros(SIDE, np.uint32)), "UINT of 32 bits"
    yield "complex.tif", tiff(np.zeros(SIDE, np.complex64)), "COMPLEX"
    yield "5 samples.tif", tiff(pixels(channels=5), planarconfig="contig"), "5 values"
    yield "no directory.tif", b"II*\0\0\0\0\0", ""
    yield "directory beyond the end.tif", b"II*\0\xff\xff\xff\x7f", ""
    yield "no tags.tif", plain_tiff({}), ""
    yield "page cycle.tif", plain_tiff(GREY_TAGS, bytes(300), following=8), None
    yield "strips beyond the end.tif", plain_tiff(GREY_TAGS | {273: 10**6}, bytes(300)), "truncated"
    yield "strips of strips.tif", plain_tiff(GREY_TAGS | {278: 1}, bytes(300)), "as many"
    tiles = {key: value for key, value in GREY_TAGS.items() if key not in (273, 278, 279)} | {324: 200, 325: 16}
    yield "huge tiles.tif", plain_tiff(tiles | {322: 1 << 16, 323: 1 << 16, 259: 8}, bytes(300)), "larger than itself"
    yield "compression 12345.tif", plain_tiff(GREY_TAGS | {259: 12345}, bytes(300)), "compressed as"
    yield "lzw of nothing.tif", plain_tiff(GREY_TAGS | {259: 5}, bytes(300)), ""


def make(folder):
    """Writes them all → path: a word of the reason for its refusal, "" for any reason, None where it goes through."""
    folder.mkdir(parents=True, exist_ok=True)
    expected = {}
    for name, data, word in contents():
        (folder / name).write_bytes(data)
        expected[folder / name] = word
    (folder / "folder.png").mkdir()
    (folder / "dangling.png").symlink_to("nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "loop").symlink_to(".")
    (folder / "link.png").symlink_to("good.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")
    (folder / "unreadable.png").write_bytes((folder / "good.png").read_bytes())
    (folder / "unreadable.png").chmod(0)
    words = {
        "folder": "folder",
        "dangling": "link",
        "loop": "link",
        "link": None,
        "zero": "not a file",
        "pipe": "not a file",
    }
    expected |= {folder / f"{name}.png": word for name, word in words.items()}
    expected[folder / "unreadable.png"] = (
        None if os.access(folder / "unreadable.png", os.R_OK) else "denied"
    )  # root may
    expected[folder / "missing.png"] = "no such file"
    return expected


if __name__ == "__main__":
    for path, word in make(Path(sys.argv[1])).items():
        print(f"{path.name!r}: {'goes through' if word is None else 'refused'} {word or ''}")
