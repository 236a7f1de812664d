"""JPEG, WebP and BMP, which Pillow decodes and encodes whole."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import BmpImagePlugin, Image, ImageFile, JpegImagePlugin, WebPImagePlugin

from datamodules.pictures.picture import BAND, Page, Picture, reason, require_held

QUALITY = 95  # of JPEG and WebP, or better; Pillow calls more a waste
BYTE_MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "RGBA": "RGBA"}
# the classes themselves: Image.open would take 180 megapixels for an attack, whatever the size of the file
READERS: dict[bytes, Callable[[Path], ImageFile.ImageFile]] = {
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    b"RIFF": WebPImagePlugin.WebPImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
}


@dataclass(frozen=True)
class CodedPicture(Picture):
    """A picture of 8 bits that Pillow reads and writes.

    Args:
        reader: opens it.
        mode: Pillow's, of :meth:`bands`.
        segments: of a JPEG file: what is kept of it, byte for byte.
    """

    reader: Callable[[Path], ImageFile.ImageFile]
    mode: str
    segments: bytes

    def bands(self, page: int) -> Iterator[np.ndarray]:
        with self.reader(self.path) as opened:
            image = opened if opened.mode == self.mode else opened.convert(self.mode)
            rows = max(1, BAND // (self.width * len(self.mode)))
            for top in range(0, self.height, rows):
                part = image.crop((0, top, self.width, min(top + rows, self.height)))
                yield np.atleast_3d(np.asarray(part))

    def _write(self, target: Path, pages: Iterator[np.ndarray]) -> None:
        for pixels in pages:
            if self.alpha:
                pixels = np.concatenate(list(self.joined(0, pixels)))
            image = Image.fromarray(pixels[..., 0] if self.channels == 1 else pixels)
            with self.reader(self.path) as source:
                target.write_bytes(ENCODERS[self.format](image, source, self))


def open_coded(path: Path, start: bytes) -> CodedPicture:
    """The facts of a file that starts with these bytes.

    Raises:
        ValueError: the reason why it cannot be read.
    """
    reader = next((reader for magic, reader in READERS.items() if start.startswith(magic)), None)
    if reader is None or (start[:4] == b"RIFF" and start[8:12] != b"WEBP"):
        raise ValueError(f"{_kind(path)}: save it as PNG, TIFF, JPEG, WebP or BMP")
    notes = []
    try:
        image = reader(path)
    except Exception as error:
        raise ValueError(f"truncated or damaged: {reason(error)}") from error
    with image:
        if getattr(image, "n_frames", 1) > 1:
            raise ValueError("an animated WebP: only still pictures are cleaned, save its frames as files of their own")
        if image.mode not in BYTE_MODES or (image.mode == "RGBA" and image.format == "BMP"):
            raise ValueError(f"a {image.format} file of mode {image.mode}: save it as RGB or grey, or as PNG")
        mode = BYTE_MODES[image.mode]
        if image.mode == "P":
            notes.append("its palette becomes RGB")
        if image.mode == "1":
            notes.append("its 1 bit(s) a pixel become 8")
        if image.format != "WEBP":  # which needs a few bytes for any number of equal pixels
            require_held(image.width * image.height * len(mode), path.stat().st_size)
        if image.format == "JPEG" and "mp" in image.info:
            notes.append("of the pictures it holds, only the first is kept")
        page = Page(image.height, image.width, 1 if mode == "L" else 3, np.dtype(np.uint8), mode == "RGBA")
        segments = b"".join(_segments(path)) if image.format == "JPEG" else b""
        return CodedPicture(path, str(image.format), (page,), tuple(notes), reader, mode, segments)


def _kind(path: Path) -> str:
    """What a file is that is none of these."""
    try:
        with Image.open(path) as image:
            return f"a {image.format} picture, which cannot be cleaned"
    except Exception:
        return "not a picture that can be read"


def _encoded_jpeg(image: Image.Image, source: Any, picture: CodedPicture) -> bytes:
    """No coarser than the source in space and in values; its application segments and comments as they are."""
    plain = io.BytesIO()
    Image.new("RGB", (8, 8)).save(plain, "JPEG", quality=QUALITY)
    plain.seek(0)
    fine = JpegImagePlugin.JpegImageFile(plain).quantization
    own = [source.quantization[number] for *_, number in source.layer]  # of brightness and of both colours
    tables = [list(map(min, fine[index], own[index])) for index in range(min(2, len(own)))]
    image.save(
        file := io.BytesIO(),
        "JPEG",
        qtables=tables,
        subsampling=max(JpegImagePlugin.get_sampling(source), 0),
        progressive="progressive" in source.info,
    )
    encoded = file.getvalue()
    header = 4 + int.from_bytes(encoded[4:6], "big")  # the start and JFIF's segment, instead of which are the source's
    return b"\xff\xd8" + picture.segments + encoded[header:]


def _segments(path: Path) -> Iterator[bytes]:
    """The application segments and comments of a JPEG file, but those that say how these pixels are encoded."""
    with path.open("rb") as file:
        file.seek(2)
        while (marker := file.read(2)) != b"\xff\xda":  # the pixels
            if marker == b"\xff\xff":
                file.seek(-1, 1)
                continue
            size = file.read(2)
            length = int.from_bytes(size, "big") - 2
            if len(size) < 2 or length < 0 or marker[0] != 255:
                raise ValueError("damaged: its segments are in disorder")
            data = file.read(length)
            adobe, several = (b"\xff\xee", b"Adobe"), (b"\xff\xe2", b"MPF\0")
            if (0xE0 <= marker[1] <= 0xEF or marker[1] == 0xFE) and not any(
                marker == kind and data.startswith(name) for kind, name in (adobe, several)
            ):
                yield marker + size + data


def _encoded_webp(image: Image.Image, source: Any, picture: CodedPicture) -> bytes:
    """Lossless where the source is; transparent pixels keep their colours."""
    kept = {key: source.info[key] for key in ("icc_profile", "exif", "xmp") if key in source.info}
    lossless = _is_lossless(picture.path)
    image.save(file := io.BytesIO(), "WEBP", lossless=lossless, quality=QUALITY, exact=True, **kept)
    return file.getvalue()


def _is_lossless(path: Path) -> bool:
    """Whether a WebP file holds a chunk of the lossless kind."""
    with path.open("rb") as file:
        file.seek(12)
        while len(header := file.read(8)) == 8:
            name, size = header[:4], int.from_bytes(header[4:], "little")
            if name in (b"VP8L", b"VP8 "):
                return name == b"VP8L"
            file.seek(size + size % 2, 1)
    return False


def _encoded_bmp(image: Image.Image, source: Any, picture: CodedPicture) -> bytes:
    image.save(file := io.BytesIO(), "BMP", dpi=source.info.get("dpi", (96, 96)))
    return file.getvalue()


ENCODERS = {"JPEG": _encoded_jpeg, "WEBP": _encoded_webp, "BMP": _encoded_bmp}
