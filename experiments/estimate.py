"""Gain, black level and read noise of noisy pictures, drawn: ``python -m experiments.estimate image=noisy.png``."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.cli import UserError, command, near

if TYPE_CHECKING:
    from torch import Tensor

    from datamodules.noise.line import Line

log = logging.getLogger(__name__)
DRAWN = 12  # pictures at most


def files(path: Path, name: str) -> list[Path]:
    """The file, or the pictures of the directory.

    Raises:
        UserError: there is neither.
    """
    from datamodules.images import image_files

    if not path.exists():
        raise UserError(f"{name}={path}: no such file or directory")
    return image_files(path) if path.is_dir() else [path]


def against(noisy: "Tensor", clean: "Tensor") -> Any:
    """Brightness, variance and number of values at each intensity of the clean picture, and the line through them."""
    from datamodules.noise import line
    from datamodules.noise.moments import Moments

    moments = Moments(len(clean))
    moments.add(noisy, clean)
    return line.fit(*moments.pooled())


def figure(lines: "dict[str, tuple[Line, Line | None]]") -> Any:
    """A panel for each picture: the bins and their line; where there is a clean picture, those found against it."""
    import matplotlib
    import numpy as np
    from matplotlib.figure import Figure

    from experiments.plots import COLOURS, STYLE

    columns = min(4, len(lines))
    rows = -(-len(lines) // columns)
    with matplotlib.rc_context(STYLE | {"font.size": 8}):
        drawn = Figure(figsize=(4.2 * columns, 3.4 * rows))
        panels = drawn.subplots(rows, columns, squeeze=False).flatten()
        for panel, (name, pair) in zip(panels, lines.items(), strict=False):
            labels = ("from the noisy picture", "against the clean one")
            for line, label, colour in zip(pair, labels, COLOURS, strict=False):
                if line is None:
                    continue
                x = np.array([line.black, line.brightness.max()])
                panel.plot(line.brightness, line.variance, "o", markersize=3, color=colour)
                what = f"{label}: gain {line.gain:.4f}, black {line.black:.3f}, read {line.read:.1f}"
                panel.plot(x, line.gain * x + line.floor, color=colour, label=what)
            panel.set(title=name, xlabel="brightness", ylabel="variance of the noise", xlim=(0, None), ylim=(0, None))
            panel.legend()
        for panel in panels[len(lines) :]:
            panel.axis("off")
    return drawn


@command("estimate")
def main(cfg: DictConfig) -> None:
    from datamodules.images import read
    from datamodules.noise.line import estimate
    from experiments import plots, provenance
    from experiments.tables import Table

    noisy = files(Path(cfg.image), "image")
    clean = files(Path(cfg.clean), "clean") if cfg.clean else []
    if clean and [path.stem for path in clean] != [path.stem for path in noisy] and len(noisy) + len(clean) > 2:
        raise UserError(f"image={cfg.image} and clean={cfg.clean}: their pictures do not have the same names")
    lines: dict[str, tuple[Line, Line | None]] = {}
    for index, path in enumerate(noisy):
        picture = read(path, cfg.channels)
        found = against(picture, read(clean[index], cfg.channels)) if clean else None
        lines[path.stem] = estimate(picture), found
    run_dir = near(HydraConfig.get().runtime.output_dir)
    plots.save(figure(dict(list(lines.items())[:DRAWN])), run_dir / "estimate.png")
    columns = ["picture", "gain", "black", "read"]
    columns += [f"{column} against clean" for column in columns[1:]] if clean else []
    body = [
        [
            name,
            *(text for line in pair if line for text in (f"{line.gain:.5f}", f"{line.black:.4f}", f"{line.read:.2f}")),
        ]
        for name, pair in lines.items()
    ]
    note = f"variance = gain · (brightness − black) + (read / 255)². Commit {provenance.commit()}."
    Table("Gain and read noise", columns, body, note).show()
    log.info(f"figure      {run_dir / 'estimate.png'}")


if __name__ == "__main__":
    main()
