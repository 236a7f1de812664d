"""Tunes a classical method to noise levels: ``python -m experiments.tune model=nlm data=bsd400 'sigmas=[15,25,50]'``.

Every value of the method's grid in conf/tune.yaml is scored on the same training images with the same noise, which the
protocol draws, or which they bring as pairs. What the last line says goes into conf/model.
"""

import logging
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from experiments.cli import UserError, command

if TYPE_CHECKING:
    import torch
    from torch import Tensor

log = logging.getLogger(__name__)


def parameter(cfg: DictConfig, model: str) -> tuple[str, list[float]]:
    """The method's parameter and the values to try.

    Raises:
        UserError: there is no grid for it.
    """
    if model not in cfg.grid:
        raise UserError(f"model={model}: conf/tune.yaml has no grid for it, only for {', '.join(cfg.grid)}")
    [(name, values)] = cfg.grid[model].items()
    return name, list(values)


def noisy_pairs(cfg: DictConfig, sigma: float | None) -> "list[tuple[Tensor, Tensor, Tensor]]":
    """Noisy and clean image [1, C, H, W] and the level [1, 1, 1, 1] of the chosen training images or pairs."""
    import numpy as np
    from hydra.utils import instantiate

    from datamodules.checks import refuse_doubled_noise
    from datamodules.images import read
    from datamodules.noise.base import rms

    items = instantiate(cfg.data.splits).train
    chosen = np.random.default_rng(cfg.seed).permutation(len(items))[: cfg.images]
    noise = instantiate(cfg.noise, **({} if sigma is None else {"sigma": sigma}))
    draw, found = instantiate(cfg.protocol.realisation), []
    refuse_doubled_noise(items, noise)
    for item in (items[index] for index in sorted(chosen)):
        if item.clean is None:
            raise UserError(f"{item.noisy} has no clean image to compare with: tune on pairs, or on clean images")
        clean = read(item.clean, cfg.channels)[None]
        if item.noisy is None:
            noisy, level = (part[None] for part in draw(noise, clean[0], cfg.eval_seed))
        else:
            noisy = read(item.noisy, cfg.channels)[None]
            level = rms((noisy - clean).square())
        found.append((noisy, clean, level))
    return found


def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def score(task: "tuple[torch.nn.Module, Any, tuple[Tensor, Tensor, Tensor]]") -> float:
    """The PSNR of a method on one image."""
    method, metric, (noisy, clean, level) = task
    return metric.psnr(method(noisy, level), clean).item()


@command("tune")
def main(cfg: DictConfig) -> None:
    import numpy as np
    from hydra.core.hydra_config import HydraConfig
    from hydra.utils import instantiate
    from rich.console import Console
    from rich.table import Table

    choices: Mapping[str, str] = HydraConfig.get().runtime.choices
    name, values = parameter(cfg, choices["model"])
    metric = instantiate(cfg.protocol.score)
    methods = [instantiate(cfg.model, **{name: value}) for value in values]
    columns: dict[str, list[float]] = {}  # σ → mean PSNR of each value
    one_thread()
    with ProcessPoolExecutor(cfg.workers, mp_context=get_context("spawn"), initializer=one_thread) as pool:
        each = pool.map if cfg.workers > 1 else map
        for sigma in cfg.sigmas or [None]:
            pairs = noisy_pairs(cfg, sigma)
            level = np.mean([pair[2].mean().item() * 255 for pair in pairs])
            tasks = [(method, metric, pair) for method in methods for pair in pairs]
            found = np.array(list(each(score, tasks))).reshape(len(methods), len(pairs))
            columns[f"{level:.4g}"] = found.mean(axis=1).tolist()

    table = Table(
        title=f"mean PSNR in dB, protocol {cfg.protocol.name}: {choices['model']} on {len(pairs)} training images of "
        f"{choices['data']}, noise {choices['noise']}, by σ"
    )
    for column in (name, *columns):
        table.add_column(column, justify="right", no_wrap=True)
    for index, value in enumerate(values):
        cells = [(psnrs[index], psnrs[index] == max(psnrs)) for psnrs in columns.values()]
        table.add_row(f"{value:g}", *(f"[bold]{psnr:.3f}[/bold]" if best else f"{psnr:.3f}" for psnr, best in cells))
    Console().print(table)
    best = ", ".join(f"{sigma}: {values[int(np.argmax(psnrs))]:g}" for sigma, psnrs in columns.items())
    log.info(f"{name}: {{{best}}}")


if __name__ == "__main__":
    main()
