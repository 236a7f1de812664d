"""Training crops: which part of which image, turned how, is a function of (seed, epoch, index) alone."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from datamodules import seeds
from datamodules.images import to_tensor


class Crops(Dataset[dict[str, Tensor | str]]):
    """Random crops in one of the eight flips and rotations. An epoch is ``crops_per_image`` × images.

    Args:
        images: each [H, W, C], uint8 or uint16; clean ones, or pairs (clean, noisy), which are cropped alike.
        names: one per image.
        patch_size: side P of the square crops.
        crops_per_image: crops of each image in an epoch.
        seed: see above.
    """

    def __init__(
        self,
        images: Sequence[tuple[np.ndarray, ...]],
        names: Sequence[str],
        *,
        patch_size: int,
        crops_per_image: int,
        seed: int,
    ) -> None:
        self.images, self.names = images, names
        self.patch_size, self.crops_per_image, self.seed = patch_size, crops_per_image, seed

    def __len__(self) -> int:
        return len(self.images) * self.crops_per_image

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor | str]:
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

        views = zip(("clean", "noisy"), self.images[number], strict=False)
        return {view: crop(image) for view, image in views} | {"name": self.names[number]}


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
