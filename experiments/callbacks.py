"""What the terminal shows while a network trains, and when training ends."""

import copy
import logging
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import CustomBarColumn, ProcessingSpeedColumn
from rich.console import Console
from rich.panel import Panel

from datamodules.progressive import Stage, steps_of
from denoisers.clips import estimated

log = logging.getLogger(__name__)


def duration(seconds: float) -> str:
    """Seconds as people say them: ``48 s``, ``3 min 20 s``, ``2 h 05 min``."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes} min {seconds:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class EndWithValidation(L.Callback):
    """Validates the last step of a run that ends by ``max_steps`` in the middle of an epoch; Lightning would not."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if 0 < trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True


class Speed(L.Callback):
    """Measures training pixels per second, and puts a line into the log at each validation."""

    def __init__(self) -> None:
        self.pixels_per_second = math.nan

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        shape = batch["noisy"].shape
        now = shape.numel() / shape[-3] * trainer.world_size / (time.perf_counter() - self._started)
        # a running mean: single steps are noisy
        self.pixels_per_second = now if math.isnan(self.pixels_per_second) else 0.9 * self.pixels_per_second + 0.1 * now
        pl_module.log("train/pixels_per_second", self.pixels_per_second)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        metrics = trainer.callback_metrics
        shown = "  ".join(
            f"{name} {metrics[name].item():.4g}"
            for name in ("train/loss", "train/psnr", "val/loss", "val/psnr", "val/ssim")
            if name in metrics
        )
        log.info(f"step {trainer.global_step}  {shown}  {self.pixels_per_second / 1e3:.0f} kpx/s")


class Progress(RichProgressBar):
    """Rich's progress bar with live loss, PSNR and thousand pixels per second."""

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        logged = trainer.callback_metrics | trainer.progress_bar_metrics
        shown = {
            "loss": ("train/loss", 1.0, ".4f"),
            "psnr": ("train/psnr", 1.0, ".2f"),
            "val": ("val/psnr", 1.0, ".2f"),
            "kpx/s": ("train/pixels_per_second", 1e-3, ".0f"),
        }
        return {
            label: format(float(logged[name]) * scale, form)
            for label, (name, scale, form) in shown.items()
            if name in logged
        }

    def configure_columns(self, trainer: L.Trainer) -> list[Any]:
        """Lightning's columns, without iterations per second and with a short bar, so that the metrics have room."""
        columns = [c for c in super().configure_columns(trainer) if not isinstance(c, ProcessingSpeedColumn)]
        for column in columns:
            if isinstance(column, CustomBarColumn):
                column.bar_width = 8
        return columns

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1}"


class RunCard(L.Callback):
    """Before the first step: device, precision, network, data, steps and the expected time, from a few measured steps.

    Args:
        title: the run's name.
    """

    def __init__(self, title: str) -> None:
        self.title = title

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        network: Any = pl_module.network
        parameters = sum(p.numel() for p in network.parameters())
        frozen = sum(p.numel() for p in network.parameters() if not p.requires_grad)
        steps = int(trainer.estimated_stepping_batches) - trainer.global_step
        per_epoch = max(1, math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches))
        micro = trainer.accumulate_grad_batches
        lengths = steps_of(data.stages, steps + trainer.global_step, trainer.global_step)
        measured = [measure(trainer, pl_module, crop_batch(data, stage)) for stage in data.stages]
        training = sum(seconds * length * micro for (seconds, _), length in zip(measured, lengths, strict=True))
        step_seconds, pixel_seconds = measured[0]
        validations = math.ceil(steps / per_epoch / (trainer.check_val_every_n_epoch or 1))
        whole_pixels = sum(height * width for height, width in data.val_sizes) * validations
        expected = training + pixel_seconds * whole_pixels
        splits = data.splits
        of_stages = stage_lines(data, lengths, micro * trainer.world_size)
        lines = {
            "device": f"{pl_module.device}" + (f" × {trainer.world_size}" if trainer.world_size > 1 else ""),
            "precision": str(trainer.precision),
            "network": f"{type(network).__name__}, {parameters:,} parameters"
            + (f", {frozen:,} of them frozen" if frozen else ""),
            "data": f"{len(splits.train)} training, {len(splits.val)} validation, {len(splits.test)} test images, "
            + ("grey" if data.channels == 1 else "RGB"),
            "steps": f"{steps:,}{of_stages[0]}, {steps / per_epoch:.1f} epochs, {validations} validations",
            **{f"stage {number}": line for number, line in enumerate(of_stages) if number and line},
            "expected time": f"about {duration(expected)} of training, from {step_seconds * 1e3:.0f} ms per batch",
        }
        text = "\n".join(f"{name:<14}{value}" for name, value in lines.items())
        Console().print(Panel(text, title=self.title, title_align="left", expand=False))


def crop_batch(data: Any, stage: Stage) -> tuple[int, ...]:
    """The shape of a stage's batch."""
    clip = (data.frames,) if data.frames else ()
    return stage.batch_size, *clip, data.channels, stage.patch_size, stage.patch_size


def stage_lines(data: Any, lengths: Sequence[int], batches: int) -> list[str]:
    """What is said of a run of one stage; or nothing, and then a line for each stage, empty where it is over."""
    clip = f"{data.frames}×" if data.frames else ""
    crops = [f"{batches * s.batch_size} crops {clip}{s.patch_size}×{s.patch_size}" for s in data.stages]
    if len(crops) == 1:
        return [f" of {crops[0]}"]
    steps = zip(lengths, crops, strict=True)
    return ["", *(f"{length:,} steps of {crop}" if length else "" for length, crop in steps)]


def measure(trainer: L.Trainer, pl_module: L.LightningModule, shape: tuple[int, ...]) -> tuple[float, float]:
    """Seconds of one forward and backward pass on a batch of the given shape, and of one whole-image pixel.

    Measured on a copy of the network, whose weights, statistics and random state stay as they are.
    """
    network: Any = copy.deepcopy(pl_module.network)
    batch = torch.full(shape, 0.5, device=pl_module.device)
    level = torch.full((*shape[:-3], 1, 1, 1), 0.1, device=pl_module.device)

    def training_pass() -> None:
        with trainer.precision_plugin.forward_context():
            loss = estimated(network, batch, level).float().mean()
        loss.backward()

    def scoring_pass() -> None:
        with torch.inference_mode():
            estimated(network, batch, level)

    def seconds(work: Callable[[], None]) -> float:
        times = []
        for _ in range(5):
            started = time.perf_counter()
            work()
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
        return statistics.median(times[2:])  # the first ones warm up

    return seconds(training_pass), seconds(scoring_pass) / (batch.numel() / shape[-3])
