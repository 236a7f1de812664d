"""``find=lr`` and ``find=batch_size``: suggestions from this run's network, data and machine, before it is begun."""

import logging
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.utils import instantiate
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from denoisers.module import NonFinite
from experiments.cli import UserError, near
from experiments.pace import SILENT, UNENDING, pace

log = logging.getLogger(__name__)
WHAT = ("lr", "batch_size")
LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 100  # of the learning rates that are tried, and how many
BEGINNING = 10  # of them, which Lightning's average has not caught up with
SECONDS, WARM_UP = 1.0, 2  # that each batch size is measured for, and steps before them
ENOUGH = 0.95  # of the best throughput
IN_VAIN = 2  # batch sizes that are not faster by more than that, after which larger ones are not tried


class Trial(NamedTuple):
    """A batch size, the seconds of an optimiser step with it, and the pixels that it learns from in a second."""

    batch_size: int
    step: float
    pixels: float


def refuse(cfg: DictConfig, folder: Path) -> None:
    """Raises UserError where nothing can be found, or the folder holds a run, whose it stays."""
    if cfg.find not in WHAT:
        raise UserError(f"find={cfg.find}: must be {' or '.join(WHAT)}, or null for a run")
    if cfg.resume:
        raise UserError(f"find={cfg.find}: a run that goes on has its values; leave out resume")
    if cfg.budget is not None:
        raise UserError(f"find={cfg.find} and budget={cfg.budget}: find first, then give a budget")
    if (folder / "config.yaml").exists():
        raise UserError(f"find={cfg.find}: run_dir={folder} already holds a run: choose another run_dir")
    if cfg.trainer.strategy != "auto" or cfg.trainer.devices not in (1, "1"):
        raise UserError(f"find={cfg.find} tries one process: leave out trainer=ddp and trainer.devices")
    if cfg.find == "batch_size" and cfg.data.progressive is not None:
        raise UserError(
            "find=batch_size takes one patch size: give data.progressive=null and data.patch_size=… of a stage"
        )


def find(cfg: DictConfig, module: Any, datamodule: Any, folder: Path) -> None:
    """Prints a table and a suggestion; a learning rate's curve becomes a picture in the folder.

    Args:
        cfg: of the run; ``find`` says what.
        module, datamodule: of the run; they are of no use afterwards.
        folder: of the run.

    Raises:
        UserError: see :func:`refuse` and :func:`learning_rates`.
    """
    if not module.trainable:
        raise UserError(f"find={cfg.find}: model={cfg.axes.model} has nothing to train")
    if cfg.find == "lr":
        show_rates(learning_rates(cfg, module, datamodule), folder / "find_lr.png")
    else:
        show_sizes(batch_sizes(cfg, module, datamodule))


# --- learning rate ----------------------------------------------------------------------------------------------------


def learning_rates(cfg: DictConfig, module: Any, datamodule: Any) -> Any:
    """Lightning's finder after its steps (Smith, "Cyclical learning rates", WACV 2017, section 3.3).

    Where a number is no longer finite, it is tried again up to a tenth of the highest learning rate.

    Raises:
        UserError: the optimiser has several learning rates.
    """
    groups = module.build_optimizer([p for p in module.parameters() if p.requires_grad]).param_groups
    if len({group["lr"] for group in groups}) > 1:
        raise UserError(
            f"find=lr moves one learning rate, and optimizer={cfg.axes.optimizer} has several: give optimizer=adamw"
        )
    datamodule.stages = datamodule.stages[:1]
    highest = HIGHEST
    while True:
        with tempfile.TemporaryDirectory() as scratch:
            options = {**SILENT, **UNENDING, "limit_val_batches": 0, "default_root_dir": scratch}
            tuner = Tuner(instantiate(cfg.trainer, **options))
            try:
                return tuner.lr_find(
                    module,
                    datamodule=datamodule,
                    min_lr=LOWEST,
                    max_lr=highest,
                    num_training=STEPS,
                    update_attr=False,
                )
            except NonFinite as error:
                highest /= 10
                if highest <= LOWEST:
                    raise
                log.info(f"{error}; trying up to {highest:g}")


