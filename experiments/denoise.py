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

    source, target = Path(cfg.input), Path(cfg.output)
    require_places(source, target, cfg.overwrite)
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

    clean = Image.fromarray(denoiser(pixels).squeeze(axis=2) if header.channels == 1 else denoiser(pixels))
    try:
        with replacing(target) as temporary:
            clean.save(temporary, quality=95)  # of JPEG and WebP; other formats do not look at it
    except OSError as error:
        raise UserError(f"output={target} cannot be written: {error}") from error
    log.info(f"{target}")


if __name__ == "__main__":
    main()
