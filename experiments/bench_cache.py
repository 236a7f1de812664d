"""What the memory-mapped cache is worth: ``python -m experiments.bench_cache`` (part of ``make bench``).

Crops per second from the map, and from a loop that opens, decodes and crops the same files; with the time that building
the cache takes and the anonymous memory of it all. Files of your own: ``data=folder data.path=DIR``.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from skimage import data as pictures

from datamodules.datasets import Crops
from datamodules.images import decode
from experiments.cli import command

SECONDS = 10  # of each loop
IMAGES, HEIGHT, WIDTH = 24, 3000, 4000


def anonymous_memory() -> int:
    """This process's own memory, in bytes (Linux)."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


def make_pictures(folder: Path) -> None:
    """Writes JPEGs of 12 megapixels, each another cut-out of enlarged photographs with a little noise."""
    from PIL import Image

    draw = np.random.default_rng(0)
    for index in range(IMAGES):
        photo = Image.fromarray((pictures.astronaut, pictures.coffee, pictures.chelsea)[index % 3]())
        large = np.asarray(photo.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.int16)
        grain = draw.integers(-6, 7, (HEIGHT, WIDTH, 1), dtype=np.int16)
        Image.fromarray((large + grain).clip(0, 255).astype(np.uint8)).save(folder / f"{index:03}.jpg", quality=92)


def rate(crop: Callable[[int], Any]) -> float:
    """How often ``crop`` is done in a second."""
    started, done = time.perf_counter(), 0
    while (seconds := time.perf_counter() - started) < SECONDS:
        crop(done)
        done += 1
    return done / seconds


def setting(typed: Sequence[str]) -> list[str]:
    """Without a folder of its own, the command makes pictures."""
    return [*typed, "data.cache=true", "run_dir=runs/bench/${now:%Y-%m-%d_%H-%M-%S}"]


def measure(cfg: DictConfig) -> None:
    """Prints the rates, and what the first and the second start take."""
    cfg.data.crops_per_image = 10**6
    started = time.perf_counter()
    datamodule = instantiate(cfg.datamodule)
    datamodule.setup("fit")
    built, memory = time.perf_counter() - started, anonymous_memory()
    started = time.perf_counter()
    again = instantiate(cfg.datamodule)
    again.setup("fit")
    opened = time.perf_counter() - started
    crops: Crops = again.train_dataloader().dataset
    size = cfg.data.patch_size
    draw = np.random.default_rng(0)

    def open_decode_crop(index: int) -> np.ndarray:
        pixels = decode(crops.items[index % len(crops.items)].files[0])
        top, left = (int(draw.integers(side - size + 1)) for side in pixels.shape[:2])
        return np.ascontiguousarray(pixels[top : top + size, left : left + size])

    mapped, decoding = rate(lambda index: crops[(0, index)]), rate(open_decode_crop)
    count = sum(len(part) for part in (again.splits.train, again.splits.val, again.splits.test))
    console = Console()
    console.print(f"{count} images: cache built in {built:.1f} s, opened again in {opened:.2f} s")
    console.print(f"anonymous memory after building: {memory / 1e6:,.0f} MB")
    console.print(f"crops {size}×{size} per second: {mapped:,.0f} from the map, {decoding:.1f} by open, decode, crop")
    console.print(f"the map is {mapped / decoding:,.0f} times as fast")


@command("train", setting)
def main(cfg: DictConfig) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cfg.data.cache_dir = f"{folder}/cache"
        if cfg.axes.data != "folder":
            images = Path(folder) / "images"
            images.mkdir()
            make_pictures(images)
            cfg.channels = 3
            cfg.datamodule.splits = {
                "_target_": "datamodules.splits.folder",
                **dict.fromkeys(("train", "val", "test")),
                "path": str(images),
                "fractions": [0.7, 0.15, 0.15],
                "split_seed": 0,
            }
        measure(cfg)


if __name__ == "__main__":
    main()
