"""Picture files whose pixels are exchanged and whose everything else is kept."""

from dataclasses import replace
from pathlib import Path

from datamodules.errors import DataError
from datamodules.pictures.picture import MAX_PIXELS, SUFFIXES_OF, Page, Picture, reason, room

__all__ = ["MAX_PIXELS", "Page", "Picture", "open_picture", "room"]


def open_picture(path: Path, max_pixels: int = MAX_PIXELS) -> Picture:
    """What the header of a PNG, TIFF, JPEG, WebP or BMP file says; the content counts, not the suffix.

    Args:
        path: of the file.
        max_pixels: that a page may have; more are refused before memory is taken for them.

    Raises:
        DataError: "path: reason" for whatever cannot be read, or not be written again as the same kind of file.
    """
    from datamodules.pictures.coded import open_coded
    from datamodules.pictures.png import SIGNATURE, open_png
    from datamodules.pictures.tiff import SIGNATURES, open_tiff

    try:
        _require_file(path)
        with path.open("rb") as file:
            start = file.read(16)
        if start.startswith(SIGNATURE):
            picture: Picture = open_png(path)
        else:
            picture = open_tiff(path) if start.startswith(SIGNATURES) else open_coded(path, start)
        for page in picture.sheets:
            page.require_at_most(max_pixels)
        if path.suffix.lower() not in SUFFIXES_OF[picture.format]:
            picture = replace(picture, notes=(*picture.notes, f"it is a {picture.format} file, whatever its name says"))
    except Exception as error:
        raise DataError(f"{path}: {reason(error)}") from error
    return picture


def _require_file(path: Path) -> None:
    """Raises ValueError for what would give no bytes, or bytes without end."""
    if path.is_dir():
        raise ValueError("a folder")
    if not path.is_file():
        kind = "not a file" if path.exists() else "a link to nothing" if path.is_symlink() else "there is no such file"
        raise ValueError(kind)
    if path.stat().st_size == 0:
        raise ValueError("empty")
