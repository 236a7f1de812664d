"""Pixels that a network is not shown: which ones, and what it is shown instead."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Fill = Literal["uniform", "median", "interpolated"]
CROSS = torch.tensor([[1.0, 2, 1], [2, 0, 2], [1, 2, 1]]) / 12


def hide(image: Tensor, hidden: Tensor, fill: Fill, window: int, generator: torch.Generator) -> Tensor:
    """[B, C, H, W] with other values in the pixels that ``hidden`` [B, 1, H, W] names.

    Args:
        image: what is shown elsewhere.
        hidden: no pixel of it in the window of another, or that one's value would show through.
        fill: ``uniform``: a pixel of the window, drawn at random; ``median``: of the window; ``interpolated``: from the
            eight neighbours. A network learns to mistrust the first like the pixel itself, and so it can be used on
            whole pictures; the other two it learns to trust, and networks that put out the picture less a residual then
            let the noise of the pixels through that nobody has hidden.
        window: side of the neighbourhood, odd.
        generator: of the random ones.
    """
    if fill == "interpolated":
        return torch.where(hidden, interpolated(image), image)
    around = surrounding(image, hidden, window)
    values = median(around) if fill == "median" else uniform(around, generator)
    return image.movedim(1, -1).masked_scatter(hidden.movedim(1, -1), values).movedim(-1, 1)


def require_fill(fill: str) -> None:
    """Raises ValueError unless there is such a fill."""
    if fill not in ("uniform", "median", "interpolated"):
        raise ValueError(f"fill={fill}: must be uniform, median or interpolated")


def grid(image: Tensor, side: int, place: int) -> Tensor:
    """[B, 1, H, W], true at one place of each cell of side × side pixels: 0 ≤ place < side²."""
    row, column = divmod(place, side)
    hidden = torch.zeros_like(image[:, :1], dtype=torch.bool)
    hidden[..., row::side, column::side] = True
    return hidden


def scattered(shape: torch.Size, side: int, apart: int, generator: torch.Generator) -> Tensor:
    """[B, 1, H, W], true at one random place of each cell of side × side pixels, more than ``apart`` from any other.

    The cells themselves begin at a random place, so that every pixel comes as often as any other.
    """
    batch, _, height, width = shape
    device = generator.device

    def drawn(high: int, *size: int) -> Tensor:
        return torch.randint(high, size, generator=generator, device=device)

    top, left = drawn(side, 2).tolist()
    rows, columns = (torch.arange(size, device=device) + start for size, start in ((height, top), (width, left)))
    cells = (batch, 1, (height + top) // side + 1, (width + left) // side + 1)
    row, column = (
        drawn(side - apart, *cells)[:, :, (rows // side)[:, None], (columns // side)[None]] for _ in range(2)
    )
    return (row == (rows % side)[:, None]) & (column == (columns % side))


def interpolated(image: Tensor) -> Tensor:
    """Each pixel from its eight neighbours, those beside it twice as much as those across; [B, C, H, W].

    At the border the picture is mirrored about its outermost pixels, which are no neighbours of themselves.
    """
    kernel = CROSS.to(image).expand(image.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(image, (1, 1, 1, 1), mode="reflect"), kernel, groups=image.shape[1])


def surrounding(image: Tensor, hidden: Tensor, window: int) -> Tensor:
    """The windows of the N pixels that ``hidden`` [B, 1, H, W] names, without these, [N, window² − 1, C].

    NaN beyond the picture.
    """
    middle = window**2 // 2
    places = torch.tensor([divmod(place, window) for place in range(window**2) if place != middle]).to(image.device)
    number, _, row, column = hidden.nonzero()[..., None].unbind(1)  # each [N, 1]
    padded = F.pad(image, (window // 2,) * 4, value=torch.nan)
    return padded[number, :, row + places[:, 0], column + places[:, 1]]


def median(around: Tensor) -> Tensor:
    """[N, K, C] → [N, C], of what is in the picture."""
    return around.nanquantile(0.5, dim=1)


def uniform(around: Tensor, generator: torch.Generator) -> Tensor:
    """[N, K, C] → [N, C], one of what is in the picture, the same for all channels."""
    chance = torch.rand(around[..., :1].shape, generator=generator, device=around.device)
    chosen = chance.masked_fill(around[..., :1].isnan(), -1).argmax(1, keepdim=True)
    return around.gather(1, chosen.expand(-1, 1, around.shape[2]))[:, 0]
