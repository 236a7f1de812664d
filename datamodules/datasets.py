"""Training crops, each a function of (seed, epoch, index) alone; and whole images for evaluation."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from datamodules import seeds
from datamodules.images import to_tensor
from datamodules.splits import Item

Images = Sequence[tuple[np.ndarray, ...]]  # each [H, W, C], uint8 or uint16: an item's views
Sample = dict[str, Tensor | str | int]


class Crops(Dataset[Sample]):
    """Random crops in one of the eight flips and rotations. An epoch is ``crops_per_image`` × images.

    Args:
        images: clean ones, or pairs, which are cropped alike.
        items: what they are called.
        patch_size: side P of the square crops.
        crops_per_image: crops of each image in an epoch.
        seed: see above.
    """

    def __init__(
        self,
        images: Images,
        items: Sequence[Item],
        *,
        patch_size: int,
        crops_per_image: int,
        seed: int,
    ) -> None:
        self.images, self.items = images, items
        self.patch_size, self.crops_per_image, self.seed = patch_size, crops_per_image, seed

    def __len__(self) -> int:
        return len(self.images) * self.crops_per_image

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """(epoch, index) → ``clean`` [C, P, P] in [0, 1], ``noisy`` likewise for pairs, and ``name``."""
        number, top, left, turn, flip = self.draw(key)

        def crop(image: np.ndarray) -> Tensor:
            patch = image[top : top + self.patch_size, left : left + self.patch_size]
            patch = np.rot90(patch, turn)
            return to_tensor(patch[:, ::-1] if flip else patch)

        item = self.items[number]
        return {**dict(zip(item.views, map(crop, self.images[number]), strict=True)), "name": item.name}

    def draw(self, key: tuple[int, int]) -> tuple[int, int, int, int, int]:
        """(epoch, index) → the image's number, the crop's first row and column, its quarter turns, and 1 if flipped."""
        epoch, index = key
        number = index % len(self.images)
        draw = np.random.default_rng((self.seed, epoch, index))
        top, left = (int(draw.integers(size - self.patch_size + 1)) for size in self.images[number][0].shape[:2])
        return number, top, left, int(draw.integers(4)), int(draw.integers(2))


class WholeImages(Dataset[Sample]):
    """Whole images, in order: ``clean``, ``noisy`` or both [C, H, W] in [0, 1], ``name``, ``set``, ``realisation``, and
    ``own_noise``: whether their noise is their own.

    Args:
        images: clean ones, pairs, or noisy ones.
        items: what they are called.
        draws: how many realisations of the noise each image meets; the number of its one stands in ``realisation``.
    """

    def __init__(self, images: Images, items: Sequence[Item], draws: int = 1) -> None:
        self.images, self.items, self.draws = images, items, draws

    def __len__(self) -> int:
        return len(self.items) * self.draws

    def __getitem__(self, index: int) -> Sample:
        number, realisation = divmod(index, self.draws)
        item = self.items[number]
        views = dict(zip(item.views, map(to_tensor, self.images[number]), strict=True))
        about: Sample = {
            "name": item.name,
            "set": item.set,
            "realisation": realisation,
            "own_noise": item.noisy is not None,
        }
        return {**views, **about}


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
