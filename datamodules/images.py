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

from datamodules.deep import decode_deep, open_deep, orientation_of
from datamodules.errors import DataError

TIFF = {".tif", ".tiff"}
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", *TIFF}
GREY_MODES = {"1", "L", "LA", "I;16", "I;16B", "I;16L"}
COLOUR_MODES = {"P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"}
Alpha = Literal["drop", "black", "white", "refuse"]
BACKDROPS = {"drop": None, "black": 0, "white": 255}
P = TypeVar("P", str, Path)
T = TypeVar("T")
SHOWN = 10  # files named in one message


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


def named_as_images(directory: Path) -> list[Path]:
    """What bears the name of an image file below a directory, sorted, links to nothing too; no hidden ones."""
    below = ((path, path.relative_to(directory).parts) for path in directory.rglob("*"))
    shown = (path for path, parts in below if not any(part.startswith(".") for part in parts))
    return sorted(path for path in shown if path.suffix.lower() in SUFFIXES and not path.is_dir())


def image_files(directory: Path) -> list[Path]:
    """The image files below a directory, sorted by path; hidden files and folders are left out.

    Raises:
        DataError: no such directory, or no image in it.
    """
    if not directory.is_dir():
        raise DataError(f"no such directory: {directory}")
    files = [path for path in named_as_images(directory) if path.is_file()]
    if not files:
        raise DataError(f"no images in {directory} (looked for {', '.join(sorted(SUFFIXES))} in it and below)")
    return files


def read_header(path: Path) -> Header:
    """Size, channels and bit depth from a file's first bytes; floats count as 16 bits, see :func:`decode`.

    Raises:
        DataError: not an image, or of a kind that is not supported (32-bit integers, more than three channels).
    """
    try:
        if deep := open_deep(path):
            (picture, orientation), bits = deep, 16
            height, width, channels, alpha = picture.height, picture.width, picture.channels, picture.alpha
        else:
            with Image.open(path) as image:
                width, height = image.size
                orientation, bits = orientation_of(image), 16 if image.mode.startswith("I;16") else 8
                mode, alpha, channels = image.mode, image.has_transparency_data, 1 if image.mode in GREY_MODES else 3
            if mode not in GREY_MODES | COLOUR_MODES:
                raise DataError(f"images of mode {mode} are not supported, only 8-bit, 16-bit and float grey or colour")
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: not an image that can be read") from error
    except Exception as error:
        raise DataError(f"{path}: {error}") from error
    if orientation >= 5:  # 5 to 8 turn the picture by a quarter
        width, height = height, width
    return Header(height, width, channels, alpha=alpha, bits=bits)


def decode(path: Path, backdrop: int | None = None) -> np.ndarray:
    """The pixels of a file, [H, W, C] with C = 1 or 3, uint8 or uint16; upright, palettes as RGB.

    Floats must lie in [0, 1], and are rounded to 16 bits. Transparent parts show the backdrop, see :class:`Header`.

    Raises:
        DataError: the file is truncated or damaged, or its floats lie outside.
    """
    try:
        if deep := open_deep(path):
            return decode_deep(*deep, backdrop)
        with Image.open(path) as image:
            image.load()
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
