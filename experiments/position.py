"""Where a run stands between two steps, and how Lightning is made to go on from there.

Lightning saves its loops' counters as they are at the moment of saving, and guesses from them where that was. Its
guesses lose a plateau schedule's step, a validation or a logged step; here the counters are made from one number.
"""

import os
import random
from collections.abc import Mapping
from typing import Any

import lightning as L
import numpy as np
import torch

from experiments.metrics import Metrics


def position(trainer: L.Trainer, complete: bool, seconds: float) -> dict[str, Any]:
    """Where a run stands between two steps, in plain containers and tensors.

    Args:
        trainer: of the run.
        complete: whether everything that follows the last step is done too.
        seconds: that training has taken until now.
    """
    states: list[Any] = [random_states(trainer.strategy.root_device)]
    if trainer.world_size > 1:
        states *= trainer.world_size
        torch.distributed.all_gather_object(states, states[trainer.global_rank])
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    return {
        "micro_batches": batches.processed,
        "batches_per_epoch": trainer.num_training_batches,
        "complete": complete,
        "seconds": seconds,
        "rows": sum(logger.rows for logger in trainer.loggers if isinstance(logger, Metrics)),
        "random": states,
    }


def stand(checkpoint: dict[str, Any], micro_batches: int, batches_per_epoch: int) -> dict[str, Any]:
    """Makes the counters of a checkpoint's loops, so that Lightning goes on after so many micro-batches.

    Args:
        checkpoint: as it was read; its ``loops`` change.
        micro_batches: that are trained, counted in this run's epochs.
        batches_per_epoch: of this run's data; a checkpoint of other epochs goes on with a new one.

    Returns:
        the checkpoint's position.
    """
    place = checkpoint["position"]
    if micro_batches == place["micro_batches"]:
        batches_per_epoch = place["batches_per_epoch"]
    epoch, batch = divmod(micro_batches, batches_per_epoch)
    if batch == 0:  # the end of an epoch, not the beginning of the next
        epoch, batch = epoch - 1, batches_per_epoch
    place["complete"] = batch == batches_per_epoch and (place["complete"] or micro_batches != place["micro_batches"])

    def counters(ready: int, processed: int) -> dict[str, int]:
        return {"ready": ready, "started": ready, "processed": processed, "completed": processed}

    def progress(total: dict[str, int], current: dict[str, int]) -> dict[str, Any]:
        return {"total": total, "current": current}

    epochs = counters(epoch + 1, epoch + place["complete"])
    loop = checkpoint["loops"]["fit_loop"]
    loop["epoch_progress"] = progress(epochs, dict(epochs))
    loop["epoch_loop.batch_progress"] = progress(counters(micro_batches, micro_batches), counters(batch, batch)) | {
        "is_last_batch": batch == batches_per_epoch
    }
    # a validation that is due is one that was begun
    loop["epoch_loop.val_loop.batch_progress"] = progress(counters(1, 0), counters(0, 0)) | {"is_last_batch": False}
    return place


def go_on(trainer: L.Trainer, place: Mapping[str, Any]) -> None:
    """What the counters cannot say, at the start of a run that goes on."""
    fit, epoch = trainer.fit_loop, trainer.fit_loop.epoch_loop
    fit._restarting = False  # or the epoch's end would leave out a plateau schedule
    if place["complete"]:
        epoch.restarting = False
    validates = not place["complete"] and epoch._should_check_val_fx(fit._data_fetcher)  # type: ignore[arg-type]
    epoch._batches_that_stepped = trainer.global_step - validates  # which is counted after the validation
    for logger in trainer.loggers:
        if isinstance(logger, Metrics):
            logger.keep(place["rows"])


def moved(state: dict[str, Any], directory: str) -> None:
    """Rewrites a ModelCheckpoint's state for a run whose folder may have been moved; else it would forget its best."""

    def here(path: str) -> str:
        return os.path.join(directory, os.path.basename(path)) if path else path

    state["dirpath"] = directory
    state["best_k_models"] = {here(path): score for path, score in state["best_k_models"].items()}
    for key in ("best_model_path", "kth_best_model_path"):
        state[key] = here(state[key])


def random_states(device: torch.device) -> dict[str, Any]:
    """Every global generator's state, in plain containers and tensors."""
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 (others may draw from it)
    states = {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def restore_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    """Undoes whatever was drawn since :func:`random_states`."""
    kind, keys, *rest = states["numpy"]
    random.setstate(states["python"])
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
