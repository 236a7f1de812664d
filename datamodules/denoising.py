"""The LightningDataModule: clean images in, noisy–clean pairs made on the device."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules import leaks, seeds
from datamodules.cache import decoded
from datamodules.checks import (
    check_headers,
    refuse_doubled_noise,
    refuse_motion,
    refuse_small,
    refuse_uneven_videos,
)
from datamodules.crops import DeviceCrops
from datamodules.datasets import Crops, Images, Stream, WholeImages, beginnings
from datamodules.fixed import realised
from datamodules.images import Alpha, DataError, listing
from datamodules.noise.base import Noise, rms
from datamodules.parting import Splits
from datamodules.progressive import (
    Stage,
    StagedCrops,
    StagedDeviceCrops,
    StagedStream,
    first_batches,
    run_length,
    stages,
)
from datamodules.realisation import ContentSeeded
from datamodules.workers import leave_signals_to_parent

Batch = dict[str, Any]


class DenoisingDataModule(L.LightningDataModule):
    """Splits, loaders and noise. Headers are checked when it is built, pixels are decoded in ``setup``.

    Batches: ``noisy`` and ``clean`` [B, C, H, W] float32 in [0, 1], ``level`` [B, 1, 1, 1], ``name``, and in training a
    ``seed`` of each; whole images come one at a time, with their ``set``. Of pictures that are noisy alone there is no
    ``clean``, and the level is None. With ``frames``, training batches are clips [B, T, C, H, W] with ``level``
    [B, T, 1, 1, 1], whose frames have noise of the same parameters; whole videos come one at a time, as such clips.

    Args:
        splits: the images.
        noise: clean → noisy; ``none`` for pairs.
        realisation: how the protocol draws the noise of test images (validation is always content-seeded).
        channels: 1 or 3. Colour images become grey by their BT.601 luma; grey ones never become colour.
        patch_size: side of the training crops; images smaller than that are refused.
        crops_per_image: an epoch is that many crops of each training image.
        batch_size: crops per micro-batch and device.
        progressive: [share of the run, patch size, batch size] of each stage, in place of those two; None: one stage.
        frames: T of training clips, which are cut out of videos; None: single images.
        motion: they are cut out of single images instead, by windows that move by up to that many pixels a frame.
        num_workers: loader processes; None takes none up to two cores, else up to eight.
        resize: the shorter side, or height and width, that every image gets; None: each its own.
        alpha: see :func:`datamodules.checks.check_headers`.
        cache: whether decoded images are read from a memory-mapped file; ``auto``: above a gigabyte.
        cache_dir: where such files lie.
        on_device: the training images live on the device and crops are made there, without a loader; same crops.
        seed: of crops and training noise.
        eval_seed: of evaluation noise.
        views: noisy views of each training image: ``noisy``, and with 2 of them ``twin``.
        fixed: whether each has one realisation of the noise for the whole run.
        clean: whether training looks at clean images; noise apart, they are not even opened where it does not.

    Raises:
        DataError: see the messages.
    """

    def __init__(
        self,
        *,
        splits: Splits,
        noise: Noise,
        realisation: ContentSeeded,
        channels: Literal[1, 3],
        patch_size: int,
        crops_per_image: int,
        batch_size: int,
        progressive: Sequence[tuple[float, int, int]] | None,
        frames: int | None,
        motion: float | None,
        num_workers: int | None,
        resize: int | Sequence[int] | None,
        alpha: Alpha,
        cache: Literal["auto", True, False],
        cache_dir: str,
        on_device: bool,
        seed: int,
        eval_seed: int,
        views: int = 1,
        fixed: bool = False,
        clean: bool = True,
    ) -> None:
        super().__init__()
        self.views, self.fixed, self.clean = views, fixed, clean
        if not clean:
            splits = replace(splits, train=[replace(i, clean=None) if i.noisy else i for i in splits.train])
        self.splits, self.noise, self.realisation = splits, noise, realisation
        self.channels, self.patch_size, self.crops_per_image = channels, patch_size, crops_per_image
        self.batch_size, self.frames, self.motion = batch_size, frames, motion
        self.seed, self.eval_seed = seed, eval_seed
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.num_workers = (0 if cores <= 2 else min(8, cores - 1)) if num_workers is None else num_workers
        self.cache, self.cache_dir, self.on_device = cache, cache_dir, on_device
        self.micro_batches = 0
        self._decoded: dict[str, Images] = {}
        #: the run's, of which an epoch's length is that of the first
        self.stages = stages(progressive) if progressive is not None else [Stage(0, patch_size, batch_size)]
        self.patch_size, self.batch_size = self.stages[0].patch_size, self.stages[0].batch_size
        self._headers = headers = check_headers(splits, channels, self.patch_size, resize=resize, alpha=alpha)
        largest = max(stage.patch_size for stage in self.stages)
        refuse_small(splits.train, headers, "train", largest, "lower the patches of data.progressive or leave them out")
        self._check_arguments()
        #: height and width of the validation images, in order
        self.val_sizes = [(headers[item.files[0]].height, headers[item.files[0]].width) for item in splits.val]

    @property
    def judged(self) -> bool:
        """Whether there are clean images to validate against."""
        return all(item.clean for item in self.splits.val)

    def _check_arguments(self) -> None:
        self._refuse_what_is_not_there()
        for name in ("patch_size", "crops_per_image", "batch_size", "frames"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise DataError(f"data.{name}={value}: must be at least 1")
        for name in ("seed", "eval_seed", "num_workers"):
            if getattr(self, name) < 0:
                raise DataError(f"{name}={getattr(self, name)}: must not be negative")
        refuse_uneven_videos([*self.splits.train, *self.splits.val, *self.splits.test], self._headers)
        if self.motion is not None:
            refuse_motion(self.splits.train, self._headers, self.motion, self.frames, self.patch_size)
        of_videos = self.frames if self.motion is None else None
        starts = len(beginnings(self.splits.train, of_videos)) if of_videos else len(self.splits.train)
        #: in an epoch
        self.crops = self.crops_per_image * starts
        if self.crops < (largest := max(stage.batch_size for stage in self.stages)):
            name = "data.batch_size" if len(self.stages) == 1 else "a batch of data.progressive"
            raise DataError(
                f"{name}={largest} is more than an epoch holds: data.crops_per_image="
                f"{self.crops_per_image} × {starts} training {'clips' if self.frames else 'images'} = {self.crops} "
                f"crops; raise data.crops_per_image or lower {name}"
            )
        refuse_doubled_noise(self.splits.train, self.noise)

    def _refuse_what_is_not_there(self) -> None:
        """Raises DataError where training needs clean images or second views that the data does not have."""
        train = self.splits.train
        if self.clean and (lacking := [str(item.noisy) for item in train if not item.clean]):
            raise DataError(
                "this objective learns from clean images, and this data has noisy ones alone; learn from these with "
                f"objective=neighbor2neighbor, or another that needs no clean image:\n{listing(lacking)}"
            )
        if self.views > 1 and (single := [str(item.noisy) for item in train if item.noisy and not item.twin]):
            raise DataError(
                f"this objective needs {self.views} noisy images of each scene, and this data has one; where pictures "
                "are captures of the same scenes, say what finds the scene in their names, such as "
                f"data.captures='^(.+)_[0-9]+$':\n{listing(single)}"
            )
        if self.views == 1 and any(item.twin for item in train):
            raise DataError("data.captures is for objectives of two noisy views, such as objective=noise2noise")

    def setup(self, stage: str) -> None:
        """Decodes what the stage needs, once; one DataError names every file that fails."""
        wanted = ("train", "val", "test") if stage == "fit" else ("val",) if stage == "validate" else ("test",)
        missing = [split for split in wanted if split not in self._decoded]
        if not missing:
            return
        files = [path for split in missing for item in getattr(self.splits, split) for path in item.files]
        headers = {path: self._headers[path] for path in files}
        pixels = decoded(headers, self.channels, cache=self.cache, cache_dir=self.cache_dir)
        for split in missing:
            self._decoded[split] = [tuple(pixels[path] for path in item.files) for item in getattr(self.splits, split)]
        if stage == "fit":
            self._refuse_leaks()

    def _refuse_leaks(self) -> None:
        train_videos, test_videos = ({(i.set, i.video) for i in s} for s in (self.splits.train, self.splits.test))
        in_time = {video for video in train_videos & test_videos if video[1] is not None}  # parted so: frames are alike

        def clean(split: str) -> dict[Path, np.ndarray]:
            images = zip(getattr(self.splits, split), self._decoded[split], strict=True)
            return {i.clean: views[0] for i, views in images if i.clean and (i.set, i.video) not in in_time}

        train, test = clean("train"), clean("test")
        learnt, tested = (leaks.suspects([*a], [*b], self._headers) for a, b in ((train, test), (test, train)))
        leaks.refuse(learnt, tested, (train | test).__getitem__)

    def train_dataloader(self) -> DataLoader | DeviceCrops | StagedDeviceCrops:
        images: Images = self._decoded["train"]
        about: dict[str, Any] = {}
        if self.fixed and self.splits.train[0].clean:
            images, about = realised(self.noise, [clean for clean, *_ in images], self.seed, self.views)
        crops = [
            Crops(
                images,
                self.splits.train,
                patch_size=stage.patch_size,
                crops_per_image=self.crops_per_image,
                seed=self.seed,
                frames=self.frames,
                motion=self.motion,
                **about,
            )
            for stage in self.stages
        ]
        stream = self._stream()
        if self.on_device:
            device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
            if isinstance(stream, StagedStream):
                return StagedDeviceCrops(crops, stream, device)
            return DeviceCrops(crops[0], stream, device)
        return self._loader(
            crops[0] if isinstance(stream, Stream) else StagedCrops(crops),
            batch_sampler=stream,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def _stream(self) -> Stream | StagedStream:
        """The stream of the run's batches; without a trainer, who knows the run's length, that of the first stage."""
        rank, world_size = self._place()

        def of(stage: Stage, position: Callable[[], int]) -> Stream:
            return Stream(
                self.crops,
                batch_size=stage.batch_size,
                seed=self.seed,
                rank=rank,
                world_size=world_size,
                position=position,
            )

        try:
            streams = [partial(of, stage) for stage in self.stages]
            lengths = [len(stream(lambda: self.micro_batches)) for stream in streams]
        except ValueError as error:
            raise DataError(f"{error}: raise data.crops_per_image or lower data.batch_size") from error
        if len(self.stages) == 1 or self.trainer is None:
            return streams[0](lambda: self.micro_batches)
        first = first_batches([stage.begin for stage in self.stages], *run_length(self.trainer, lengths[0]))
        return StagedStream(streams, first=first, position=lambda: self.micro_batches)

    def _loader(self, dataset: Dataset, **options: Any) -> DataLoader:
        return DataLoader(
            dataset,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=leave_signals_to_parent,
            generator=torch.Generator(),  # or each start would draw from the global one
            **options,
        )

    def val_dataloader(self) -> DataLoader:
        return self._whole("val")

    def test_dataloader(self) -> DataLoader:
        return self._whole("test")

    def _whole(self, split: str) -> DataLoader:
        draws = self.realisation.draws if split == "test" else 1
        images = WholeImages(self._decoded[split], getattr(self.splits, split), draws)
        rank, world_size = self._place()
        # every rank takes as many steps: the last ones begin again, and who gathers scores drops the doubles
        share = range(rank, -(-len(images) // world_size) * world_size, world_size)
        return self._loader(images, batch_size=None, sampler=share)

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Adds the noisy half and its level, where the batch is."""
        training = self.trainer is not None and self.trainer.training
        index, self.micro_batches = self.micro_batches, self.micro_batches + training
        if training:
            batch = batch | {"seed": seeds.derive(self.seed, index, self._place()[0], 1)}  # 1: what is not noise
        elif "clean" not in batch:
            batch = batch | {"seed": seeds.derive(self.eval_seed, seeds.content(batch["noisy"]))}
        if "noisy" in batch:
            level = rms((batch["noisy"] - batch["clean"]).square()) if "clean" in batch else None
            return {"level": level} | batch
        clean = batch["clean"]
        if training:
            return batch | self.corrupt_training(clean, index)
        realisation = self.realisation if self.trainer is not None and self.trainer.testing else ContentSeeded()
        draws = batch["realisation"][:: len(batch["realisation"]) // len(clean)]  # a video has one for each frame
        drawn = [
            realisation(self.noise, image, self.eval_seed, draw) for image, draw in zip(clean.cpu(), draws, strict=True)
        ]
        noisy, level = (torch.stack(parts).to(clean) for parts in zip(*drawn, strict=True))
        return batch | {"noisy": noisy, "level": level}

    def corrupt_training(self, clean: Tensor, index: int) -> dict[str, Tensor]:
        """Fresh noise from (seed, index of the micro-batch, rank)."""
        seed = seeds.derive(self.seed, index, self._place()[0])
        with seeds.seeded(seed, clean.device):
            noisy, level = self.noise.corrupt(clean)
        return {"noisy": noisy, "level": level}

    @property
    def batches_per_epoch(self) -> int:
        """Micro-batches of one epoch and rank."""
        return len(self._stream())

    def state_dict(self) -> dict[str, int]:
        return {"micro_batches": self.micro_batches, "batches_per_epoch": self.batches_per_epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Goes on after the trained micro-batches; where epochs have another length now, with the next epoch."""
        done, length = state_dict["micro_batches"], state_dict["batches_per_epoch"]
        here = self.batches_per_epoch
        self.micro_batches = done if length == here else -(-done // length) * here
