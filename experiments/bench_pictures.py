"""What large picture files need: ``python -m experiments.bench_pictures [HEIGHT WIDTH]``, in RGB of 8 bits; Linux only.

Each file is read and written in a process of its own, whose anonymous memory is watched, and then by the library that
knows its kind, for comparison.
"""

import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from experiments import provenance
from experiments.tables import Table

SIZE = 9000, 12000
KINDS: dict[str, dict[str, Any]] = {
    "PNG": {"compress_level": 1},
    "TIFF": {},
    "TIFF, Deflate": {"compression": "zlib"},
    "JPEG": {"quality": 95},
    "BMP": {},
}
SUFFIXES = {"PNG": ".png", "TIFF": ".tif", "JPEG": ".jpg", "BMP": ".bmp"}


def picture(height: int, width: int) -> np.ndarray:
    """Steps with some noise, uint8 [H, W, 3]."""
    steps = np.add.outer(np.arange(height) // 9, np.arange(width) // 7)[..., None] % 200
    return steps.astype(np.uint8) + np.random.default_rng(0).integers(0, 20, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, options: dict[str, Any]) -> None:
    """Writes it as the library does."""
    import tifffile
    from PIL import Image

    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="rgb", **options)
    else:
        Image.fromarray(pixels).save(path, **options)


def load(path: Path) -> np.ndarray:
    """Reads it as the library does."""
    import tifffile
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    return tifffile.imread(path) if path.suffix == ".tif" else np.asarray(Image.open(path))


def watched(function: Callable[[], Any]) -> tuple[Any, float, float]:
    """Its result, its seconds, and the MiB of anonymous memory that it needed at most."""

    def held() -> float:
        found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
        assert found is not None
        return int(found[1]) / 1024

    def watch() -> None:
        while not done.wait(0.002):
            most.append(max(most.pop(), held()))

    start, done = held(), threading.Event()
    most = [start]
    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    result = function()
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    return result, seconds, most[0] - start


def measure(kind: str, height: int, width: int, folder: Path) -> list[float]:
    """MiB beyond the array, seconds and times the library's seconds of reading, and of writing."""
    import tifffile  # noqa: F401  # before memory is watched

    from datamodules.pictures import coded, open_picture, png  # noqa: F401

    path = folder / f"x{SUFFIXES[kind.split(',')[0]]}"
    save(path, picture(height, width), KINDS[kind])
    opened = open_picture(path)
    pixels, reading, most = watched(opened.pixels)
    _, writing, more = watched(lambda: opened.write(path.with_stem("out"), [pixels]))
    plain, plainly, _ = watched(lambda: load(path))
    assert np.array_equal(plain, pixels)
    _, saving, _ = watched(lambda: save(path, plain, {} if kind == "PNG" else KINDS[kind]))
    return [most - pixels.nbytes / 2**20, reading, reading / plainly, more, writing, writing / saving]


def main(height: int = SIZE[0], width: int = SIZE[1]) -> None:
    body = []
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder, get_context("spawn").Pool(1) as pool:
            numbers = pool.apply(measure, (kind, height, width, Path(folder)))
        body.append([kind, *(f"{number:.{digits}f}" for number, digits in zip(numbers, (0, 1, 2) * 2, strict=True))])
    columns = [f"{way}: {what}" for way in ("read", "write") for what in ("MiB", "s", "× library")]
    array = height * width * 3 / 2**20
    note = f"{height}×{width} in RGB; MiB beyond the {array:.0f} of the pixels. {provenance.hardware()}."
    Table("What large pictures need", ["file", *columns], body, note).show()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
