"""Checkpoints that are whole or not there, and when a run writes the one from which it can go on."""

import hashlib
import io
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn

from datamodules.files import replacing, write_text
from denoisers.checkpoint import CheckpointError, checksum, checksum_file, recorded_checksums
from experiments.position import go_on, moved, position, restore_random_states, stand
from experiments.signals import Interrupted, signals

COPIES = 4  # last, previous, best, and the one being written
STATES = 3  # an optimiser keeps up to two values beside each weight, from the first step on


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, each with its SHA-256 in a file beside it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint.

        Raises:
            CheckpointError: the disk does not take it; what stood at ``path`` stands there still.
        """
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        content = buffer.getbuffer()
        try:
            publish(Path(path), hashlib.sha256(content).hexdigest(), lambda file: file.write_bytes(content))
        except OSError as error:
            raise not_written(Path(path), len(content), error.strerror) from error

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)
        checksum_file(Path(path)).unlink(missing_ok=True)


def publish(path: Path, digest: str, write: Callable[[Path], Any]) -> None:
    """What ``write`` puts into a temporary file becomes ``path``, and at no moment lacks its checksum."""
    beside = checksum_file(path)
    write_text(beside, "".join(f"{known}  {path.name}\n" for known in [digest, *recorded_checksums(path)]))
    with replacing(path) as temporary:
        write(temporary)
    write_text(beside, f"{digest}  {path.name}\n")


def not_written(path: Path, needed: int, reason: str | None) -> CheckpointError:
    """What to say of a checkpoint that the disk does not take."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    return CheckpointError(
        f"{path} cannot be written ({reason}): it needs {needed:,} bytes, {free:,} are free; "
        "make room (or choose another run_dir): a checkpoint written before stays as it was"
    )


def keep_previous(path: Path) -> None:
    """The checkpoint at ``path`` is ``previous.ckpt`` as well, until the next one."""

    def link(file: Path) -> None:
        try:
            os.link(path, file)
        except OSError:  # not every file system has them
            shutil.copyfile(path, file)

    previous = path.with_name("previous.ckpt")
    try:
        publish(previous, checksum(path), link)
    except OSError as error:
        raise not_written(previous, path.stat().st_size, error.strerror) from error


class LastCheckpoint(L.Callback):
    """Keeps ``last.ckpt``, and in ``previous.ckpt`` the one before it, so that a run can go on exactly where it stood.

    It saves between optimiser steps alone, where no gradient is half accumulated and every row is written: every
    ``every_n_steps``, before each validation (which a resumed run repeats), before the last step, at the end, and when
    a signal has come, which ends the run. It must be the first callback: what others log for the next step is not part
    of the state.

    Args:
        directory: where to.
        every_n_steps: optimiser steps between two of them, at most.

    Raises:
        CheckpointError: the disk does not take a checkpoint, which is tried before the first step.
        Interrupted: a signal has come, and the state is saved.
    """

    def __init__(self, directory: str, every_n_steps: int) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps}: must be at least 1")
        self.path = Path(directory) / "last.ckpt"
        self.every_n_steps = every_n_steps
        self.saved_step = 0
        self.seconds_before = 0.0  #: that training had taken before the run was resumed
        self._started = time.monotonic()
        self._whole = False  # whether what lies at the path is known to be
        self._complete = False
        self._before_validation: dict[str, Any] | None = None
        self._resumed: dict[str, Any] | None = None

    # --- when -----------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        signals.listen()  # Lightning has put its own handler before ours
        self._started = time.monotonic()
        if self._resumed:
            go_on(trainer, self._resumed)
        if trainer.is_global_zero:
            for left_over in self.path.parent.glob(".*.part.*"):
                left_over.unlink()
        self._try(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        signals.deferred = True
        if self._resumed:
            states = self._resumed["random"]
            restore_random_states(states[trainer.global_rank % len(states)], pl_module.device)
        self._resumed = self._before_validation = None
        stop, step = asked_to_stop(trainer), trainer.global_step
        due = step - self.saved_step >= self.every_n_steps or step == trainer.max_steps - 1 or stop
        between_steps = batch_idx > 0 and batch_idx % trainer.accumulate_grad_batches == 0
        if due and between_steps and step != self.saved_step:
            self._save(trainer)
        if stop and step == self.saved_step:
            raise Interrupted(stop)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self._before_validation = self._position(trainer)
        # of a run that has made all its steps Lightning would not repeat the validation
        if trainer.global_step not in (self.saved_step, trainer.max_steps):
            self._save(trainer)
        stop_if_asked(trainer)
        signals.deferred = trainer.world_size > 1  # nothing is lost from here on; ranks have to stop together

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if trainer.world_size > 1:
            stop_if_asked(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._before_validation, self._complete = None, True
        self._save(trainer)
        signals.deferred = False

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        signals.deferred = False
        if trainer.state.fn == TrainerFn.FITTING:
            trainer.fit_loop.teardown()  # Lightning, within a validation, would leave the training's loader running

    # --- how ------------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        # a checkpoint made after a validation stands before it, like the others
        place = self._before_validation or self._position(trainer)
        checkpoint["position"] = place
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        # the batch that is on its way already is not trained
        checkpoint[type(data).__qualname__]["micro_batches"] = place["micro_batches"]

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._resumed = stand(checkpoint, data.micro_batches, data.batches_per_epoch)
        self.saved_step, self.seconds_before = checkpoint["global_step"], self._resumed["seconds"]
        self._whole = Path(trainer.ckpt_path or "").name == self.path.name
        for key, state in checkpoint["callbacks"].items():
            if key.startswith("ModelCheckpoint"):
                moved(state, str(self.path.parent.resolve()))

    def _position(self, trainer: L.Trainer) -> dict[str, Any]:
        return position(trainer, self._complete, self.seconds_before + time.monotonic() - self._started)

    def _try(self, trainer: L.Trainer) -> None:
        """Writes a trial checkpoint, and compares what the run will need with what is free."""
        trial = self.path.with_name("trial.ckpt")
        trainer.save_checkpoint(trial)
        if trainer.is_global_zero:
            size = trial.stat().st_size
            needed = COPIES * (size if self.saved_step else STATES * size)
            trainer.strategy.remove_checkpoint(trial)
            if shutil.disk_usage(self.path.parent).free < needed:
                raise not_written(self.path, needed, "too little space")

    def _save(self, trainer: L.Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()
        if trainer.is_global_zero and self._whole:
            keep_previous(self.path)
        trainer.save_checkpoint(self.path)
        self.saved_step, self._whole = trainer.global_step, True


def asked_to_stop(trainer: L.Trainer) -> int:
    """The signal that has come to any of the ranks, or 0."""
    if trainer.world_size == 1:
        return signals.received or 0
    number = torch.tensor(signals.received or 0, device=trainer.strategy.root_device)
    return int(trainer.strategy.reduce(number, reduce_op="max"))


def stop_if_asked(trainer: L.Trainer) -> None:
    """Raises Interrupted if a signal has come to any of the ranks."""
    if number := asked_to_stop(trainer):
        raise Interrupted(number)
