"""How long an optimiser step of a run takes, by making some."""

import time
from typing import Any

import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig

SILENT = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
UNENDING = {"max_steps": 10**6, "max_epochs": -1, "max_time": None}  # so that a schedule stays at its beginning


class Pace(L.Callback):
    """Ends training after some seconds; ``per_step`` is then how many of them a step took.

    Args:
        seconds: after which training ends, the first steps not counted.
        warm_up: how many steps are not counted.
    """

    def __init__(self, seconds: float, warm_up: int) -> None:
        self.seconds = seconds
        self.steps = -warm_up
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


def pace(
    cfg: DictConfig, module: Any, datamodule: Any, *, seconds: float, warm_up: int, **stage: int
) -> tuple[float, L.Trainer]:
    """Seconds of an optimiser step, and the trainer that made them.

    Args:
        cfg: of the run.
        module, datamodule: of the run; the module learns from being measured.
        seconds, warm_up: see :class:`Pace`.
        stage: ``patch_size`` and ``batch_size`` in place of those of the run's first stage.
    """
    before = datamodule.stages
    datamodule.stages = [before[0]._replace(**stage)]
    measured = Pace(seconds, warm_up)
    trainer = instantiate(cfg.trainer, **SILENT, **UNENDING, limit_val_batches=0, callbacks=[measured])
    try:
        trainer.fit(module, datamodule)
    finally:
        datamodule.stages = before
    return measured.per_step, trainer
