"""Image files: what a header says, the pixels, and the declared rule between grey and colour."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

TIFF = {".tif", ".tiff"}
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", *TIFF}
GREY_MODES = {"1", "L", "LA", "I;16", "I;16B", "I;16L"}
COLOUR_MODES = {"P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"}
Alpha = Literal["drop", "black", "white", "refuse"]
BACKDROPS = {"drop": None, "black": 0, "white": 255}
P = TypeVar("P", str, Path)
T = TypeVar("T")
SHOWN = 10  # files named in one message


class DataError(ValueError):
    """Images that are missing, damaged, or do not fit what was asked of them. The message names them and the remedy."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself before its pixels are read, and what they are to become.

    Args:
        height, width: of the picture; what it is resized to, where ``stored`` is another height and width.
        channels: 1 or 3.
        alpha: whether it has transparent parts.
        bits: 8 or 16.
        stored: height and width in the file; None: the same.
        backdrop: the brightness, 0 to 255, that is seen through transparent parts; None: these are as if they were not.
    """

    height: int
    width: int
    channels: int
    alpha: bool = False
    bits: int = 8
    stored: tuple[int, int] | None = None
    backdrop: int | None = None

    def resized(self, size: int | Sequence[int]) -> "Header":
        """Of the same picture with the shorter side, or with the height and width, that is given.

        Raises:
            DataError: a side below 1.
        """
        sides = [*size] if isinstance(size, Sequence) else [size]
        if len(sides) not in (1, 2) or not all(isinstance(side, int) and side >= 1 for side in sides):
            raise DataError(f"data.resize={size}: give the shorter side, or [height,width], in pixels from 1")
        scale = sides[0] / min(self.height, self.width)
        height, width = sides if len(sides) == 2 else (round(self.height * scale), round(self.width * scale))
        return replace(self, height=height, width=width, stored=(self.height, self.width))

    def __str__(self) -> str:
        return f"{self.height}×{self.width}×{self.channels}"


def image_files(directory: Path) -> list[Path]:
    """The image files below a directory, sorted by path; hidden files and folders are left out.

    Raises:
        DataError: no such directory, or no image in it.
    """
    if not directory.is_dir():
        raise DataError(f"no such directory: {directory}")
    below = ((path, path.relative_to(directory)) for path in directory.rglob("*"))
    files = sorted(
        path
        for path, name in below
        if path.suffix.lower() in SUFFIXES and path.is_file() and not any(part.startswith(".") for part in name.parts)
    )
    if not files:
        raise DataError(f"no images in {directory} (looked for {', '.join(sorted(SUFFIXES))} in it and below)")
    return files


def read_header(path: Path) -> Header:
    """Size, channels and bit depth from a file's first bytes; floats count as 16 bits, see :func:`decode`.

    Raises:
        DataError: not an image, or of a kind that is not supported (32-bit integers, more than three channels).
    """
    try:
        if path.suffix.lower() in TIFF and (deep := _deep_tiff(path)):
            return deep
        with Image.open(path) as image:
            width, height = image.size
            # Pillow's own method for PNG would decode the whole picture to look for EXIF behind it
            if Image.Image.getexif(image).get(0x0112, 1) >= 5:  # orientations 5 to 8 turn the picture by a quarter
                width, height = height, width
            mode, alpha, bits = image.mode, image.has_transparency_data, 16 if _has_16_bits(image, path) else 8
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: not an image that can be read") from error
    except Exception as error:
        raise DataError(f"{path}: {error}") from error
    if mode not in GREY_MODES | COLOUR_MODES:
        raise DataError(f"{path}: images of mode {mode} are not supported, only 8-bit, 16-bit and float grey or colour")
    return Header(height, width, 1 if mode in GREY_MODES else 3, alpha=alpha, bits=bits)


def decode(path: Path, backdrop: int | None = None) -> np.ndarray:
    """The pixels of a file, [H, W, C] with C = 1 or 3, uint8 or uint16; upright, palettes as RGB.

    Floats must lie in [0, 1], and are rounded to 16 bits. Transparent parts show the backdrop, see :class:`Header`.

    Raises:
        DataError: the file is truncated or damaged, or its floats lie outside.
    """
    try:
        if path.suffix.lower() in TIFF and _deep_tiff(path):
            return _decode_deep_tiff(path)
        with Image.open(path) as image:
            image.load()
            if image.mode == "RGB" and _has_16_bits(image, path):
                return _decode_png_16(path)  # PIL would silently make it 8-bit
            ImageOps.exif_transpose(image, in_place=True)  # in place, and no needless conversion: each copies it all
            mode = "L" if image.mode in GREY_MODES else "RGB"
            if image.mode.startswith("I;16"):
                pixels = np.asarray(image).astype(np.uint16)
            elif backdrop is not None and image.has_transparency_data:
                pixels = np.asarray(composed(image, backdrop))
            else:
                pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    except Exception as error:
        raise DataError(f"{path}: cannot be decoded ({error})") from error
    return pixels.reshape(*pixels.shape[:2], -1)


def composed(image: Image.Image, backdrop: int) -> Image.Image:
    """A picture with transparent parts in front of one brightness, in mode L or RGB."""
    grey = image.mode in GREY_MODES
    front = image.convert("LA" if grey else "RGBA")
    behind = Image.new("L" if grey else "RGB", image.size, backdrop if grey else (backdrop,) * 3)
    behind.paste(front.convert(behind.mode), mask=front.getchannel("A"))
    return behind


def _has_16_bits(image: Image.Image, path: Path) -> bool:
    """Whether the pixels of an opened file have 16 bits; for an RGB PNG its header chunk says so, and PIL does not."""
    if image.mode != "RGB" or image.format != "PNG":
        return image.mode.startswith("I;16")
    with path.open("rb") as file:
        return file.read(25)[24] == 16  # PNG specification, 11.2.2


def _deep_tiff(path: Path) -> Header | None:
    """The header of a TIFF file of floats or of 16-bit colour, which PIL does not read; None for others."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            pages = [page for page in file.pages if not getattr(page, "is_reduced", False)]  # no previews
            shape, kind = pages[0].shape, pages[0].dtype
    except tifffile.TiffFileError:
        return None
    if len(pages) > 1:
        raise DataError(f"it holds {len(pages)} pages; only TIFF files of one picture are read: split it")
    if kind is None or not (kind.kind == "f" or (kind == np.uint16 and len(shape) == 3)):
        return None
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3)):
        raise DataError(f"TIFF pages of {'×'.join(map(str, shape))} values are not supported, only H×W and H×W×3")
    return Header(shape[0], shape[1], 3 if shape[2:] == (3,) else 1, bits=16)


