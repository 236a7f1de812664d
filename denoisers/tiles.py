"""Pictures too large for the memory that a network takes, tile by tile."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

ALIGNMENT = 32  # tiles begin at its multiples: networks that halve the resolution, up to five times, stay aligned


def tiled(
    network: Callable[..., Tensor], noisy: Tensor, level: Tensor | None = None, *, tile: int = 832, halo: int = 48
) -> Tensor:
    """The network's estimate, [B, C, H, W] → the same; of a picture above ``tile``² pixels put together from tiles.

    Neighbouring tiles overlap by twice the halo, of which each keeps its half; where the picture ends, so does the
    tile, and the network sees that border as in the whole picture. The result is that of the whole picture up to
    rounding for networks in which no pixel reaches further than the halo. Reaches measured: DnCNN 17, DnCNN-B 20,
    xDnCNN 41, U-Net 47 pixels; by their layers IRCNN 16, ADNet and FDnCNN 20, FFDNet 31. Others differ along the seams,
    U-Net with xUnits (223) or five resolutions (95) and DRUNet (about 190) too; a trained Swift (90), by 0.03 of 255.

    A network that says of itself that it is ``whole`` is given the whole picture, whatever its size. The frames of
    clips [B, T, C, H, W] are estimated one by one.

    A tile takes 0.2 GB for each 64-feature map, of which DnCNN holds two and xDnCNN three. Tiles of a 12-megapixel
    picture have 1.29 times its pixels.

    Args:
        network: ``network(noisy, level) -> estimate``, in evaluation mode.
        noisy: in [0, 1].
        level: its standard deviation [B, 1, 1, 1], or a map [B, 1, H, W], which is cut likewise.
        tile: the longest side of a tile, its halos included: a multiple of 32 pixels, above 2 · halo.
        halo: a multiple of 16 pixels.
    """
    if noisy.ndim == 5:
        levels = [None] * noisy.shape[1] if level is None else level.unbind(1)
        frames = zip(noisy.unbind(1), levels, strict=True)
        return torch.stack([tiled(network, *frame, tile=tile, halo=halo) for frame in frames], 1)
    height, width = noisy.shape[-2:]
    if height * width <= tile**2 or getattr(network, "whole", False):
        return network(noisy, level)
    mapped = level is not None and level.shape[-2:] == noisy.shape[-2:]
    estimate = torch.empty_like(noisy)
    for rows, to_rows, from_rows in spans(height, tile, halo):
        for columns, to_columns, from_columns in spans(width, tile, halo):
            cut = noisy[..., rows, columns].contiguous()  # or convolutions would choose slower ways
            cut_level = level[..., rows, columns] if level is not None and mapped else level
            estimate[..., to_rows, to_columns] = network(cut, cut_level)[..., from_rows, from_columns]
    return estimate


def spans(length: int, tile: int, halo: int) -> Iterator[tuple[slice, slice, slice]]:
    """The tiles along a side of ``length`` pixels: what each sees; what it gives, in the picture and in the tile.

    They are about equally long, at most ``tile``, and begin and end at multiples of 32 or where the picture does.
    """
    inner = max(1, length - 2 * halo)
    step = math.ceil(inner / math.ceil(inner / (tile - 2 * halo)) / ALIGNMENT) * ALIGNMENT
    for start in range(0, inner, step):
        stop = min(start + step + 2 * halo, length)
        first, last = start + halo if start else 0, stop - halo if stop < length else length
        yield slice(start, stop), slice(first, last), slice(first - start, last - start)
