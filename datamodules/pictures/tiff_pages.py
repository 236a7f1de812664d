"""What the directories of a TIFF file say of its pages (TIFF 6.0; tifffile reads them)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datamodules.pictures.packing import FLOATING, HORIZONTAL, NONE, PACKED
from datamodules.pictures.picture import Page

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE = range(4)
BITS, PHOTOMETRIC, OFFSETS, SAMPLES, COUNTS = 258, 262, (273, 324), 277, (279, 325)  # tags; of strips and of tiles
LARGE_TILE = 1 << 22  # pixels of a tile that are much for a page of fewer


@dataclass(frozen=True)
class TiffPage(Page):
    """How a page is stored.

    Args:
        number: of its directory in the file.
        stored: type of the samples in the file, with its byte order.
        bits: 1, 2 or 4 where these are fewer than a byte, otherwise of ``stored``.
        samples: values a pixel, before a palette makes colours of them.
        planar: whether each sample has strips or tiles of its own.
        photometric, compression, predictor: TIFF's numbers.
        box: height and width of a strip or tile.
        tiled: whether the boxes at the edges are whole ones.
        places: offset and count of bytes of every box.
        palette: [2^bits, 3], where there is one.
    """

    number: int = 0
    stored: np.dtype = field(default_factory=lambda: np.dtype(np.uint8))
    bits: int = 8
    samples: int = 1
    planar: bool = False
    photometric: int = BLACK_IS_ZERO
    compression: int = NONE
    predictor: int = 1
    box: tuple[int, int] = (1, 1)
    tiled: bool = False
    places: tuple[tuple[int, int], ...] = ()
    palette: np.ndarray | None = None

    @property
    def down(self) -> int:
        """Boxes below each other."""
        return -(-self.height // self.box[0])

    @property
    def across(self) -> int:
        """Boxes beside each other."""
        return -(-self.width // self.box[1])

    @property
    def simple(self) -> bool:
        """Whether it is stored in strips of whole pixels."""
        return not (self.tiled or self.planar)

    def rows(self, row: int) -> int:
        """How many rows of pixels a row of boxes has."""
        return min(self.box[0], self.height - row * self.box[0])

    def boxes(self, row: int) -> Iterator[tuple[int, int, slice]]:
        """Of one row of boxes: number, left edge and samples of each."""
        for plane in range(self.samples if self.planar else 1):
            samples = slice(plane, plane + 1) if self.planar else slice(0, self.samples)
            for column in range(self.across):
                yield (plane * self.down + row) * self.across + column, column * self.box[1], samples

    @property
    def converted(self) -> bool:
        """Whether it is written as other samples than it is read: a palette's, or those of less than 8 bits."""
        return self.bits < 8 or self.palette is not None

    @property
    def written(self) -> "TiffPage":
        """The same page, as it is written."""
        if not self.converted:
            return self
        facts: dict[str, Any] = {"bits": 8, "samples": self.channels, "palette": None, "planar": False}
        return TiffPage(**{**vars(self), **facts, "photometric": RGB if self.channels == 3 else self.photometric})


def pages_of(file: Any) -> list[Any]:
    """The pages of tifffile's TiffFile, previews too; raises ValueError where there are none."""
    many = len(file.pages)  # which ends where directories go round in a circle; a loop over them would not
    if not many:
        raise ValueError("damaged: it holds no directory of pixels")
    return [file.pages[number] for number in range(many)]


def facts_of(number: int, page: Any, byteorder: str) -> TiffPage:
    """Of a page of tifffile's; raises ValueError for one that is not supported."""
    photometric, bits, samples = int(page.photometric), page.bitspersample, page.samplesperpixel
    colours = 3 if photometric == RGB else 1
    if photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE):
        kind = getattr(page.photometric, "name", photometric)
        raise ValueError(f"its colours are of kind {kind}: save it as grey or RGB")
    if not 0 <= samples - colours <= (photometric != PALETTE):
        raise ValueError(f"its pixels have {samples} values each: save it as grey or RGB, with or without alpha")
    integers = bits in (8, 16) if photometric != PALETTE else bits == 8
    few = bits in (1, 2, 4) and samples == 1 and page.predictor == 1
    form = {1: "UINT", 2: "INT", 3: "IEEEFP", 5: "COMPLEXINT", 6: "COMPLEXIEEEFP"}.get(page.sampleformat, "VOID")
    if not (
        (form == "UINT" and (integers or few)) or (form == "IEEEFP" and bits in (16, 32, 64) and photometric != PALETTE)
    ):
        raise ValueError(f"its numbers are {form} of {bits} bits: save it with 8 or 16 bits or with floats")
    if page.compression not in PACKED:
        kind = getattr(page.compression, "name", page.compression)
        raise ValueError(f"it is compressed as {kind}: save it uncompressed, or with Deflate or LZW")
    if page.predictor not in (1, HORIZONTAL, FLOATING) or (page.predictor == FLOATING) > (form == "IEEEFP"):
        raise ValueError(f"there is no predictor {page.predictor} for its numbers")
    if page.fillorder != 1 or page.imagedepth != 1:
        raise ValueError("its bits are in reverse, or it has depth: save it as a common TIFF")
    stored = np.dtype(f"{byteorder}{'f' if form == 'IEEEFP' else 'u'}{max(1, bits // 8)}")
    dtype = np.dtype(np.float32) if stored.kind == "f" else stored.newbyteorder("=")
    palette = None
    if photometric == PALETTE:
        table = np.asarray(page.colormap)
        if table.shape != (3, 2**bits):
            raise ValueError("damaged: its palette is missing or broken")
        palette = (table >> 8 if table.max() > 255 else table).astype(np.uint8).T  # some write 8 bits
    height, width = page.imagelength, page.imagewidth
    box = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, height), width)
    facts = TiffPage(
        height,
        width,
        3 if photometric == PALETTE else colours,
        dtype,
        samples > colours,
        number,
        stored,
        bits,
        samples,
        page.planarconfig == 2 and samples > 1,
        photometric,
        int(page.compression),
        page.predictor,
        box,
        page.is_tiled,
        tuple(zip(page.dataoffsets, page.databytecounts, strict=True)),
        palette,
    )
    if min(facts.height, facts.width, *box) < 1 or (
        len(facts.places) != facts.down * facts.across * (samples if facts.planar else 1)
    ):
        raise ValueError("damaged: its strips or tiles are not as many as its size asks for")
    if facts.tiled and math.prod(box) > max(height * width, LARGE_TILE):
        raise ValueError(f"damaged: its tiles of {box[0]}×{box[1]} pixels are larger than itself")
    if not any(code in page.tags for code in OFFSETS):
        raise ValueError("damaged: its directory does not say where its pixels are")
    return facts
