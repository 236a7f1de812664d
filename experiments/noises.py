"""Every noise on the same pictures: ``python -m experiments.noises``, which writes ``noises.png`` to look at.

A row for each choice of the noise axis: the noisy pictures, the histogram of what was added to them, and its variance
at each intensity of the clean ones.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.cli import CONF, UserError, command, near, require_known

log = logging.getLogger(__name__)
SHIPPED = ("astronaut.png", "coffee.png")  # CC0, in scikit-image


def middle(path: Path, size: int) -> Any:
    """The middle of a picture, [3, size, size] in [0, 1]."""
    from datamodules.images import decode, to_tensor

    image = to_tensor(decode(path))
    if min(image.shape[-2:]) < size:
        raise UserError(f"{path} is smaller than size={size}: lower size, or name another picture")
    top, left = ((side - size) // 2 for side in image.shape[-2:])
    return image[:, top : top + size, left : left + size].expand(3, -1, -1)


def page(noises: dict[str, Any], clean: Any, seed: int) -> Any:
    """The figure: a row for each noise.

    Args:
        noises: name → noise.
        clean: pictures [N, 3, H, W].
        seed: each noise starts from it.
    """
    import matplotlib
    from matplotlib.figure import Figure

    from datamodules import seeds
    from datamodules.noise.moments import Moments
    from experiments.plots import STYLE

    with matplotlib.rc_context(STYLE | {"font.size": 8, "savefig.dpi": 110}):
        figure = Figure(figsize=(2.2 * len(clean) + 5.6, 2.3 * len(noises)))
        grid = figure.subplots(len(noises), len(clean) + 2, squeeze=False, width_ratios=[*[1] * len(clean), 1.2, 1.2])
        for row, (name, noise) in zip(grid, noises.items(), strict=True):
            with seeds.seeded(seed, clean.device):
                noisy, level = noise.corrupt(clean)
            residual = noisy - clean
            for panel, picture, strength in zip(row, noisy.clamp(0, 1), level, strict=False):
                panel.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
                panel.set_title(f"{name}, level {strength.square().mean().sqrt() * 255:.1f}")
                panel.axis("off")
            histogram, line = row[-2:]
            reach = max(residual.flatten().abs().quantile(0.999).item() if residual.numel() < 2**24 else 1.0, 1 / 255)
            histogram.hist((residual.flatten() * 255).numpy(), bins=101, range=(-255 * reach, 255 * reach), log=True)
            histogram.set_title("noisy − clean, 0–255 scale")
            for pair in zip(noisy, clean, strict=True):
                moments = Moments(len(clean[0]))
                moments.add(*pair)
                line.plot(*moments.pooled(), marker="o", markersize=3)
            line.set(xlim=(0, 1), ylim=(0, None), title="variance at each intensity")
    return figure


def choices(asked: Sequence[str] | None) -> dict[str, Any]:
    """Choice of the noise axis → the noise, of the named ones, or of all that change anything and need no file.

    Raises:
        UserError: there is no noise of that name.
    """
    from hydra.utils import instantiate

    known = sorted(path.stem for path in (CONF / "noise").glob("*.yaml"))
    require_known(asked or [], known, "noises")
    composed = {name: hydra.compose("train", [f"noise={name}"]).noise for name in asked or known}
    if not asked:
        composed = {
            name: noise for name, noise in composed.items() if name != "none" and noise.get("file", ...) is not None
        }
    return {name: instantiate(noise) for name, noise in composed.items()}


@command("noises")
def main(cfg: DictConfig) -> None:
    from importlib.resources import files

    import torch

    from experiments import plots

    if not isinstance(cfg.size, int) or cfg.size < 1:
        raise UserError(f"size={cfg.size}: must be a number of pixels, at least 1")
    shipped = Path(str(files("skimage") / "data"))
    paths = [Path(path) for path in cfg.images] if cfg.images else [shipped / name for name in SHIPPED]
    clean = torch.stack([middle(path, cfg.size) for path in paths])
    run_dir = near(HydraConfig.get().runtime.output_dir)
    plots.save(page(choices(cfg.noises), clean, cfg.seed), run_dir / "noises.png")
    log.info(f"page        {run_dir / 'noises.png'}")


if __name__ == "__main__":
    main()
