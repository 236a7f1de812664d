"""Cleans pictures and videos: ``python -m experiments.denoise checkpoint=RUN_OR_FILE input=PATH output=PATH``.

Exit code 3: some files could not be cleaned; they are named, and the others are there.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from experiments.cli import UserError, command
from experiments.resume import quoting

if TYPE_CHECKING:
    from denoisers.inference import Denoiser
    from experiments.cleaning.places import Item
    from experiments.cleaning.run import Cleaning

log = logging.getLogger(__name__)
DECIDING = ("sigma", "ensemble", "strength", "colour", "tile", "crf", "window")  # what is done to a file


def require_options(cfg: DictConfig) -> None:
    """Raises UserError for values that cannot be meant."""
    number = isinstance(cfg.sigma, int | float) and not isinstance(cfg.sigma, bool)
    if cfg.sigma not in (None, "auto") and not (number and cfg.sigma >= 0):
        raise UserError(f"sigma={cfg.sigma}: must be a number from 0, on the 0–255 scale, or auto")
    if not 0 <= cfg.strength <= 1:
        raise UserError(f"strength={cfg.strength}: must lie between 0, the noisy picture, and 1, the clean estimate")
    if cfg.colour not in ("channels", "luminance"):
        raise UserError(f"colour={cfg.colour}: must be channels or luminance")
    if cfg.tile is not None and not (isinstance(cfg.tile, int) and cfg.tile >= 64):
        raise UserError(f"tile={cfg.tile}: must be a whole number of pixels from 64, or null")
    if cfg.window < 1:
        raise UserError(f"window={cfg.window}: must be a whole number of frames from 1")


def network(cfg: DictConfig) -> "Denoiser":
    """The denoiser that is asked for, on a GPU if there is one.

    Raises:
        UserError: it has to be told how strong the noise is, and is not.
        CheckpointError: see :func:`denoisers.load`.
    """
    import torch

    import denoisers

    options: dict[str, Any] = {key: cfg[key] for key in ("ensemble", "strength", "colour", "tile")}
    denoiser = denoisers.load(cfg.checkpoint, **options).to("cuda" if torch.cuda.is_available() else "cpu")
    name = type(denoiser.network).__name__
    if denoiser.told and cfg.sigma is None:
        raise UserError(
            f"{name} has to be told how strong the noise is: add sigma=25, say, its standard deviation on the 0–255 "
            "scale, or sigma=auto to have it estimated from each picture"
        )
    if not denoiser.told and cfg.sigma is not None:
        log.info(f"{name} is blind: sigma={cfg.sigma} changes nothing")
    return denoiser


def finish(cleaning: "Cleaning", started: float) -> None:
    """Says what became of the files.

    Raises:
        SystemExit: with 3, if some failed.
    """
    seconds = time.monotonic() - started
    log.info(
        f"{cleaning.done} cleaned, {cleaning.skipped} already clean, {len(cleaning.failures)} failed: "
        f"{cleaning.megapixels:.1f} MP in {seconds:.1f} s, {cleaning.megapixels / max(seconds, 1e-9):.2f} MP/s"
    )
    for name, reason in cleaning.failures.items():
        log.error(f"  {name}: {reason}")
    if cleaning.failures:
        raise SystemExit(3)


def folder(cfg: DictConfig, items: Sequence["Item"]) -> None:
    """Cleans the files into a folder, with a report."""
    from datamodules.files import digest
    from denoisers import checkpoint
    from experiments.cleaning import journal
    from experiments.cleaning.run import Cleaning

    output, denoiser = Path(cfg.output), network(cfg)
    weights = checkpoint.find(cfg.checkpoint)
    files = [weights, weights.with_suffix(".bin")] if weights.suffix == ".xml" else [weights]  # of OpenVINO
    facts = {"checkpoint": " ".join(map(digest, files)), **{key: cfg[key] for key in DECIDING}}
    started = time.monotonic()
    with journal.opened(output, facts, cfg.overwrite) as opened:
        opened.about = {"network": type(denoiser.network).__name__, "weights": str(cfg.checkpoint)}
        cleaning = Cleaning(denoiser, opened, cfg)
        cleaning.all(items)
    log.info(f"report      {output / journal.REPORT}")
    finish(cleaning, started)


def one(cfg: DictConfig) -> None:
    """Cleans a file into another."""
    from datamodules.pictures import open_picture
    from experiments.cleaning import pictures, places, video

    item = places.single(cfg.input, cfg.output, cfg.overwrite)
    if item.is_video:
        video.clean(item, network(cfg), cfg)
    else:
        picture = open_picture(item.source)
        pictures.one(item, picture, network(cfg), cfg.sigma, cfg.overwrite)
    log.info(f"{item.target}")


@command("denoise", quoting("checkpoint", "input", "output"))
def main(cfg: DictConfig) -> None:
    from experiments.cleaning import places

    require_options(cfg)
    if places.is_single(str(cfg.input), str(cfg.output)):
        one(cfg)
    else:
        folder(cfg, places.items(str(cfg.input), str(cfg.output)))


if __name__ == "__main__":
    main()
