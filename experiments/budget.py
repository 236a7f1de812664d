"""``budget=2h``: a run as long as this machine can make it in that time, which is measured before it begins."""

import itertools
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.panel import Panel

from experiments.callbacks import duration
from experiments.cli import UserError
from experiments.find import batch_sizes, fastest
from experiments.pace import SILENT, pace
from experiments.resume import BUDGETS

log = logging.getLogger(__name__)
WARM_UP = 5  # steps that are not measured
SHARE, AT_MOST = 0.04, 60.0  # of the budget, and seconds, that are spent on measuring
SHARE_OF_BATCHES = 0.1  # of the budget may be spent on comparing batch sizes
MARGIN = 0.96  # of what is left is planned for: a machine's speed drifts
UNITS = {"": 1, "s": 1, "min": 60, "h": 3600}
RULE = "must be a number of seconds above 0, or a time such as 90s, 10min, 2h or 1gpu_1h, or null"


@dataclass(frozen=True)
class Budget:
    """A time in seconds, and the devices that it is for; None: those of the configuration."""

    seconds: float
    devices: int | None = None
    accelerator: str = ""


@dataclass(frozen=True)
class Plan:
    """What fits into a budget.

    Attributes:
        steps: optimiser steps.
        per_step: seconds of one, for each stage of the run.
        batches: of each stage, such as ``16 crops 48×48``.
        epochs, validations: how many.
        per_validation: seconds of one.
        seconds: from the beginning of the run to its last validation, as expected.
    """

    steps: int
    per_step: list[float]
    batches: list[str]
    epochs: float
    validations: int
    per_validation: float
    seconds: float


def parse(budget: object, key: str = "budget") -> Budget:
    """``90``, ``90s``, ``10min``, ``2h`` or ``1gpu_1h`` (a GPU for an hour; ``1cpu_10min``), given for a key.

    Raises:
        UserError: it is none of these.
    """
    found = re.fullmatch(r"(?:([1-9]\d*)(gpu|cpu)_)?(\d+\.?\d*|\.\d+)(s|min|h|)", str(budget))
    if isinstance(budget, bool) or not found or not float(found[3]) > 0:
        raise UserError(f"{key}={budget}: {RULE}")
    return Budget(float(found[3]) * UNITS[found[4]], int(found[1]) if found[1] else None, found[2] or "")


def applies(cfg: DictConfig, typed: list[str]) -> bool:
    """Whether the run has a budget: one that a preset brings gives way to a number of steps that is typed.

    The device that the budget names becomes the trainer's.

    Raises:
        UserError: it is no time, steps are typed beside it, there are several processes, or no such device.
    """
    if cfg.budget is None:
        return False
    if asked := [override for override in typed if override.split("=")[0] in BUDGETS]:
        if not any(override.startswith("budget=") for override in typed):
            return False
        raise UserError(f"budget={cfg.budget} and {asked[0]} both say how long the run is: leave one of them out")
    budget = parse(cfg.budget)
    if cfg.budget_batch not in (None, "auto"):
        raise UserError(f"budget_batch={cfg.budget_batch}: must be auto, or null for data.batch_size as it is")
    several = cfg.trainer.strategy != "auto" or cfg.trainer.devices not in (1, "1")
    if several or budget.devices not in (None, 1):
        raise UserError(
            f"budget={cfg.budget} measures one process: leave out trainer=ddp, name one device as in 1gpu_1h, "
            "or give trainer.max_steps"
        )
    if budget.devices is not None:
        take_device(cfg, budget)
    if cfg.budget_batch and cfg.data.progressive is not None:
        raise UserError("budget_batch=auto chooses one batch size: leave out data.progressive")
    return True


def take_device(cfg: DictConfig, budget: Budget) -> None:
    """The budget's device becomes the trainer's.

    Raises:
        UserError: the configuration names another, or there is no GPU.
    """
    import torch

    accelerator, alone = cfg.trainer.accelerator, str(cfg.budget).partition("_")[2]
    if accelerator not in ("auto", budget.accelerator):
        raise UserError(
            f"budget={cfg.budget} names another device than trainer.accelerator={accelerator}: leave one of them out"
        )
    if budget.accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError(f"budget={cfg.budget}: there is no GPU here; give the time alone: budget={alone}")
    cfg.trainer.accelerator = budget.accelerator


