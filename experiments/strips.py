"""Pictures of a result: clean | noisy | estimate | error ×5 side by side with a detail, and each by itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import avg_pool2d

from datamodules.files import replacing
from denoisers.clips import frames
from denoisers.metrics import Score, saved

ERROR_GAIN = 5
ZOOM = 4  # of the detail, which is as many times smaller than the picture
GAP, LABEL = 4, 20  # pixels
RUNS = 3  # zlib's way that looks for runs alone: for noise as small as any, and fastest
BAND = 256  # rows that are painted at a time

Views = Mapping[str, Tensor]  # noisy, estimate and, where there is one, clean; each [C, H, W] in [0, 1]


def strip(views: Views) -> Image.Image:
    """One picture of an image: its views and five times the absolute error, above the same detail of each.

    Without a clean image the last one shows what was removed from the noisy one.
    """
    if "clean" in views:
        psnr = {view: Score().psnr(views[view][None], views["clean"][None]).item() for view in ("noisy", "estimate")}
        labels = {"clean": "clean"} | {view: f"{view} {value:.2f} dB" for view, value in psnr.items()}
        reference, last = "clean", f"error x{ERROR_GAIN}"
    else:
        labels = {view: view for view in ("noisy", "estimate")}
        reference, last = "noisy", f"removed x{ERROR_GAIN}"
    _, height, width = views["noisy"].shape
    panels = [*labels.values(), last]
    size = (len(panels) * (width + GAP) - GAP, LABEL + 2 * height + GAP)
    canvas = Image.new("L" if len(views["noisy"]) == 1 else "RGB", size, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)
    for index, label in enumerate(panels):
        draw.text((index * (width + GAP) + 3, 2), label, fill="black", font=font)
    for top in range(0, height, BAND):
        band = {view: saved(views[view][:, top : top + BAND]) for view in labels}
        band[last] = ((band["estimate"] - views[reference][:, top : top + BAND]).abs() * ERROR_GAIN).clamp(max=1)
        for index, panel in enumerate(band.values()):
            canvas.paste(picture(panel), (index * (width + GAP), LABEL + top))
    left, top = detail(views[reference])
    for index in range(len(panels)):
        x = index * (width + GAP)
        box = (x + left, LABEL + top, x + left + -(-width // ZOOM), LABEL + top + -(-height // ZOOM))
        canvas.paste(canvas.crop(box).resize((width, height), Image.Resampling.NEAREST), (x, LABEL + height + GAP))
    draw.rectangle((left, LABEL + top, left + width // ZOOM, LABEL + top + height // ZOOM), outline="white", width=2)
    return canvas


def detail(image: Tensor) -> tuple[int, int]:
    """Left and top of the part, a quarter as high and wide as the image, in which neighbouring pixels differ most."""
    grey = image.mean(dim=0)
    change = (grey[1:, 1:] - grey[:-1, 1:]).abs() + (grey[1:, 1:] - grey[1:, :-1]).abs()
    window = tuple(max(1, side // ZOOM - 1) for side in grey.shape)
    if min(change.shape) < 1:
        return 0, 0
    stride = tuple(max(1, side // 4) for side in window)
    means = avg_pool2d(change[None, None], window, stride)[0, 0]
    row, column = divmod(int(means.argmax()), means.shape[1])
    return column * stride[1], row * stride[0]


def picture(image: Tensor) -> Image.Image:
    """[C, H, W] in [0, 1] → an 8-bit picture, grey or RGB."""
    pixels = (image * 255).round().byte().permute(1, 2, 0).cpu().numpy()  # [H, W, C]
    return Image.fromarray(np.ascontiguousarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels))


def save(picture: Image.Image, path: Path) -> None:
    """Writes a picture, whole or not at all, in the format of its suffix."""
    with replacing(path) as temporary:
        picture.save(temporary, compress_level=1, compress_type=RUNS)


def write(views: Views, folder: Path) -> Image.Image:
    """Writes ``strip.png`` and each view as 8-bit PNG into a folder; returns the strip."""
    together = strip(views)
    save(together, folder / "strip.png")
    for view, image in views.items():
        save(picture(saved(image)), folder / f"{view}.png")
    return together


def file_name(name: str) -> str:
    """An image's name as that of one file or folder."""
    return name.replace("/", "__")


def show(logger: Logger, key: str, picture: Image.Image, step: int) -> None:
    """Sends a picture to a logger that takes pictures."""
    if isinstance(logger, WandbLogger):
        logger.log_image(key, [picture], step=step)
    elif isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(key, np.asarray(picture.convert("RGB")), step, dataformats="HWC")


class Strips(L.Callback):
    """Writes strips of the first validation images at each validation, and pictures of every test image.

    Args:
        directory: where to: ``val/step_000123/NAME.png`` and ``test/SET/NAME/`` in it.
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
            name = file_name(batch["name"][0])
            together = strip(views_of(batch, outputs))
            save(together, self.directory / "val" / f"step_{trainer.global_step:06d}" / f"{name}.png")
            for logger in trainer.loggers:
                show(logger, f"val/{name}", together, trainer.global_step)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch["realisation"][0] > 0:
            return
        name = file_name(batch["name"][0])
        together = write(views_of(batch, outputs["estimate"]), self.directory / "test" / batch["set"][0] / name)
        for logger in trainer.loggers:
            show(logger, f"test/{name}", together, trainer.global_step)


def views_of(batch: Mapping[str, Any], estimate: Tensor) -> Views:
    """The first image of a batch, or the first frame of its clip, and the estimate."""
    views = {view: batch[view] for view in ("clean", "noisy") if view in batch} | {"estimate": estimate}
    return {view: frames(images)[0] for view, images in views.items()}
