"""Cleans one picture: ``python -m experiments.denoise checkpoint=RUN_OR_FILE input=photo.png output=clean.png``."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from experiments.cli import UserError, command

log = logging.getLogger(__name__)


def require_places(source: Path, target: Path, overwrite: bool) -> None:
    """Raises UserError where the input is missing, or writing the output would lose something."""
    from PIL import Image

    if not source.is_file():
        raise UserError(f"input={source}: there is no such file")
    if target.suffix.lower() not in Image.registered_extensions():
        raise UserError(
            f"output={target}: {target.suffix or 'no suffix'} is not a picture format; use .png, .jpg, .tif, …"
        )
    if target.exists() and target.samefile(source):
        raise UserError(f"output={target} is the input, which is never overwritten: name another file")
    if target.exists() and not overwrite:
        raise UserError(f"output={target} exists: name another file, or add overwrite=true")


@command("denoise")
def main(cfg: DictConfig) -> None:
    import numpy as np
    import torch
    from PIL import Image

    import denoisers
    from datamodules.files import replacing
    from datamodules.images import decode, read_header
    from denoisers.layers import LevelError

    source, target = Path(cfg.input), Path(cfg.output)
    require_places(source, target, cfg.overwrite)
    if cfg.sigma is not None and (not isinstance(cfg.sigma, int | float) or cfg.sigma < 0):
        raise UserError(f"sigma={cfg.sigma}: must be a number from 0, on the 0–255 scale")
    header = read_header(source)
    pixels = decode(source)  # [H, W, C]
    if pixels.dtype != np.uint8:
        raise UserError(f"input={source} has 16 bits a channel: only 8-bit pictures can be cleaned so far")
    if header.alpha:
        log.info(f"{source} has an alpha channel, which is left out of {target}")
    denoiser = denoisers.load(cfg.checkpoint).to("cuda" if torch.cuda.is_available() else "cpu")
    if header.channels != denoiser.channels:
        how = "channel by channel" if denoiser.channels == 1 else "as three equal channels, of which the mean is kept"
        log.info(f"the network was trained on {denoiser.channels} channel(s), the picture has {header.channels}: {how}")

    try:
        estimate = denoiser(pixels, None if cfg.sigma is None else cfg.sigma / 255)
    except LevelError as error:
        network = type(denoiser.network).__name__
        raise UserError(
            f"{network} has to be told how strong the noise is: add sigma=25, say, its standard deviation on the 0–255 "
            "scale"
        ) from error
    clean = Image.fromarray(estimate.squeeze(axis=2) if header.channels == 1 else estimate)
    try:
        with replacing(target) as temporary:
            clean.save(temporary, quality=95)  # of JPEG and WebP; other formats do not look at it
    except OSError as error:
        raise UserError(f"output={target} cannot be written: {error}") from error
    log.info(f"{target}")


if __name__ == "__main__":
    main()
