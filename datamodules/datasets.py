"""Training crops, each a function of (seed, epoch, index) alone; and whole images or videos for evaluation."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from datamodules import seeds
from datamodules.images import DataError, to_tensor
from datamodules.parting import Item, together

Images = Sequence[tuple[np.ndarray, ...]]  # each [H, W, C], uint8, uint16 or float32: an item's views
Sample = dict[str, Any]


class Crops(Dataset[Sample]):
    """Random crops in one of the eight flips and rotations. An epoch is ``crops_per_image`` × images.

    Args:
        images: clean ones, or pairs, which are cropped alike.
        items: what they are called.
        patch_size: side P of the square crops.
        crops_per_image: crops of each image in an epoch; of clips, for each image that one can begin with.
        seed: see above.
        frames: T of a clip, which is cut out of T images of a video; None: crops of single images.
        motion: a clip is cut out of one image instead, by a window that moves by up to that many pixels a frame, see
            :func:`wander`.
        views: what the views are called; None: as the items' files are.
        facts: of each image, tensors that its crops bring with them.

    Raises:
        DataError: no video has as many frames.
    """

    def __init__(
        self,
        images: Images,
        items: Sequence[Item],
        *,
        patch_size: int,
        crops_per_image: int,
        seed: int,
        frames: int | None = None,
        motion: float | None = None,
        views: Sequence[str] | None = None,
        facts: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.images, self.items, self.frames, self.motion = images, items, frames, motion
        self.views, self.facts = tuple(views or items[0].views), facts
        self.patch_size, self.crops_per_image, self.seed = patch_size, crops_per_image, seed
        #: numbers of the images that a crop, or a clip, can begin with
        self.starts = beginnings(items, frames) if frames and motion is None else range(len(items))

    def __len__(self) -> int:
        return len(self.starts) * self.crops_per_image

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """(epoch, index) → ``clean`` [C, P, P] in [0, 1], or [T, C, P, P]; ``noisy`` likewise for pairs; ``name``."""
        places = self.draw(key)

        def crop(image: np.ndarray, top: int, left: int, turn: int, flip: int) -> Tensor:
            patch = image[top : top + self.patch_size, left : left + self.patch_size]
            patch = np.rot90(patch, turn)
            return to_tensor(patch[:, ::-1] if flip else patch)

        item, clip = self.items[places[0, 0]], [self.images[number] for number in places[:, 0]]
        views = [list(map(crop, images, *places[:, 1:].T)) for images in zip(*clip, strict=True)]
        cut = [torch.stack(crops) if self.frames else crops[0] for crops in views]
        facts = self.facts[places[0, 0]] if self.facts else {}
        return {**dict(zip(self.views, cut, strict=True)), **facts, "name": item.name}

    def draw(self, key: tuple[int, int]) -> np.ndarray:
        """(epoch, index) → [T, 5], for each frame: the image's number, the crop's first row and column, its quarter
        turns, and 1 if flipped. A crop of a single image is one frame."""
        epoch, index = key
        number, frames = self.starts[index % len(self.starts)], self.frames or 1
        draw = np.random.default_rng((self.seed, epoch, index))
        path = np.zeros((frames, 2), int) if self.motion is None else wander(draw, frames, self.motion)
        room = zip(self.images[number][0].shape[:2], path.max(axis=0).tolist(), strict=True)
        # by Python's own numbers NumPy draws several times as fast as by its own, and a GPU waits for this
        corner = [draw.integers(side - self.patch_size - reach + 1) for side, reach in room]
        places = np.empty((frames, 5), int)
        places[:, 0] = number + np.arange(frames) * (self.motion is None)
        places[:, 1:3] = path + corner
        places[:, 3:] = draw.integers(4), draw.integers(2)
        return places


class WholeImages(Dataset[Sample]):
    """Batches of one whole image each, in order: ``clean``, ``noisy`` or both [1, C, H, W] in [0, 1]; and lists, of one
    entry: ``name``, ``set``, ``realisation``, and ``own_noise``: whether the noise is its own. An index beyond the last
    begins again, and its batch is ``repeated``.

    Of the frames of a video, all come together, [1, T, C, H, W], with lists of as many entries as it has frames.

    Args:
        images: clean ones, pairs, or noisy ones.
        items: what they are called.
        draws: how many realisations of the noise each image meets; the number of its one stands in ``realisation``.
    """

    def __init__(self, images: Images, items: Sequence[Item], draws: int = 1) -> None:
        self.images, self.items, self.draws = images, items, draws
        #: numbers of the images of each batch
        self.batches = together(items)

    def __len__(self) -> int:
        return len(self.batches) * self.draws

    def __getitem__(self, index: int) -> Sample:
        turn, index = divmod(index, len(self))
        number, realisation = divmod(index, self.draws)
        numbers = self.batches[number]
        items = [self.items[n] for n in numbers]
        views = zip(*(self.images[n] for n in numbers), strict=True)
        tensors = [torch.stack(list(map(to_tensor, images))) for images in views]
        about: Sample = {
            "name": [item.name for item in items],
            "set": [item.set for item in items],
            "realisation": [realisation] * len(items),
            "own_noise": [item.noisy is not None for item in items],
            "repeated": bool(turn),
        }
        video = items[0].video is not None
        return {view: t[None] if video else t for view, t in zip(items[0].views, tensors, strict=True)} | about


def wander(random: np.random.Generator, frames: int, motion: float) -> np.ndarray:
    """The path of a window that moves over an image: [T, 2], rows and columns from the first ones that it touches.

    Its velocity is drawn, up to ``motion`` pixels a frame in any direction; each place is jittered by up to half a
    pixel and rounded, so that the window shows the image's own pixels. It spans at most ⌈(T − 1) · motion⌉ pixels.
    """
    speed, angle = random.uniform(0, motion), random.uniform(0, 2 * math.pi)
    straight = np.arange(frames)[:, None] * (speed * math.sin(angle), speed * math.cos(angle))
    path = np.rint(straight + random.uniform(-0.5, 0.5, straight.shape)).astype(int)
    return path - path.min(axis=0)


def beginnings(items: Sequence[Item], frames: int) -> list[int]:
    """The numbers of the images that, with those that follow, are as many frames of one video.

    Raises:
        DataError: there is none.
    """
    videos = [(item.set, item.video) if item.video is not None else None for item in items]
    found = [n for n in range(len(items) - frames + 1) if videos[n] and videos[n] == videos[n + frames - 1]]
    if not found:
        longest = max((len(list(group)) for video, group in itertools.groupby(videos) if video), default=0)
        what = f"the longest one for training has {longest}" if longest else "these images are none: use data=frames"
        raise DataError(f"data.frames={frames}: clips are cut out of videos of as many frames; {what}")
    return found


class Stream(Sampler[list[tuple[int, int]]]):
    """Batches of the keys (epoch, index), without end, from a position on that is asked for at each start.

    Each epoch is shuffled by (seed, epoch) and shared out over ranks; the crops that fill no batch are left out. Its
    length is that of one epoch.

    Args:
        crops: how many an epoch has.
        batch_size: crops per batch.
        seed, rank, world_size: see above.
        position: → how many batches of the stream have been trained.

    Raises:
        ValueError: an epoch's share holds no batch.
    """

    def __init__(
        self, crops: int, *, batch_size: int, seed: int, rank: int, world_size: int, position: Callable[[], int]
    ) -> None:
        self.crops, self.batch_size, self.seed = crops, batch_size, seed
        self.rank, self.world_size, self.position = rank, world_size, position
        if len(self) < 1:
            raise ValueError(f"{world_size} processes share {crops} crops an epoch: not one batch of {batch_size} each")

    def __len__(self) -> int:
        return self.crops // self.world_size // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first, done = divmod(self.position(), len(self))
        for epoch in itertools.count(first):
            order = np.random.default_rng(seeds.derive(self.seed, epoch)).permutation(self.crops)
            share = order[self.rank :: self.world_size]
            for batch in range(done if epoch == first else 0, len(self)):
                yield [(epoch, int(index)) for index in share[batch * self.batch_size : (batch + 1) * self.batch_size]]
