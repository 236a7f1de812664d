"""JPEG, WebP and BMP, which Pillow decodes and encodes whole."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.pictures.picture import Page, Picture


@dataclass(frozen=True)
class CodedPicture(Picture):
    """A picture that Pillow reads and writes."""

    mode: str

    def bands(self, page: int) -> Iterator[np.ndarray]:
        with Image.open(self.path) as image:
            yield np.atleast_3d(np.asarray(image.convert(self.mode)))

    def _write(self, target: Path, pages: Iterator[np.ndarray]) -> None:
        for pixels in pages:
            with Image.open(self.path) as image:
                kept = {key: image.info[key] for key in ("icc_profile", "exif", "dpi") if key in image.info}
                if self.alpha:
                    pixels = np.dstack([pixels, np.asarray(image.convert(self.mode))[..., -1:]])
            Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(
                target, self.format, quality=95, **kept
            )


def open_coded(path: Path) -> CodedPicture:
    """The facts of a file that Pillow opens.

    Raises:
        ValueError: the reason why it cannot be read.
    """
    with Image.open(path) as image:
        grey, alpha = image.mode in ("1", "L", "LA"), image.has_transparency_data
        mode = ("L" if grey else "RGB") + ("A" if alpha else "")
        page = Page(image.height, image.width, 1 if grey else 3, np.dtype(np.uint8), alpha)
        return CodedPicture(path, str(image.format), (page,), (), mode)
