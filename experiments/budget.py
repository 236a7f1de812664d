"""``budget=SECONDS``: a run as long as this machine can make it in that time, which is measured before it begins."""

import time
from typing import Any

import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments.cli import UserError
from experiments.resume import BUDGETS

WARM_UP = 5  # steps that are not measured
SHARE = 0.04  # of the budget is spent on measuring
MARGIN = 0.96  # of what is left is planned for: a machine's speed drifts


class Pace(L.Callback):
    """Ends training after some seconds; ``per_step`` is then how many of them a step took.

    Args:
        seconds: after which training ends, the first steps not counted.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.steps = -WARM_UP
        self.per_step = 0.0

    def on_train_batch_end(self, trainer: L.Trainer, *unused: Any) -> None:
        if trainer.fit_loop._should_accumulate():
            return
        self.steps += 1
        if self.steps <= 0:
            self._since = time.perf_counter()
            return
        elapsed = time.perf_counter() - self._since
        self.per_step = elapsed / self.steps
        trainer.should_stop = elapsed >= self.seconds


def applies(cfg: DictConfig, typed: list[str]) -> bool:
    """Whether the run has a budget: one that a preset brings gives way to a number of steps that is typed.

    Raises:
        UserError: it is not a positive number of seconds, steps are typed beside it, or there are several processes.
    """
    if cfg.budget is None:
        return False
    if asked := [override for override in typed if override.split("=")[0] in BUDGETS]:
        if not any(override.startswith("budget=") for override in typed):
            return False
        raise UserError(f"budget={cfg.budget} and {asked[0]} both say how long the run is: leave one of them out")
    if not isinstance(cfg.budget, int | float) or cfg.budget <= 0:
        raise UserError(f"budget={cfg.budget}: must be a number of seconds above 0, or null")
    if cfg.trainer.strategy != "auto" or cfg.trainer.devices not in (1, "1"):
        raise UserError(f"budget={cfg.budget} measures one process: leave out trainer=ddp, or give trainer.max_steps")
    return True


def steps(cfg: DictConfig, module: Any, datamodule: Any, started: float) -> int:
    """How many optimiser steps end, with their validations, within the budget.

    Args:
        cfg: of the run.
        module, datamodule: of the run; they learn from being measured, and must be built again.
        started: when the run began, as ``time.monotonic`` has it.

    Raises:
        UserError: not even one.
    """
    pace = Pace(SHARE * cfg.budget)
    silent = {"max_steps": 10**6, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = instantiate(cfg.trainer, **silent, limit_val_batches=0, callbacks=[pace])
    trainer.fit(module, datamodule)
    per_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
    since = time.monotonic()
    instantiate(cfg.trainer, **silent).validate(module, datamodule, verbose=False)
    validation = time.monotonic() - since
    left = MARGIN * (cfg.budget - (time.monotonic() - started)) - validation
    found = int(left / (pace.per_step + validation / per_epoch))
    if found < 1:
        raise UserError(f"budget={cfg.budget}: {cfg.budget - left:.0f} s are gone before the first step; give more")
    return found
