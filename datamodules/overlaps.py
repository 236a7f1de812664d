"""Training images that show a part of a test image: crops, also turned, mirrored or saved again. For catalog check."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.images import decode
from datamodules.leaks import plane, views

WINDOW = 12  # side, at half the resolution, of what is looked for
WINDOWS = 3  # of each training image, where there is most to see
NEAR = 0.85  # correlation of a window above which the whole overlap is compared
SAME = 0.95  # its correlation above which the pictures are one: what JPEG leaves is more
SMALLEST = 32  # pixels at each side of an overlap
SHIFT = 2  # pixels by which a place found at half the resolution may be off
KERNELS = 256  # at a time
FLAT = 1e-4  # variance below which there is nothing to see


def overlaps(train: Sequence[Path], test: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """A training image and a test image of which it shows a part, or all; every training image once at most."""
    kernels, origins = [], []
    for number, path in enumerate(train):
        for turn, view in enumerate(views(plane(decode(path)))):
            for top, left, window in windows(half(view)):
                kernels.append(window)
                origins.append((number, turn, top, left))
    if not kernels:
        return
    bank, found = torch.stack(kernels)[:, None], set()
    for path in test:
        image = plane(decode(path))
        for index, row, column in near(half(image), bank):
            number, turn, top, left = origins[index]
            if number in found:
                continue
            view = views(plane(decode(train[number])))[turn]
            if shows(view, image, 2 * (row - top), 2 * (column - left)):
                found.add(number)
                yield train[number], path


def half(image: Tensor) -> Tensor:
    """[H, W] → [H/2, W/2], smoothed, so that half a pixel's shift changes little."""
    smooth = F.avg_pool2d(F.pad(image[None, None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return F.avg_pool2d(smooth, 2)[0, 0]


def windows(image: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """Top, left and the standardised values [WINDOW, WINDOW] of the places where an image changes most."""
    if min(image.shape) < WINDOW:
        return
    field = image[None, None]
    means, squares = (F.avg_pool2d(values, WINDOW)[0, 0] for values in (field, field.square()))
    variance = squares - means.square()
    for place in variance.flatten().argsort(descending=True)[:WINDOWS].tolist():
        row, column = divmod(place, variance.shape[1])
        if variance[row, column] > FLAT:
            top, left = row * WINDOW, column * WINDOW
            window = image[top : top + WINDOW, left : left + WINDOW]
            window = window - window.mean()
            yield top, left, window / window.norm()


def near(image: Tensor, bank: Tensor) -> Iterator[tuple[int, int, int]]:
    """Number of the window, row and column of the place where an image [H, W] resembles it."""
    if min(image.shape) < WINDOW:
        return
    field, count = image[None, None], WINDOW**2
    ones = torch.ones(1, 1, WINDOW, WINDOW)
    total, squares = F.conv2d(field, ones), F.conv2d(field.square(), ones)
    norm = (squares - total.square() / count).clamp(min=count * FLAT).sqrt()
    for start in range(0, len(bank), KERNELS):
        likeness = (F.conv2d(field, bank[start : start + KERNELS]) / norm)[0].flatten(1)
        best, place = likeness.max(dim=1)
        for index in (best > NEAR).nonzero().flatten().tolist():
            yield (start + index, *divmod(int(place[index]), norm.shape[-1]))


def shows(view: Tensor, image: Tensor, row: int, column: int) -> bool:
    """Whether a picture, laid on an image with its corner near (row, column), shows what the image does there."""
    return any(
        alike(view, image, row + down, column + across)
        for down in range(-SHIFT, SHIFT + 1)
        for across in range(-SHIFT, SHIFT + 1)
    )


def alike(view: Tensor, image: Tensor, row: int, column: int) -> bool:
    """The same for one place."""
    top, left = max(row, 0), max(column, 0)
    bottom, right = min(row + view.shape[0], image.shape[0]), min(column + view.shape[1], image.shape[1])
    if min(bottom - top, right - left) < SMALLEST:
        return False
    one = view[top - row : bottom - row, left - column : right - column].flatten()
    other = image[top:bottom, left:right].flatten()
    return bool(torch.corrcoef(torch.stack([one, other]))[0, 1] > SAME)