def plan(cfg: DictConfig, module: Any, datamodule: Any, started: float) -> Plan:
    """How many optimiser steps end, with their validations, within the budget.

    With ``budget_batch=auto``, ``cfg.data.batch_size`` becomes the smallest one that is nearly as fast as any.

    Args:
        cfg: of the run.
        module, datamodule: of the run; they learn from being measured, and must be built again.
        started: when the run began, as ``time.monotonic`` has it.

    Raises:
        UserError: not even one.
    """
    budget = parse(cfg.budget)
    measuring = min(SHARE * budget.seconds, AT_MOST)
    if cfg.budget_batch:
        choose_batch(cfg, module, datamodule, SHARE_OF_BATCHES * budget.seconds)
    stages = datamodule.stages
    per_step = []
    for stage in stages:
        sizes = {"patch_size": stage.patch_size, "batch_size": stage.batch_size}
        seconds, trainer = pace(cfg, module, datamodule, seconds=measuring / len(stages), warm_up=WARM_UP, **sizes)
        per_step.append(seconds)
        if stage is stages[0]:
            per_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
    since = time.monotonic()
    instantiate(cfg.trainer, **SILENT).validate(module, datamodule, verbose=False)
    validation = time.monotonic() - since
    shares = [end - begin for begin, end in itertools.pairwise([*(stage.begin for stage in stages), 1.0])]
    mean = sum(share * seconds for share, seconds in zip(shares, per_step, strict=True))
    gone = time.monotonic() - started
    left = MARGIN * (budget.seconds - gone) - validation
    steps = int(left / (mean + validation / per_epoch))
    if steps < 1:
        raise UserError(f"budget={cfg.budget}: {budget.seconds - left:.0f} s are gone before the first step; give more")
    validations = -(-steps // max(1, round(per_epoch)))
    clip = f"{datamodule.frames}×" if datamodule.frames else ""
    crops = trainer.accumulate_grad_batches * trainer.world_size
    return Plan(
        steps=steps,
        per_step=per_step,
        batches=[f"{s.batch_size * crops} crops {clip}{s.patch_size}×{s.patch_size}" for s in stages],
        epochs=steps / per_epoch,
        validations=validations,
        per_validation=validation,
        seconds=gone + steps * mean + validations * validation,
    )


def choose_batch(cfg: DictConfig, module: Any, datamodule: Any, seconds: float) -> None:
    """Sets the batch size to the smallest one that is nearly as fast as any; not where there is no time to compare."""
    trials = batch_sizes(cfg, module, datamodule, seconds=min(1.0, seconds / 20), at_most=seconds)
    if not trials:
        log.info(f"budget_batch=auto: {seconds:.1f} s are too few to compare batch sizes; data.batch_size stays")
        return
    cfg.data.batch_size = fastest(trials).batch_size
    datamodule.stages = [datamodule.stages[0]._replace(batch_size=cfg.data.batch_size)]


def show(cfg: DictConfig, plan: Plan, begins: Sequence[float], elapsed: float) -> None:
    """Prints a plan.

    Args:
        cfg: of the run.
        plan: of the run.
        begins: at which shares of the run its stages begin.
        elapsed: seconds since the run began.
    """
    ends = datetime.now() + timedelta(seconds=plan.seconds - elapsed)
    paces = [f"{1e3 * s:.3g} ms per step of {b}" for s, b in zip(plan.per_step, plan.batches, strict=True)]
    lines = {
        "measured": paces[0] if len(paces) == 1 else f"{paces[0]} at first",
        **{f"from {begin:.0%}": line for begin, line in list(zip(begins, paces, strict=True))[1:]},
        "validation": f"{duration(plan.per_validation)} each, {plan.validations} of them",
        "steps": f"{plan.steps:,}, {plan.epochs:.1f} epochs",
        "end": f"expected at {ends:%H:%M:%S}, after {duration(plan.seconds)} (without the test)",
    }
    text = "\n".join(f"{name:<12}{value}" for name, value in lines.items())
    Console().print(Panel(text, title=f"budget {cfg.budget}", title_align="left", expand=False))