def show_rates(finder: Any, picture: Path) -> None:
    """Prints the smoothed loss at some learning rates and two suggestions, and draws all of them."""
    rates, losses = finder.results["lr"], finder.results["loss"]
    seen = [n for n in range(BEGINNING, len(losses)) if math.isfinite(losses[n])]
    steepest, lowest = finder.suggestion(skip_begin=BEGINNING), rates[min(seen, key=losses.__getitem__)]
    table = Table(title="smoothed training loss", title_justify="left")
    for name in ("optimizer.lr", "loss"):
        table.add_column(name, justify="right")
    for number in seen[::10]:
        table.add_row(f"{rates[number]:.1e}", f"{losses[number]:.5f}")
    Console().print(table)
    figure = finder.plot(suggest=True)
    figure.savefig(picture)
    log.info(
        f"picture     {near(picture)}\n"
        f"lowest      at {lowest:.1e}; a tenth of it is a usual start: optimizer.lr={lowest / 10:.1e}\n"
        f"steepest    at {steepest:.1e}, which Lightning suggests, the careful end: optimizer.lr={steepest:.1e}"
    )


# --- batch size -------------------------------------------------------------------------------------------------------


def batch_sizes(
    cfg: DictConfig, module: Any, datamodule: Any, seconds: float = SECONDS, at_most: float = math.inf
) -> list[Trial]:
    """Batch sizes 1, 2, 4, …: until they are hardly faster, do not fit into memory, or hold an epoch's crops.

    Args:
        cfg: of the run.
        module, datamodule: of the run; the module learns from being measured.
        seconds: that each is measured for, at least.
        at_most: seconds for all of them.

    Returns:
        the trials; none where that time does not suffice to see the throughput level off.

    Raises:
        UserError: memory does not take a batch of one.
    """
    trials: list[Trial] = []
    size, started = 1, time.monotonic()
    while size <= datamodule.crops:
        try:
            step, trainer = pace(cfg, module, datamodule, seconds=seconds, warm_up=WARM_UP, batch_size=size)
        except RuntimeError as error:
            if not is_oom_error(error):
                raise
            log.info(f"a batch of {size} does not fit into memory")
            break
        finally:
            garbage_collection_cuda()
        pixels = size * (datamodule.frames or 1) * datamodule.patch_size**2 * trainer.accumulate_grad_batches
        trials.append(Trial(size, step, pixels / step))
        before = max((trial.pixels for trial in trials[:-IN_VAIN]), default=0.0)
        next_one = max(seconds, 2 * step) + 2 * step * WARM_UP  # where a step takes twice as long
        if ENOUGH * max(trial.pixels for trial in trials) <= before:
            break
        if time.monotonic() - started + next_one > at_most:
            return []
        size *= 2
    if not trials:
        raise UserError("a batch of one crop does not fit into memory: lower data.patch_size or the network's size")
    return trials


def fastest(trials: Sequence[Trial]) -> Trial:
    """The smallest batch whose throughput is within a few percent of the best."""
    best = max(trial.pixels for trial in trials)
    return next(trial for trial in trials if trial.pixels >= ENOUGH * best)


def show_sizes(trials: Sequence[Trial]) -> None:
    """Prints the throughput of each batch size and a suggestion."""
    table = Table(title="throughput of training", title_justify="left")
    for name in ("data.batch_size", "ms per step", "kpx/s"):
        table.add_column(name, justify="right")
    for trial in trials:
        table.add_row(f"{trial.batch_size}", f"{trial.step * 1e3:.4g}", f"{trial.pixels / 1e3:.4g}")
    Console().print(table)
    found = fastest(trials).batch_size
    log.info(f"the smallest batch within {1 - ENOUGH:.0%} of the best throughput: data.batch_size={found}")