def _decode_deep_tiff(path: Path) -> np.ndarray:
    import tifffile

    pixels = tifffile.imread(path, key=0)
    if pixels.dtype != np.uint16:
        low, high = float(pixels.min()), float(pixels.max())
        if not (0 <= low <= high <= 1):
            raise DataError(f"its floats go from {low:g} to {high:g}; float images must lie in [0, 1]: scale them")
        pixels = np.round(pixels * np.float64(65535)).astype(np.uint16)
    return pixels.reshape(*pixels.shape[:2], -1)


def _decode_png_16(path: Path) -> np.ndarray:
    from kornia_rs.io import read_image_png_u16

    return np.asarray(read_image_png_u16(str(path), "rgb"))


def to_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """[H, W, C] → [H, W, channels]: colour becomes grey by its BT.601 luma, rounded; grey never becomes colour.

    Raises:
        DataError: a grey image where colour was asked for.
    """
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        raise DataError("a grey image cannot serve as a colour one")
    luma = np.full(pixels.shape[:2], 32768, np.uint32)  # one half; the largest sum is 2³² - 2¹⁵
    for channel, weight in enumerate((19595, 38470, 7471)):  # 0.299, 0.587, 0.114 in 16 bits
        luma += np.multiply(pixels[..., channel], weight, dtype=np.uint32)
    return (luma >> 16).astype(pixels.dtype)[..., None]


def decode_as(path: Path, header: Header, channels: int) -> np.ndarray:
    """:func:`decode`, :func:`to_channels` and :func:`resize`: [H, W, channels], uint8 or uint16.

    Raises:
        DataError: the file is damaged, or its pixels are not what its header was.
    """
    pixels = decode(path, header.backdrop)
    height, width = header.stored or (header.height, header.width)
    if (*pixels.shape, pixels.dtype) != (height, width, header.channels, f"uint{header.bits}"):
        size, said = ("×".join(map(str, shape)) for shape in (pixels.shape, (height, width, header.channels)))
        raise DataError(f"{path}: its header says {said} in {header.bits} bits, its pixels are {size} {pixels.dtype}")
    return resize(to_channels(pixels, channels), header.height, header.width)


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """[H, W, C] → [height, width, C], of the same type: bicubic, antialiased (Pillow's); rounded."""
    if pixels.shape[:2] == (height, width):
        return pixels
    planes = [
        np.asarray(Image.fromarray(plane.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC))
        for plane in pixels.transpose(2, 0, 1)
    ]
    return np.stack(planes, 2).round().clip(0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 or uint16 [H, W, C], or float32 in [0, 1] → float32 [C, H, W] in [0, 1]."""
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy(planes).div_(white(pixels))


def white(pixels: np.ndarray) -> float:
    """The number that stands for white."""
    return 1.0 if pixels.dtype.kind == "f" else float(np.iinfo(pixels.dtype).max)


def read(path: Path, channels: int) -> Tensor:
    """The picture of a file, [C, H, W] in [0, 1]; see :func:`decode_as`."""
    return to_tensor(decode_as(path, read_header(path), channels))


def each(function: Callable[[P], T], paths: Sequence[P], threads: int | None = None) -> list[T]:
    """``function`` over the paths in threads; every failure is named in one DataError."""

    def attempt(path: P) -> T | DataError:
        try:
            return function(path)
        except DataError as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(attempt, paths))
    if failures := [str(result) for result in results if isinstance(result, DataError)]:
        raise DataError(
            f"{len(failures)} of {len(paths)} files cannot be used, repair or remove:\n" + listing(failures)
        )
    return [result for result in results if not isinstance(result, DataError)]


def read_headers(paths: Sequence[Path]) -> list[Header]:
    """:func:`read_header` of each; one DataError names all that fail."""
    return each(read_header, paths)


def listing(lines: Sequence[str]) -> str:
    """The first lines of many, indented, and how many more there are."""
    more = [f"… and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join(f"  {line}" for line in [*lines[:SHOWN], *more])
