"""Test images among the training images: the same picture, turned, mirrored or saved again as another file."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.images import DataError, Header, listing, to_channels

SIDE = 16  # of the thumbnails by which most pairs are told apart
DENSE = 256  # rows and columns, about, that a thumbnail is made of
ALIKE = 0.95  # correlation of thumbnails above which two pictures are compared pixel by pixel
SMALL = 64  # pixels: where a side is shorter, pictures of one kind look too much alike, and only equal ones count
SAME = 0.03  # their mean squared difference, relative to the variance of one: what JPEG changes is less

Pixels = Callable[[Path], np.ndarray]  # [H, W, C], uint8 or uint16


def shape(header: Header) -> tuple[int, ...]:
    """Height and width, whichever comes first: what turning and mirroring keep."""
    return tuple(sorted((header.height, header.width)))


def suspects(paths: Sequence[Path], others: Sequence[Path], headers: Mapping[Path, Header]) -> list[Path]:
    """Those of the files that have the size of one of the others."""
    shapes = {shape(headers[path]) for path in others}
    return [path for path in paths if shape(headers[path]) in shapes]


def refuse(train: Sequence[Path], test: Sequence[Path], pixels: Pixels) -> None:
    """Raises DataError naming the test images that are among the training images, each beside the one that it is.

    Args:
        train, test: files.
        pixels: of a file.
    """
    if not train or not test:
        return
    thumbnails = torch.stack([standard(plane(sparse(pixels(path)))) for path in train])
    found = []
    for path in test:
        small = plane(sparse(pixels(path)))
        likeness = torch.stack([standard(view) for view in views(small)]) @ thumbnails.T  # [8, train]
        for turn, index in (likeness > ALIKE).nonzero().tolist():
            if same(plane(pixels(train[index])), views(plane(pixels(path)))[turn]):
                found.append(f"test image {path} is training image {train[index]}{', turned' * (turn > 0)}")
                break
    if found:
        raise DataError(
            f"{len(found)} test images are among the training images, so that their scores would say nothing; "
            "leave them out of the one or of the other:\n" + listing(found)
        )


def views(image: Tensor) -> list[Tensor]:
    """The eight ways to turn and mirror a picture [H, W]; the first is as it is."""
    return [turned for quarter in range(4) for turned in (image.rot90(quarter), image.rot90(quarter).flip(1))]


def sparse(pixels: np.ndarray) -> np.ndarray:
    """Rows and columns enough for a thumbnail, of a picture that may lie on a disk."""
    every = max(1, min(pixels.shape[:2]) // DENSE)
    return pixels[every // 2 :: every, every // 2 :: every]


def plane(pixels: np.ndarray) -> Tensor:
    """[H, W, C], uint8 or uint16 → [H, W] in [0, 1], the luma."""
    return torch.from_numpy(to_channels(pixels, 1)[..., 0].astype(np.float32)) / np.iinfo(pixels.dtype).max


def standard(image: Tensor) -> Tensor:
    """A thumbnail [SIDE²] of mean 0 and norm 1; of a picture of one brightness, the same for all."""
    small = F.adaptive_avg_pool2d(image[None, None], SIDE).flatten()
    small = small - small.mean()
    return small / small.norm() if small.norm() > 1e-3 else torch.full_like(small, 1 / SIDE)


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two pictures [H, W] are one, but for what saving it again may change."""
    if one.shape != other.shape:
        return False
    if min(one.shape) < SMALL:
        return torch.equal(one, other)
    return differ_little(one, other)


def differ_little(one: Tensor, other: Tensor) -> bool:
    """Whether two pictures of one size, not flat, differ by no more than saving again changes."""
    return bool((one - other).square().mean() <= SAME * one.var())
