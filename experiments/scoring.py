"""What an evaluation does to each image, in this process or shared out over several."""

import logging
import os
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.checks import Headers
from datamodules.images import decode_as, to_tensor
from datamodules.noise.base import Noise, rms
from datamodules.parting import Item, together
from datamodules.realisation import ContentSeeded
from datamodules.workers import leave_signals_to_parent
from denoisers.clips import frames
from denoisers.metrics import Score, saved
from denoisers.tiles import tiled
from experiments.cli import UserError
from experiments.results import DIGITS, FLICKER, UNAVAILABLE, Row, label, rounded
from experiments.strips import Views, file_name, write

log = logging.getLogger(__name__)


@dataclass
class Scoring:
    """Scores a network on one image or whole video at a time, so that nothing but it and the seed can change its rows.

    Args:
        network: ``network(noisy, level) -> estimate``, in evaluation mode.
        channels: 1 or 3, that images are read with.
        noise, noise_name: clean → noisy, and what rows call it.
        realisation, score, protocol: the two halves of the protocol, and its name.
        lpips: (estimate, clean) → [B], or None where its weights are missing.
        metrics: of ``psnr``, ``ssim`` and ``lpips``.
        eval_seed: of the noise.
        headers: of the images' files.
        pictures: the folder of pictures, or None.
        trained: the noise that the network was trained with, or None; part of each row.
    """

    network: nn.Module
    channels: int
    noise: Noise
    noise_name: str
    realisation: ContentSeeded
    score: Score
    protocol: str
    lpips: nn.Module | None
    metrics: Sequence[str]
    eval_seed: int
    headers: Headers
    pictures: Path | None
    trained: str | None

    def prepare(self, device: torch.device) -> None:
        """Moves to a device, where a first small estimate pays for what only the first one costs."""
        self.device = device
        self.network.to(device)
        if self.lpips is not None:
            self.lpips.to(device)
        small = torch.full((1, self.channels, 32, 32), 0.5, device=device)
        self.estimate(small, torch.full((1, 1, 1, 1), 0.1, device=device))

    def __call__(self, items: Sequence[Item], draw: int) -> list[tuple[Row, Views]]:
        """The row of one image and realisation, and its views; of a video, those of each frame."""
        views = self.read(items)  # [1, C, H, W], or [1, T, C, H, W]
        clean, level = views.get("clean"), None
        if "noisy" not in views:
            drawn = self.realisation(self.noise, views["clean"][0], self.eval_seed, draw)
            views["noisy"], level = (part[None] for part in drawn)
        elif clean is not None:
            level = rms((views["noisy"] - clean).square())
        started = time.perf_counter()
        views["estimate"] = self.estimate(views["noisy"], level)
        seconds = (time.perf_counter() - started) / len(items)
        found: list[tuple[Row, Views]] = []
        for number, item in enumerate(items):
            image = {view: frames(images)[number] for view, images in views.items()}
            strength = None if level is None else frames(level)[number]
            row = label(item.name, item.set, self.noise_name, strength, self.protocol, draw) | {"trained": self.trained}
            row |= self.measured(image["estimate"], image.get("clean"), self.metrics)
            row |= {"seconds": round(seconds, DIGITS)}
            plain = [metric for metric in self.metrics if metric != "lpips"]
            of_noisy = self.measured(image["noisy"], image.get("clean"), plain)
            found.append((row | {f"noisy_{metric}": value for metric, value in of_noisy.items()}, image))
        if clean is not None and clean.ndim == 5:
            for prefix, view in {"": "estimate", "noisy_": "noisy"}.items():
                flicker = self.score.flicker(views[view][0], clean[0]).tolist()
                for (row, _), value in zip(found, flicker, strict=True):
                    row[f"{prefix}{FLICKER}"] = rounded(FLICKER, value)
        return found

    def read(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """The views of an image that there are [1, C, H, W] in [0, 1], or of the frames of a video [1, T, C, H, W]."""
        images = [[decode_as(path, self.headers[path], self.channels) for path in item.files] for item in items]
        views = [torch.stack(list(map(to_tensor, pixels))) for pixels in zip(*images, strict=True)]  # [T, C, H, W]
        video = items[0].video is not None
        return {view: t[None] if video else t for view, t in zip(items[0].views, views, strict=True)}

    def draw(self, found: Sequence[tuple[Row, Views]]) -> None:
        """Writes the pictures of an image's, or a video's, first realisation."""
        for row, views in found:
            if self.pictures and row["realisation"] == 0:
                write(views, self.pictures / row["set"] / file_name(row["image"]))

    @torch.inference_mode()
    def estimate(self, noisy: Tensor, level: Tensor | None) -> Tensor:
        """[1, C, H, W] or [1, T, C, H, W] on the CPU → the estimate on the CPU, waited for."""
        level = level if level is None else level.to(self.device)
        return tiled(self.network, noisy.to(self.device), level).float().cpu()

    @torch.inference_mode()
    def measured(self, estimate: Tensor, clean: Tensor | None, metrics: Sequence[str]) -> Row:
        """Metric → value of an image [C, H, W]; None without a clean image, for nothing is invented."""
        if clean is None:
            return dict.fromkeys(metrics)
        functions = {"psnr": self.score.psnr, "ssim": self.score.ssim, "lpips": self.perceptual}
        values = {metric: functions[metric](estimate[None], clean[None]) for metric in metrics}
        return {m: v if isinstance(v, str) else round(v.item(), DIGITS) for m, v in values.items()}

    def perceptual(self, estimate: Tensor, clean: Tensor) -> Tensor | str:
        """LPIPS of what a file would hold, [B]."""
        if self.lpips is None:
            return UNAVAILABLE
        return self.lpips(saved(estimate, self.score.quantize).to(self.device), clean.to(self.device))


_scoring: Scoring  # of a process that shares the work


def _begin(scoring: Scoring, numbers: Any, threads: int) -> None:
    global _scoring
    leave_signals_to_parent(0)
    torch.set_num_threads(threads)
    with numbers.get_lock():
        numbers.value += 1
        number = numbers.value - 1
    _scoring = scoring
    _scoring.prepare(device_of(number))


def _score(items: Sequence[Item], draw: int) -> list[Row]:
    found = _scoring(items, draw)
    _scoring.draw(found)
    return [row for row, _ in found]


def device_of(number: int) -> torch.device:
    """The device of a process: the GPUs in turn, or the CPU."""
    gpus = torch.cuda.device_count()
    return torch.device("cuda", number % gpus) if gpus else torch.device("cpu")


def rows(scoring: Scoring, items: Sequence[Item], processes: int) -> Generator[Row, None, None]:
    """The rows of the items, in their order, each realisation after the other, as they are done; a video whole.

    Raises:
        UserError: a process has died.
    """
    whole = [[items[number] for number in numbers] for numbers in together(items)]
    tasks = [(group, draw) for group in whole for draw in range(scoring.realisation.draws if group[0].clean else 1)]
    if processes == 1:
        scoring.prepare(device_of(0))
        with ThreadPoolExecutor(1) as painter:  # mostly waits for the disk
            painted = painter.submit(lambda: None)
            for task in tasks:
                found = scoring(*task)
                painted.result()
                painted = painter.submit(scoring.draw, found)
                yield from (row for row, _ in found)
            painted.result()
        return
    threads = max(1, torch.get_num_threads() // processes)
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)  # what the processes' libraries look at when they start
    context = get_context("spawn")
    try:
        with ProcessPoolExecutor(processes, context, _begin, (scoring, context.Value("i", 0), threads)) as pool:
            try:
                estimates = pool.map(_score, *zip(*tasks, strict=True))  # starts the processes
                os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(OMP_NUM_THREADS=before)
                for of_task in estimates:
                    yield from of_task
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in active_children():
                    process.kill()
                raise
    except BrokenProcessPool as error:
        raise UserError(
            f"one of {processes} processes has died, perhaps for want of memory: try fewer, processes=1"
        ) from error
