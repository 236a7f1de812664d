"""Files of more than 8 bits a channel, as images to learn from."""

from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.pictures.picture import Picture
from datamodules.pictures.png import open_png
from datamodules.pictures.tiff import open_tiff
from datamodules.pictures.tiff_pages import pages_of

ORIENTATION = 0x0112


def open_deep(path: Path) -> tuple[Picture, int] | None:
    """A PNG file of 16 bits, or a TIFF file of floats or of 16-bit colour, with its orientation; None for others.

    Pillow would make 8 bits of them, or nothing.

    Raises:
        ValueError: of a kind that is not supported, or of several pages.
    """
    with path.open("rb") as file:
        start = file.read(25)
    if start.startswith(b"\x89PNG") and start[24:] == b"\x10":  # PNG specification, 11.2.2
        with Image.open(path) as image:
            return open_png(path), orientation_of(image)
    if path.suffix.lower() in (".tif", ".tiff"):
        import tifffile

        try:
            with tifffile.TiffFile(path) as tiff:
                pages = [page for page in pages_of(tiff) if not getattr(page, "is_reduced", False)]  # no previews
                shape, kind = pages[0].shape, pages[0].dtype
                tag = tiff.pages.first.tags.get(ORIENTATION)
        except tifffile.TiffFileError:
            return None
        if len(pages) > 1:
            raise ValueError(f"it holds {len(pages)} pages; only TIFF files of one picture are read: split it")
        if kind is not None and (kind.kind == "f" or (kind == np.uint16 and len(shape) == 3)):
            return open_tiff(path), tag.value if tag else 1
    return None


def decode_deep(picture: Picture, orientation: int, backdrop: int | None) -> np.ndarray:
    """The upright pixels of such a file, uint16 [H, W, C]; transparent parts show the backdrop, 0 to 255.

    Raises:
        ValueError: it is truncated or damaged, or its floats are not in [0, 1].
    """
    pixels = np.concatenate(list(picture.bands(0)))
    if pixels.dtype != np.uint16:
        low, high = float(pixels.min()), float(pixels.max())
        if not (0 <= low <= high <= 1):
            raise ValueError(f"its floats go from {low:g} to {high:g}; float images must lie in [0, 1]: scale them")
        pixels = np.round(pixels * np.float64(65535)).astype(np.uint16)
    colours, alpha = np.split(pixels, [picture.channels], 2)
    if backdrop is not None and picture.alpha:
        share = alpha / 65535
        colours = np.round(colours * share + 257 * backdrop * (1 - share)).astype(np.uint16)
    return upright(colours, orientation)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """[H, W, C] → the same as it is to be seen, by EXIF's orientation of 1 to 8; others count as 1."""
    if 5 <= orientation <= 8:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def orientation_of(image: Image.Image) -> int:
    """1 to 8, by the EXIF of an opened file; Pillow's own method for PNG would decode it all to look behind."""
    return Image.Image.getexif(image).get(ORIENTATION, 1)
