"""What denoising costs beside the network: ``python -m experiments.bench_denoise`` (part of ``make bench``).

Tiles against the whole picture; the memory of a large picture; folders against the bare network on as many pictures.
Networks are untrained, which cost as much. What is compared is run by turns, because a machine's speed drifts.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from experiments import provenance
from experiments.cli import command

if TYPE_CHECKING:
    from denoisers.inference import Denoiser

PIECES = 4  # along each side


def denoiser(model: DictConfig, channels: int) -> "Denoiser":
    """An untrained network, ready for pictures."""
    from denoisers.inference import Denoiser

    found = Denoiser(instantiate(model).eval(), channels)
    return found.to("cuda" if torch.cuda.is_available() else "cpu")


def name_of(denoiser: "Denoiser") -> str:
    """Of its network's class."""
    return type(denoiser.network).__name__


def noise(*shape: int) -> np.ndarray:
    """A picture of noise, uint8."""
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def seconds(function: Callable[[], object]) -> float:
    """Of one call, on a GPU, too."""
    started = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def tiles(cfg: DictConfig) -> str:
    """4×4 tiles against the whole picture, both from uint8 to uint8."""
    from denoisers.receptive import sight_of
    from denoisers.tiles import multiple, rounded

    network, pixels = denoiser(cfg.model, cfg.channels), noise(cfg.side, cfg.side, cfg.channels)
    sight = sight_of(network.network, cfg.channels)
    beyond = 2 * (rounded(sight) or 0)
    sides = {"whole": cfg.side, "tiles": multiple((cfg.side - beyond) / PIECES + beyond, sight.alignment)}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(cfg.rounds + 1):
        for name, network.tile in sides.items():
            taken = seconds(lambda: network.clean(pixels))
            if number or cfg.rounds == 1:  # the first one warms up
                times[name].append(taken)
    assert network.plan is not None  # it has cleaned
    count = len(network.plan.pieces(cfg.side))
    whole, cut = (median(taken) for taken in times.values())
    ratio = median(a / b for a, b in zip(*times.values(), strict=True))
    return (
        f"{cfg.side**2 / 1e6:.1f} MP, {name_of(network)}: {count}×{count} tiles of {sides['tiles']} pixels, overlap "
        f"included, reach {ratio:.3f} times the throughput of the whole picture ({whole:.1f} s and {cut:.1f} s)"
    )


def memory(cfg: DictConfig) -> str:
    """The anonymous memory of a large picture beyond its input and output."""
    network, pixels = denoiser(cfg.quick, 3), noise(*cfg.large, 3)
    with peak() as found:
        before, started = found[0], time.perf_counter()
        network.clean(pixels)
        taken = time.perf_counter() - started
    beyond = found[0] - before - pixels.nbytes
    assert network.plan is not None  # it has cleaned
    return (
        f"{cfg.large[1]:,}×{cfg.large[0]:,} RGB, {name_of(network)}: at most {beyond / 1e9:.2f} GB of "
        f"anonymous memory beyond input and output ({pixels.nbytes / 1e9:.2f} GB each), tiles of {network.plan.tile} "
        f"pixels, {pixels.size / 3e6 / taken:.2f} MP/s"
    )


@contextmanager
def peak() -> Iterator[list[int]]:
    """Within it, the most anonymous memory that this process had so far, in bytes."""
    from experiments.cost import resident

    found, ended = [resident("RssAnon")], threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            found[0] = max(found[0], resident("RssAnon"))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield found
    finally:
        ended.set()
        watching.join()


def folder(cfg: DictConfig) -> str:
    """A folder of grey pictures, by the network of the model axis."""
    return in_a_folder(cfg, denoiser(cfg.model, cfg.channels), cfg.images)


def quick(cfg: DictConfig) -> str:
    """A folder of RGB pictures, five times as many, by a quick network."""
    return in_a_folder(cfg, denoiser(cfg.quick, 3), 5 * cfg.images)


def in_a_folder(cfg: DictConfig, network: "Denoiser", images: int) -> str:
    """A folder, read, cleaned and written, against the bare network on up to twenty, half before and half after."""
    from PIL import Image

    from experiments.cleaning import journal, places
    from experiments.cleaning.run import Cleaning

    pixels = noise(*cfg.size, network.channels)
    options = OmegaConf.create({"sigma": None, "overwrite": False, "crf": None, "window": 8})
    batch = torch.rand(1, network.channels, *cfg.size, device=network.device)
    megapixels = images * cfg.size[0] * cfg.size[1] / 1e6
    with tempfile.TemporaryDirectory() as place, torch.inference_mode():
        source, target = Path(place, "in"), Path(place, "out")
        source.mkdir()
        smooth = Image.fromarray(pixels.squeeze()).reduce(4).resize(cfg.size[::-1])
        for index in range(images):
            smooth.save(source / f"{index}.png", compress_level=1)
        network.clean(pixels)  # warms up
        half = min(10, -(-images // 2))

        def bare() -> float:
            return seconds(lambda: [network.network(batch).cpu() for _ in range(half)]) / half

        own = [bare()]
        with journal.opened(target, {}, overwrite=False) as opened:
            taken = seconds(lambda: Cleaning(network, opened, options).all(places.items(str(source), str(target))))
        own.append(bare())
    rate, bare_rate = megapixels / taken, megapixels / images / (sum(own) / 2)
    return (
        f"folder of {images} PNGs of {megapixels / images:.1f} MP, {name_of(network)}: "
        f"{rate:.2f} MP/s, {rate / bare_rate:.3f} times the network's own {bare_rate:.2f} MP/s"
    )


PARTS = {"tiles": tiles, "memory": memory, "folder": folder, "quick": quick}


@command("bench_denoise")
def main(cfg: DictConfig) -> None:
    console = Console()
    for part in cfg.parts:
        console.print(PARTS[part](cfg), soft_wrap=True)
    console.print(f"{provenance.hardware()}; commit {provenance.commit()}", soft_wrap=True)


if __name__ == "__main__":
    main()
