"""Training images that show a part of a test image: crops, also turned, mirrored or saved again. For catalog check."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.images import decode
from datamodules.leaks import differ_little, plane, views

WINDOW = 12  # side, at half the resolution, of what is looked for
WINDOWS = 3  # of each training image, where there is most to see
NEAR = 0.85  # correlation of a window above which it is looked at at full resolution
SAME = 0.95  # its correlation there above which the whole overlap is compared: what JPEG leaves is more
SMALLEST = 32  # pixels at each side of an overlap
SHIFT = 2  # pixels by which a place found at half the resolution may be off
KERNELS = 256  # at a time
KEPT = 1000  # decoded training images that are kept in memory
ABOUT = 1.25  # by which the norms of a window and of the same place in another file may differ
FLAT = 1e-4  # variance below which there is nothing to see


@dataclass(frozen=True)
class Window:
    """A place in a training image that is turned or mirrored in one of eight ways.

    Args:
        number, turn: of the image, and of the way.
        top, left: in the turned image.
        norm: at half the resolution, about the mean.
        coarse, fine: values, normalised, [WINDOW²] at half the resolution and [(2 · WINDOW)²] at all of it.
    """

    number: int
    turn: int
    top: int
    left: int
    norm: float
    coarse: Tensor
    fine: Tensor


def overlaps(train: Sequence[Path], test: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """A training image and a test image of which it shows a part, or all; every training image once at most."""

    @lru_cache(KEPT)
    def picture(number: int) -> Tensor:
        return plane(decode(train[number]))

    turned = ((number, turn, view) for number in range(len(train)) for turn, view in enumerate(views(picture(number))))
    bank = sorted((window for place in turned for window in windows(*place)), key=lambda window: window.norm)
    if not bank:
        return
    norms = torch.tensor([window.norm for window in bank])
    coarse, fine = torch.stack([window.coarse for window in bank]), torch.stack([window.fine for window in bank])
    found = set()
    for path in test:
        image = plane(decode(path))
        indices, rows, columns = near(half(image), coarse, norms)
        for index, row, column in exact(image, fine, indices, 2 * rows, 2 * columns):
            window = bank[index]
            if window.number in found:
                continue
            view = views(picture(window.number))[window.turn]
            if alike(view, image, row - window.top, column - window.left):
                found.add(window.number)
                yield train[window.number], path


def half(image: Tensor) -> Tensor:
    """[H, W] → [H/2, W/2], smoothed, so that half a pixel's shift changes little."""
    smooth = F.avg_pool2d(F.pad(image[None, None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return F.avg_pool2d(smooth, 2)[0, 0]


def windows(number: int, turn: int, view: Tensor) -> Iterator[Window]:
    """The places where a turned image [H, W] changes most."""
    image = half(view)
    if min(image.shape) < WINDOW:
        return
    field = image[None, None]
    means, squares = (F.avg_pool2d(values, WINDOW)[0, 0] for values in (field, field.square()))
    variance = squares - means.square()
    for place in variance.flatten().argsort(descending=True)[:WINDOWS].tolist():
        row, column = divmod(place, variance.shape[1])
        if variance[row, column] > FLAT:
            top, left = row * WINDOW, column * WINDOW
            coarse = image[top : top + WINDOW, left : left + WINDOW].flatten()
            top, left = 2 * top, 2 * left
            fine = view[top : top + 2 * WINDOW, left : left + 2 * WINDOW].flatten()
            norm = (coarse - coarse.mean()).norm().item()
            yield Window(number, turn, top, left, norm, normal(coarse, 0), normal(fine, 0))


def normal(values: Tensor, dim: int) -> Tensor:
    """Values of mean 0 and norm 1 along a dimension, so that their products are correlations."""
    values = values - values.mean(dim, keepdim=True)
    return values / values.norm(dim=dim, keepdim=True).clamp(min=1e-6)


def near(image: Tensor, bank: Tensor, norms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of the windows that an image [H, W] resembles somewhere; and the row and column where it does most.

    Args:
        image: in which is looked.
        bank: windows [N, WINDOW²], by their norms.
        norms: [N], ascending; only places of about that norm are looked at, which are few where windows change much.
    """
    nothing = torch.zeros(3, 0, dtype=torch.long)
    if min(image.shape) < WINDOW:
        return nothing[0], nothing[1], nothing[2]
    places = F.unfold(image[None, None], WINDOW)[0]  # [WINDOW², P]
    strengths, order = (places - places.mean(0)).norm(dim=0).sort()
    places, found = normal(places[:, order], 0), [nothing[:2]]
    for chunk in torch.arange(len(bank)).split(KERNELS):
        ends = torch.stack([norms[chunk[0]] / ABOUT, norms[chunk[-1]] * ABOUT])
        first, last = torch.searchsorted(strengths, ends).tolist()
        if first < last:
            best, place = (bank[chunk] @ places[:, first:last]).max(dim=1)
            found.append(torch.stack([chunk, order[first + place]])[:, best > NEAR])
    indices, place = torch.cat(found, 1)
    width = image.shape[1] - WINDOW + 1
    return indices, place // width, place % width


def exact(
    image: Tensor, bank: Tensor, indices: Tensor, rows: Tensor, columns: Tensor
) -> Iterator[tuple[int, int, int]]:
    """Those of the windows that an image [H, W] resembles near a place at all of its resolution, and where exactly.

    Args:
        image: in which is looked.
        bank: windows [N, (2 · WINDOW)²].
        indices, rows, columns: [K], of the windows, and where each may be, SHIFT pixels off.
    """
    side = 2 * WINDOW + 2 * SHIFT
    padded = F.pad(image[None, None], (SHIFT, SHIFT + 1, SHIFT, SHIFT + 1), mode="replicate")[0, 0]
    around = padded.unfold(0, side, 1).unfold(1, side, 1)  # [H', W', side, side]
    for part in torch.arange(len(indices)).split(KERNELS):
        blocks = F.unfold(around[rows[part], columns[part]][:, None], 2 * WINDOW)  # [K, (2 · WINDOW)², shifts]
        best, shift = torch.einsum("kn,kns->ks", bank[indices[part]], normal(blocks, 1)).max(dim=1)
        for one in (best > SAME).nonzero().flatten().tolist():
            down, across = divmod(int(shift[one]), 2 * SHIFT + 1)
            place = part[one]
            yield int(indices[place]), int(rows[place]) + down - SHIFT, int(columns[place]) + across - SHIFT


def alike(view: Tensor, image: Tensor, row: int, column: int) -> bool:
    """Whether a picture, laid on an image with its corner at (row, column), shows what the image does there."""
    top, left = max(row, 0), max(column, 0)
    bottom, right = min(row + view.shape[0], image.shape[0]), min(column + view.shape[1], image.shape[1])
    if min(bottom - top, right - left) < SMALLEST:
        return False
    return differ_little(view[top - row : bottom - row, left - column : right - column], image[top:bottom, left:right])
