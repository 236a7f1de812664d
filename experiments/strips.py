"""Picture strips: clean | noisy | estimate | error ×5, side by side with their labels."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from datamodules.files import replacing
from denoisers.metrics import Score, saved

ERROR_GAIN = 5
GAP, LABEL = 4, 20  # pixels
BAND = 256  # rows that are painted at a time


def strip(clean: Tensor, noisy: Tensor, estimate: Tensor) -> Image.Image:
    """One picture of an image [C, H, W] in [0, 1]: clean, noisy, estimate and five times their absolute difference."""
    noisy_psnr, psnr = (Score().psnr(image[None], clean[None]).item() for image in (noisy, estimate))
    labels = ["clean", f"noisy {noisy_psnr:.2f} dB", f"estimate {psnr:.2f} dB", f"error x{ERROR_GAIN}"]
    _, height, width = clean.shape
    canvas = Image.new("RGB", (len(labels) * (width + GAP) - GAP, height + LABEL), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)
    for index, label in enumerate(labels):
        draw.text((index * (width + GAP) + 3, 2), label, fill="black", font=font)
    for top in range(0, height, BAND):
        band = [image[:, top : top + BAND] for image in (clean, noisy, estimate)]
        band.append((saved(band[2]) - band[0]).abs() * ERROR_GAIN)
        for index, panel in enumerate(band):
            pixels = (saved(panel) * 255).round().byte().permute(1, 2, 0).cpu().numpy()  # [H, W, C]
            picture = Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy())
            canvas.paste(picture, (index * (width + GAP), LABEL + top))
    return canvas


def save(picture: Image.Image, path: Path) -> None:
    """Writes a picture, whole or not at all, in the format of its suffix."""
    with replacing(path) as temporary:
        picture.save(temporary)


def show(logger: Logger, key: str, picture: Image.Image, step: int) -> None:
    """Sends a picture to a logger that takes pictures."""
    if isinstance(logger, WandbLogger):
        logger.log_image(key, [picture], step=step)
    elif isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(key, np.asarray(picture), step, dataformats="HWC")


class Strips(L.Callback):
    """Writes strips of the first validation images at each validation, and of every test image.

    Args:
        directory: where to: ``val/step_000123/NAME.png`` and ``test/SET/NAME.png`` in it.
        validation_images: how many of them.
    """

    def __init__(self, directory: str, validation_images: int = 4) -> None:
        self.directory = Path(directory)
        self.validation_images = validation_images

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking and batch_idx < self.validation_images:
            folder = Path("val") / f"step_{trainer.global_step:06d}"
            self._write(trainer, batch, outputs, folder)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._write(trainer, batch, outputs["estimate"], Path("test") / batch["set"][0])

    def _write(self, trainer: L.Trainer, batch: dict[str, Any], estimate: Tensor, folder: Path) -> None:
        picture = strip(batch["clean"][0], batch["noisy"][0], estimate[0])
        name = batch["name"][0].replace("/", "__")
        save(picture, self.directory / folder / f"{name}.png")
        for logger in trainer.loggers:
            show(logger, f"{folder.parts[0]}/{name}", picture, trainer.global_step)
