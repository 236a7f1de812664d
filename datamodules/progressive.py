"""Progressive learning: patches that grow, in batches that shrink, from given shares of the run on.

Zamir et al., "Restormer", CVPR 2022, section 4. A stage's batches are those of a run with its patch and batch size
alone, but of passes over the crops that go on counting from the stage before, so that every crop is still a function
of (seed, pass, index).
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import lightning as L
import torch
from torch.utils.data import Dataset, Sampler

from datamodules.crops import DeviceCrops
from datamodules.datasets import Crops, Sample, Stream
from datamodules.images import DataError

Key = tuple[int, int, int]  # stage, pass, index


class Stage(NamedTuple):
    """From the share ``begin`` of the run on: crops of side ``patch_size``, ``batch_size`` in each micro-batch."""

    begin: float
    patch_size: int
    batch_size: int


def stages(progressive: Sequence[Sequence[float]]) -> list[Stage]:
    """``[[0, 32, 64], [0.5, 48, 28]]`` as stages.

    Raises:
        DataError: shares that do not rise from 0 and stay below 1, sizes that are no whole numbers from 1.
    """
    name, example = f"data.progressive={[[*stage] for stage in progressive]}", "such as [[0,32,64],[0.5,48,28]]"
    if not progressive or any(len(stage) != 3 for stage in progressive):
        raise DataError(f"{name}: must be a list of [share of the run, patch size, batch size], {example}")
    shares = [stage[0] for stage in progressive]
    if shares[0] != 0 or shares[-1] >= 1 or any(a >= b for a, b in itertools.pairwise(shares)):
        raise DataError(f"{name}: the shares of the run must rise from 0 and stay below 1, {example}")
    if any(size != int(size) or size < 1 for stage in progressive for size in stage[1:]):
        raise DataError(f"{name}: patch and batch sizes must be whole numbers from 1, {example}")
    return [Stage(share, int(patch), int(batch)) for share, patch, batch in progressive]


def steps_of(stages: Sequence[Stage], steps: int, done: int = 0) -> list[int]:
    """How many of a run's optimiser steps each stage still has to make when so many are done."""
    ends = [round(stage.begin * steps) for stage in [*stages[1:], Stage(1, 0, 0)]]
    return [max(0, end - max(done, begin)) for begin, end in itertools.pairwise([0, *ends])]


def run_length(trainer: L.Trainer, batches_per_epoch: int) -> tuple[int, int, int]:
    """A run's optimiser steps, its micro-batches per epoch, and those of a step; ``batches_per_epoch`` of the data."""
    limit, accumulate = trainer.limit_train_batches, trainer.accumulate_grad_batches
    batches = min(limit, batches_per_epoch) if isinstance(limit, int) else int(limit * batches_per_epoch)
    by_epochs = (trainer.max_epochs or -1) * math.ceil(batches / accumulate)
    ends = [steps for steps in (trainer.max_steps, by_epochs) if steps > 0]
    return min(ends), batches, accumulate


def first_batches(shares: Sequence[float], steps: int, batches_per_epoch: int, accumulate: int) -> list[int]:
    """The number of the micro-batch that each stage begins with, which is the first of an optimiser step.

    Args:
        shares: where the stages begin, as shares of the run.
        steps: optimiser steps of the run.
        batches_per_epoch: micro-batches of an epoch, whose last one always ends a step.
        accumulate: micro-batches of a step.
    """
    per_epoch = math.ceil(batches_per_epoch / accumulate)
    places = (divmod(round(share * steps), per_epoch) for share in shares)
    return [epoch * batches_per_epoch + step * accumulate for epoch, step in places]


class StagedStream(Sampler[list[Key]]):
    """Batches of keys, without end: those of each stage's own stream in turn. Its length is that of the first's epoch.

    Args:
        streams: (how many batches of this stream have been trained) → a stage's stream, for each stage.
        first: the number of the micro-batch that each stage begins with.
        position: → how many batches of the run have been trained.
    """

    def __init__(
        self,
        streams: Sequence[Callable[[Callable[[], int]], Stream]],
        *,
        first: Sequence[int],
        position: Callable[[], int],
    ) -> None:
        self.streams, self.position = streams, position
        self.spans = list(itertools.pairwise([*first, math.inf]))

    def __len__(self) -> int:
        return len(self.streams[0](lambda: 0))

    def __iter__(self) -> Iterator[list[Key]]:
        done, passes = self.position(), 0
        for number, ((begin, end), stream) in enumerate(zip(self.spans, self.streams, strict=True)):
            per_pass = len(stream(lambda: 0))
            if done < end:
                at = passes * per_pass + max(done, begin) - begin
                batches = iter(stream(lambda at=at: at))  # type: ignore[misc]
                left = None if math.isinf(end) else int(end - max(done, begin))
                yield from ([(number, *key) for key in batch] for batch in itertools.islice(batches, left))
            if not math.isinf(end):
                passes += -(-int(end - begin) // per_pass)


class StagedCrops(Dataset[Sample]):
    """The crops of every stage, by keys (stage, pass, index).

    Args:
        crops: of each stage, of the same images.
    """

    def __init__(self, crops: Sequence[Crops]) -> None:
        self.crops = crops

    def __len__(self) -> int:
        return len(self.crops[0])

    def __getitem__(self, key: Key) -> Sample:
        number, *rest = key
        return self.crops[number][rest[0], rest[1]]


class StagedDeviceCrops:
    """The same batches, cut out of images on the device, which hold for all stages.

    Args:
        crops: of each stage, of the same images.
        stream: which crops make a batch.
        device: where the images live from now on.

    Raises:
        DataError: the images do not fit there.
    """

    def __init__(self, crops: Sequence[Crops], stream: StagedStream, device: torch.device) -> None:
        self.stream = stream
        on_device = DeviceCrops(crops[0], stream.streams[0](stream.position), device)
        self.stages = [copy.copy(on_device) for _ in crops]
        for stage, of_stage in zip(self.stages, crops, strict=True):
            stage.crops = of_stage

    def __len__(self) -> int:
        return len(self.stream)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for keys in self.stream:
            yield self.stages[keys[0][0]].batch([(turn, index) for _, turn, index in keys])
