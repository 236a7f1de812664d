"""Pictures and videos too large for the memory that a network takes, piece by piece."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from denoisers.clips import estimated, reach_of

ALIGNMENT = 32  # tiles begin at its multiples: networks that halve the resolution, up to five times, stay aligned
FRAMES = 4  # tiles that a network that sees time may hold at once; with more frames, tiles are smaller


def tiled(
    network: Callable[..., Tensor],
    noisy: Tensor,
    level: Tensor | None = None,
    *,
    tile: int = 832,
    halo: int = 48,
    window: int = 8,
) -> Tensor:
    """The network's estimate, [B, C, H, W] → the same; of a picture above ``tile``² pixels put together from tiles.

    Neighbouring tiles overlap by twice the halo, of which each keeps its half; where the picture ends, so does the
    tile, and the network sees that border as in the whole picture. The result is that of the whole picture up to
    rounding for networks in which no pixel reaches further than the halo. Reaches measured: DnCNN 17, DnCNN-B 20,
    xDnCNN 41, U-Net 47 pixels; by their layers IRCNN 16, ADNet and FDnCNN 20, FFDNet 31. Others differ along the seams,
    U-Net with xUnits (223) or five resolutions (95) and DRUNet (about 190) too; a trained Swift (90), by 0.03 of 255.

    A network that says of itself that it is ``whole`` is given the whole picture, whatever its size.

    The frames of clips [B, T, C, H, W] are estimated one by one; by a network that says how far it sees in time and
    space (``reach``), in windows of frames, which overlap by as many frames as it sees, and tiles that overlap by as
    many pixels. The result is that of the whole clip up to rounding.

    A tile takes 0.2 GB for each 64-feature map, of which DnCNN holds two and xDnCNN three; a window of frames at most
    four times that. Tiles of a 12-megapixel picture have 1.29 times its pixels.

    Args:
        network: ``network(noisy, level) -> estimate``, in evaluation mode.
        noisy: in [0, 1].
        level: its standard deviation [B, 1, 1, 1], or a map [B, 1, H, W], which is cut likewise; of clips
            [B, T, 1, 1, 1] or [B, T, 1, H, W].
        tile: the longest side of a tile, its halos included: a multiple of 32 pixels, above 2 · halo.
        halo: a multiple of 16 pixels; a network's ``reach`` takes its place.
        window: how many frames of a clip are estimated at once.
    """
    reach = reach_of(network)
    beyond, halo = (reach[0], math.ceil(reach[1] / 16) * 16) if reach else (0, halo)
    if noisy.ndim == 4:
        return in_space(network, noisy, level, tile, halo)
    parts = []
    for seen, kept in windows(noisy.shape[1], window if reach else 1, beyond):
        clip, levels = noisy[:, seen], None if level is None else level[:, seen]
        smaller = math.floor(tile * min(1, math.sqrt(FRAMES / clip.shape[1])) / ALIGNMENT) * ALIGNMENT
        side = max(smaller, 2 * halo + ALIGNMENT)
        parts.append(in_space(network, clip, levels, side, halo)[:, kept])
    return torch.cat(parts, dim=1)


def in_space(network: Callable[..., Tensor], noisy: Tensor, level: Tensor | None, tile: int, halo: int) -> Tensor:
    """Pictures or clips, of which each frame is whole or put together from tiles, see :func:`tiled`."""
    height, width = noisy.shape[-2:]
    if height * width <= tile**2 or getattr(network, "whole", False):
        return estimated(network, noisy, level)
    mapped = level is not None and level.shape[-2:] == noisy.shape[-2:]
    estimate = torch.empty_like(noisy)
    for rows, to_rows, from_rows in spans(height, tile, halo):
        for columns, to_columns, from_columns in spans(width, tile, halo):
            cut = noisy[..., rows, columns].contiguous()  # or convolutions would choose slower ways
            cut_level = level[..., rows, columns] if level is not None and mapped else level
            part = estimated(network, cut, cut_level)
            estimate[..., to_rows, to_columns] = part[..., from_rows, from_columns]
    return estimate


def windows(length: int, window: int, beyond: int) -> Iterator[tuple[slice, slice]]:
    """The windows along a clip of ``length`` frames: what each sees, and which of these it keeps.

    Each keeps ``window`` frames and sees as many ``beyond`` on either side, where the clip has them.
    """
    if length <= window + 2 * beyond:
        window = length
    for start in range(0, length, window):
        stop, first = min(start + window, length), max(0, start - beyond)
        yield slice(first, min(stop + beyond, length)), slice(start - first, stop - first)


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
