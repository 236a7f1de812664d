"""Training crops, each a function of (seed, epoch, index) alone; and whole images for evaluation."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from datamodules import seeds
from datamodules.catalog import Item
from datamodules.images import to_tensor

Images = Sequence[tuple[np.ndarray, ...]]  # each [H, W, C], uint8 or uint16: clean, and in pairs noisy
VIEWS = ("clean", "noisy")
Sample = dict[str, Tensor | str]


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
        epoch, index = key
        number = index % len(self.images)
        clean = self.images[number][0]
        draw = np.random.default_rng((self.seed, epoch, index))
        top, left = (int(draw.integers(size - self.patch_size + 1)) for size in clean.shape[:2])
        turn, flip = int(draw.integers(4)), bool(draw.integers(2))

        def crop(image: np.ndarray) -> Tensor:
            patch = image[top : top + self.patch_size, left : left + self.patch_size]
            patch = np.rot90(patch, turn)
            return to_tensor(patch[:, ::-1] if flip else patch)

        views = {view: crop(image) for view, image in zip(VIEWS, self.images[number], strict=False)}
        return {**views, "name": self.items[number].name}


class WholeImages(Dataset[Sample]):
    """Whole images, in order: ``clean`` and, in pairs, ``noisy`` [C, H, W] in [0, 1], with ``name`` and ``set``."""

    def __init__(self, images: Images, items: Sequence[Item]) -> None:
        self.images, self.items = images, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        item = self.items[index]
        views = {view: to_tensor(image) for view, image in zip(VIEWS, self.images[index], strict=False)}
        return {**views, "name": item.name, "set": item.set}


class EpochSampler(Sampler[tuple[int, int]]):
    """The keys (epoch, index) of an epoch, shuffled by (seed, epoch), shared out over ranks.

    Lightning calls ``set_epoch`` before each epoch.
    """

    def __init__(self, length: int, *, seed: int, rank: int, world_size: int) -> None:
        self.length, self.seed, self.rank, self.world_size = length, seed, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length // self.world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng(seeds.derive(self.seed, self.epoch)).permutation(self.length)
        share = order[self.rank :: self.world_size][: len(self)]
        return ((self.epoch, int(index)) for index in share)
