"""Learning-rate schedules whose lengths are shares of the whole run, so that one file fits any budget.

Each function takes the optimiser and ``total``, the run's length in the unit that the schedule counts (optimiser steps
or epochs), and returns a PyTorch scheduler.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LambdaLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)


@dataclass(frozen=True)
class Schedule:
    """A schedule and how it is counted.

    Args:
        build: (optimizer, total) → scheduler.
        interval: ``step`` (optimiser steps) or ``epoch``.
        monitor: the logged metric that a plateau schedule watches.
    """

    build: Callable[[Optimizer, int], LRScheduler]
    interval: str
    monitor: str | None = None

    def __post_init__(self) -> None:
        if self.interval not in ("step", "epoch"):
            raise ValueError(f"interval={self.interval!r}: must be step or epoch")

    def configure(self, optimizer: Optimizer, steps: int, epochs: int) -> dict[str, Any]:
        """Lightning's ``lr_scheduler`` dictionary for a run of so many optimiser steps and epochs."""
        scheduler = self.build(optimizer, max(1, steps if self.interval == "step" else epochs))
        config = {"scheduler": scheduler, "interval": self.interval}
        return config | ({"monitor": self.monitor} if self.monitor else {})


def share(name: str, value: float) -> float:
    """Raises ValueError unless the value is a share of the run, from 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value}: a share of the run, must be from 0 to 1")
    return value


def constant(optimizer: Optimizer, total: int) -> LRScheduler:
    """The learning rate stays what it is."""
    return ConstantLR(optimizer, factor=1.0, total_iters=1)


def step(optimizer: Optimizer, total: int, every: float, gamma: float) -> LRScheduler:
    """Times ``gamma`` each time a share ``every`` of the run has passed."""
    return StepLR(optimizer, step_size=max(1, round(share("every", every) * total)), gamma=gamma)


def multistep(optimizer: Optimizer, total: int, milestones: Sequence[float], gamma: float) -> LRScheduler:
    """Times ``gamma`` at each milestone, a share of the run."""
    return MultiStepLR(optimizer, [round(share("milestones", m) * total) for m in milestones], gamma=gamma)


def cosine(optimizer: Optimizer, total: int) -> LRScheduler:
    """Half a cosine from the learning rate to zero (Loshchilov and Hutter, ICLR 2017, without restarts)."""
    return CosineAnnealingLR(optimizer, T_max=total)


def warmup_cosine_factor(index: int, total: int, warmup: int) -> float:
    """The factor of step ``index``: a straight rise that reaches 1 at step ``warmup``, then half a cosine to zero."""
    if index < warmup:
        return (index + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1, (index - warmup) / max(1, total - warmup))))


def cosine_warmup(optimizer: Optimizer, total: int, warmup: float) -> LRScheduler:
    """:func:`warmup_cosine_factor`; ``warmup`` is a share of the run."""
    rise = round(share("warmup", warmup) * total)
    return LambdaLR(optimizer, lambda index: warmup_cosine_factor(index, total, rise))


def flat_cosine(optimizer: Optimizer, total: int, hold: float, floor: float) -> LRScheduler:
    """The learning rate until the share ``hold`` of the run, then half a cosine down to a share ``floor`` of it."""
    held, least = round(share("hold", hold) * total), share("floor", floor)
    return LambdaLR(
        optimizer, lambda index: least + (1 - least) * warmup_cosine_factor(max(0, index - held), total - held, 0)
    )


def onecycle(optimizer: Optimizer, total: int, rise: float) -> LRScheduler:
    """Smith's one cycle (arXiv:1708.07120) with its peak, the optimiser's learning rate, at the share ``rise``."""
    peaks = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, max_lr=peaks, total_steps=total + 1, pct_start=share("rise", rise))


def plateau(optimizer: Optimizer, total: int, factor: float, patience: int, mode: str) -> LRScheduler:
    """Times ``factor`` when the watched metric has not improved for ``patience`` validations."""
    return ReduceLROnPlateau(optimizer, mode="max" if mode == "max" else "min", factor=factor, patience=patience)
