"""Ends a run that gets no better, and says why it ended."""

import logging
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

log = logging.getLogger(__name__)


class Patience(EarlyStopping):
    """Lightning's :class:`EarlyStopping` after validations; a run that it has ended stays ended when it is resumed.

    Args:
        monitor: the logged metric.
        patience: validations without an improvement, after which training ends.
        min_delta: what counts as an improvement, at least, in the metric's unit.
        mode: ``max`` or ``min``.
        options: EarlyStopping's others.
    """

    def __init__(self, monitor: str, *, patience: int, min_delta: float, mode: str, **options: Any) -> None:
        if patience < 1:
            raise ValueError(f"patience={patience}: must be at least 1 validation")
        if min_delta < 0:
            raise ValueError(f"min_delta={min_delta}: must not be negative")
        options = {"check_on_train_epoch_end": False, **options}
        super().__init__(monitor, min_delta=min_delta, patience=patience, mode=mode, **options)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the count; with more patience than it had, a run that was ended goes on too."""
        super().load_state_dict({**state_dict, "patience": self.patience})
        if self.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED and self.wait_count < self.patience:
            self.stopping_reason = EarlyStoppingReason.NOT_STOPPED

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = self.stopping_reason != EarlyStoppingReason.NOT_STOPPED

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        if self.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED:
            why = (
                f"{self.monitor} has not come {abs(self.min_delta):g} beyond {self.best_score:.2f} in {self.wait_count}"
            )
            why += " validations"
        elif self.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
            why = str(self.stopping_reason_message)
        else:
            done = trainer.global_step >= trainer.estimated_stepping_batches
            why = "it has made all its steps" if done else "its time is over"
        log.info(f"training ended at step {trainer.global_step}: {why}")
