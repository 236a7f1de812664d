"""What an evaluation costs beside the network: ``python -m experiments.bench_evaluate data=bsd68`` (``make bench``).

Each image is evaluated as experiments.evaluate does, everything on (noise, PSNR, SSIM, LPIPS where its weights are,
pictures), and passed through the bare network, by turns, because a machine's speed drifts.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from denoisers.layers import channels_last
from experiments import provenance, scoring
from experiments.cli import command
from experiments.evaluate import task

WARM_UP = 2  # images that do not count


def setting(typed: Sequence[str]) -> list[str]:
    """The images that ship with scikit-image, unless others are typed."""
    chosen = [part.split("=")[0] for part in typed]
    return [*(part for part in ("data=sample", "model=dncnn", "run_dir=.") if part.split("=")[0] not in chosen), *typed]


@command("evaluate", setting)
def main(cfg: DictConfig) -> None:
    with tempfile.TemporaryDirectory() as pictures:
        network = channels_last(instantiate(cfg.model).eval())
        each, images = task(cfg, network, cfg.axes.noise, trained=None, pictures=Path(pictures))
        seconds = {"evaluate": 0.0, "bare": 0.0}
        items = images if len(images) > 10 else images * 8
        rows = scoring.rows(each, [*items[:WARM_UP], *items, items[0]], processes=1)
        for number, item in enumerate([*items[:WARM_UP], *items]):
            header = each.headers[item.files[0]]
            noisy = torch.rand(1, cfg.channels, header.height, header.width, device=scoring.device_of(0))
            for name in seconds:
                started = time.perf_counter()
                if name == "evaluate":
                    next(rows)
                else:
                    with torch.inference_mode():
                        network(noisy).cpu()
                seconds[name] += (time.perf_counter() - started) * (number >= WARM_UP)
        rows.close()
    ratio = seconds["evaluate"] / seconds["bare"]
    Console().print(
        f"evaluation of {len(items)} images ({cfg.axes.data}, {', '.join(cfg.metrics)}, pictures): "
        f"{seconds['evaluate']:.1f} s, {ratio:.3f} times the bare forward passes of {cfg.axes.model} "
        f"({seconds['bare']:.1f} s); {provenance.hardware()}"
    )


if __name__ == "__main__":
    main()
