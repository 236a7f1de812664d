"""Pictures on their way to a network and from it: read before their turn, and written after it, in threads."""

import contextlib
import logging
import queue
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from experiments.cleaning.journal import stamp
from experiments.cleaning.places import Item

if TYPE_CHECKING:
    from datamodules.pictures import Picture
    from denoisers.inference import Denoiser
    from denoisers.tiles import Plan

THREADS = 2  # that read, and as many that write
AHEAD = 3  # pages that are read before their turn, at most
OF_THE_SCENE = {0x0112, 0x8769, 0x8825}  # a TIFF file's orientation, EXIF and GPS; its other tags are of its pixels
MEMORY = 1 << 30  # bytes of pages that are read before their turn, at most, unless one alone has more

BLENDED = "the network sees further than a tile of this picture: tiles are blended, not those of the whole picture"
log = logging.getLogger(__name__)

Sigma = float | Literal["auto"] | None


@dataclass
class Read:
    """A page on its way: its pixels, once they are there, or why they are not.

    Args:
        picture: None if the file cannot be opened; ``pixels`` says why.
        pixels: and σ of the noise, on the 0–255 scale.
    """

    item: Item
    picture: "Picture | None"
    page: int
    pixels: "Future[tuple[np.ndarray, float | None]]"

    @property
    def bytes(self) -> int:
        """Of the pixels."""
        if self.picture is None:
            return 0
        facts = self.picture.sheets[self.page]
        return int(np.prod(facts.shape)) * facts.dtype.itemsize


def pages(items: Iterable[Item], sigma: Sigma, luminance: bool = False) -> Iterator[Read]:
    """The pages of the items in their order; some are read ahead in threads.

    σ is estimated where that is asked for, of colours or of their ``luminance``.
    """
    from datamodules.pictures import open_picture

    def read(picture: "Picture", page: int) -> tuple[np.ndarray, float | None]:
        from denoisers.sigma import estimate_sigma

        pixels = picture.pixels(page)
        return pixels, 255 * estimate_sigma(pixels, picture.limits, luminance) if sigma == "auto" else sigma

    def coming() -> Iterator[Read]:
        for item in items:
            try:
                picture = open_picture(item.source)
            except Exception as error:
                failed: Future[Any] = Future()
                failed.set_exception(error)
                yield Read(item, None, 0, failed)
                continue
            for page in range(picture.pages):
                yield Read(item, picture, page, pool.submit(read, picture, page))

    pool = ThreadPoolExecutor(THREADS, "read")
    try:
        ready: deque[Read] = deque()
        for one in coming():
            ready.append(one)
            while len(ready) > AHEAD or (len(ready) > 1 and sum(page.bytes for page in ready) > MEMORY):
                yield ready.popleft()
        while ready:
            yield ready.popleft()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@dataclass
class Writing:
    """A file that is written, in a thread, while its pages come in.

    Args:
        entry: what there is to say of it.
    """

    item: Item
    picture: "Picture"
    entry: dict[str, Any]
    done: "Future[None]" = field(default_factory=Future)
    _pages: "queue.Queue[np.ndarray | None]" = field(default_factory=lambda: queue.Queue(1))

    def put(self, pixels: np.ndarray | None) -> None:
        """Hands a page over, waiting for the one before; None: there will be none, and what was written goes."""
        while not self.done.done():
            with contextlib.suppress(queue.Full):
                return self._pages.put(pixels, timeout=0.05)

    def write(self, overwrite: bool) -> None:
        """Takes the pages and writes them.

        Raises:
            DataError, OSError: see :meth:`datamodules.pictures.Picture.write`.
        """

        def coming() -> Iterator[np.ndarray]:
            for _ in range(self.picture.pages):
                if (pixels := self._pages.get()) is None:
                    raise InterruptedError("given up")
                yield pixels

        self.picture.write(self.item.target, coming(), overwrite)


def described(item: Item, picture: "Picture") -> dict[str, Any]:
    """What the report says of a file before it is clean."""
    megapixels = sum(page.height * page.width for page in picture.sheets) / 1e6
    found = {"input": stamp(item), "size": [picture.height, picture.width, picture.channels], "pages": picture.pages}
    return found | {"type": str(picture.dtype), "megapixels": megapixels, "notes": list(picture.notes)}


def tiled(name: str, plan: "Plan | None") -> dict[str, Any]:
    """What a report says of the tiles that a file was cleaned by, if it was; that they are blended is said at once."""
    if plan is None or not plan.cut:
        return {}
    if plan.blended:
        log.info(f"{name}: {BLENDED}")
    return {"tile": plan.tile, "blended": plan.blended}


def clean(denoiser: "Denoiser", picture: "Picture", pixels: np.ndarray, sigma: float | None) -> np.ndarray:
    """The clean pixels of a page, [H, W, C], of the same type."""
    from datamodules.pictures import room

    level = None if sigma is None else sigma / 255
    return denoiser.clean(pixels, level, room(pixels.shape, pixels.dtype), picture.limits)


def one(item: Item, picture: "Picture", denoiser: "Denoiser", sigma: Sigma, overwrite: bool) -> None:
    """Cleans a picture into a file of the same kind, or of another, if its name says so.

    Raises:
        DataError, OSError: see :meth:`datamodules.pictures.Picture.write`.
    """
    from datamodules.pictures.picture import SUFFIXES_OF

    def cleaned() -> Iterator[np.ndarray]:
        for read in pages([item], sigma, denoiser.luminance):
            pixels, own = read.pixels.result()
            if sigma == "auto":
                log.info(f"{item.source}: sigma {own:.1f}")
            yield clean(denoiser, picture, pixels, own)
            if denoiser.plan is not None and denoiser.plan.blended:
                log.info(BLENDED)

    if item.target.suffix.lower() in {item.source.suffix.lower(), *SUFFIXES_OF[picture.format]}:
        picture.write(item.target, cleaned(), overwrite)
    else:
        convert(picture, item.target, cleaned())


def convert(picture: "Picture", target: Path, cleaned: Iterator[np.ndarray]) -> None:
    """Writes a picture as another kind of file, with its orientation and colour profile; not its alpha channel.

    Raises:
        DataError: it has more than 8 bits or more than one page, or that kind cannot hold it.
    """
    from PIL import Image

    from datamodules.errors import DataError
    from datamodules.files import replacing

    if picture.pages > 1 or picture.dtype != np.uint8:
        raise DataError(
            f"output={target}: only an 8-bit picture of one page becomes another kind of file, and {picture.path} has "
            f"{picture.pages} page(s) of {picture.dtype}: give its own suffix, {picture.path.suffix}"
        )
    if picture.alpha:
        log.info(f"{picture.path} has an alpha channel, which is left out of {target}")
    [pixels] = cleaned
    try:
        with Image.open(picture.path) as image:
            exif = image.getexif()
            for tag in set(exif) - OF_THE_SCENE if image.format == "TIFF" else ():
                del exif[tag]
            kept: dict[str, Any] = {"icc_profile": image.info.get("icc_profile"), "exif": exif.tobytes()}
        with replacing(target) as temporary:
            Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(temporary, quality=95, **kept)
    except Exception as error:  # sizes that a format does not have
        if isinstance(error, OSError) and error.errno:
            raise
        raise DataError(
            f"output={target}: {picture.path} cannot become such a file ({error}): give its own suffix, "
            f"{picture.path.suffix}"
        ) from error
