"""Pictures and videos too large for the memory that a network takes, piece by piece."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from denoisers.clips import estimated, reach_of
from denoisers.memory import is_out_of_memory, side_that_fits
from denoisers.receptive import ALIGNMENT, Network, Sight, sight_of
from denoisers.views import UPRIGHT, View

WHOLE = 512  # side of a square of pixels that is given whole without asking how much memory there is
FRAMES = 4  # tiles of a given size that a network that sees time may hold at once; with more frames, they are smaller
BLEND = 64  # pixels on each side of a tile in which it is blended with the next
T = TypeVar("T")
log = logging.getLogger(__name__)


class Plan:
    """How pictures are cut into pieces, and what the network is shown for each.

    Args:
        tile: the longest side of what the network is shown, a multiple of the alignment.
        halo: how many pixels a piece is shown beyond itself, see :func:`rounded`; None: they overlap, and are blended.
        alignment: what is shown begins at its multiples, see :class:`denoisers.receptive.Sight`.
        cut: whether the picture is cut at all.
    """

    def __init__(self, tile: int, halo: int | None, alignment: int = ALIGNMENT, cut: bool = True) -> None:
        self.tile, self.halo, self.alignment, self.cut = tile, halo, alignment, cut

    @property
    def blended(self) -> bool:
        """Whether the estimate of a picture that is cut differs from that of the whole one."""
        return self.halo is None

    def pieces(self, length: int) -> list[slice]:
        """The pieces along a side: equally long but for the last, and what is seen of them is aligned.

        Together they are the side; those that are blended overlap by twice ``BLEND``.
        """
        if length <= self.tile:
            return [slice(0, length)]
        beyond = BLEND if self.halo is None else self.halo
        inner = length - 2 * beyond
        step = multiple(inner / math.ceil(inner / (self.tile - 2 * beyond)), self.alignment)
        edge = 0 if self.halo is None else self.halo
        return [
            slice(start + edge if start else 0, length if start + step >= inner else start + step + 2 * beyond - edge)
            for start in range(0, inner, step)
        ]

    def seen(self, piece: slice, length: int, turned: bool = False) -> slice:
        """What the network is shown for a piece of a side, which it may see turned round: aligned as it sees it."""
        start, stop = (length - piece.stop, length - piece.start) if turned else (piece.start, piece.stop)
        start = max(0, start - (self.halo or 0)) // self.alignment * self.alignment
        stop = min(length, multiple(stop + (self.halo or 0), self.alignment))
        return slice(length - stop, length - start) if turned else slice(start, stop)


def multiple(length: float, unit: int) -> int:
    """The next multiple of a unit."""
    return math.ceil(length / unit) * unit


def plan_for(
    network: Network,
    channels: int,
    size: Sequence[int],
    device: torch.device,
    *,
    tile: int | None = None,
    halo: int | None = None,
    frames: int = 1,
    exact: bool = True,
) -> Plan:
    """How a picture, or the frames of a clip, of a size (height, width) are cut for a network.

    Args:
        tile: the side of a tile; None: the largest that fits into memory, see :func:`side_that_fits`.
        halo: None: as far as the network sees, and aligned as it needs it, see :func:`sight_of`.
        frames: how many the network is shown at once.
        exact: whether a given tile that is too small for the halo is made larger; else its borders are blended.
    """
    pixels = math.prod(size)
    whole = Plan(multiple(max(size), ALIGNMENT), halo=0, cut=False)
    if getattr(network, "whole", False) or (tile is None and pixels * frames <= WHOLE**2):
        return whole
    sight = sight_of(network, channels) if halo is None else Sight(halo)
    if tile is None:
        tile, exact = largest_tile(network, channels, device, sight, frames), False
    else:
        tile = math.floor(tile * min(1, math.sqrt(FRAMES / frames)))
    if pixels <= tile**2:
        return whole
    least = least_tile(sight)
    if tile >= least or exact:
        return Plan(max(tile // sight.alignment * sight.alignment, least), rounded(sight), sight.alignment)
    return Plan(max(tile // ALIGNMENT * ALIGNMENT, least_tile(Sight(None))), halo=None)


def rounded(sight: Sight) -> int | None:
    """The halo with which what is shown of neighbours is aligned: twice it is a multiple of the alignment."""
    halo, alignment = sight
    return None if halo is None else multiple(halo, alignment if alignment % 2 else alignment // 2)


def least_tile(sight: Sight) -> int:
    """The side of the smallest tile: two halos and ``ALIGNMENT`` pixels between them; without a halo, to be blended."""
    halo = rounded(sight)
    return 4 * BLEND if halo is None else multiple(2 * halo + ALIGNMENT, sight.alignment)


def largest_tile(network: Network, channels: int, device: torch.device, sight: Sight, frames: int = 1) -> int:
    """The side of the largest tile that fits into memory, see :func:`side_that_fits`."""
    side = side_that_fits(network, channels, device, least=2 * least_tile(sight), frames=frames)
    return side // sight.alignment * sight.alignment


def halving(run: Callable[[Plan], T], plan: Plan, smaller: Callable[[int], Plan]) -> tuple[T, Plan]:
    """What ``run`` returns, and the plan with which it did: where memory runs out, tiles of half the side are tried."""
    while True:
        try:
            return run(plan), plan
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or plan.tile <= 4 * BLEND:
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        plan = smaller(max(4 * BLEND, plan.tile // 2))
        log.warning(f"out of memory: going on with tiles of {plan.tile} pixels")


def tiled(
    network: Network,
    noisy: Tensor,
    level: Tensor | None = None,
    *,
    tile: int | None = None,
    halo: int | None = None,
    window: int = 8,
) -> Tensor:
    """The network's estimate, [B, C, H, W] → the same; of a picture too large for memory put together from tiles.

    A piece is shown to the network with as much beyond it as the network sees (its halo); where the picture ends, so
    does the tile, and the network sees that border as in the whole picture. The result is that of the whole picture up
    to rounding. Tiles of networks that see the whole picture, which pool it or attend to all of it, take it for
    the whole: they overlap by 128 pixels, in which one fades into the other. Where memory runs out tiles are halved; if
    they become too small for what a network sees, they are blended, too.

    A network that says of itself that it is ``whole`` is given the whole picture, whatever its size.

    The frames of clips [B, T, C, H, W] are estimated one by one; by a network that says how far it sees in time and
    space (``reach``), in windows of frames, which overlap by as many frames as it sees, and tiles that overlap by as
    many pixels. The result is that of the whole clip up to rounding.

    Args:
        network: ``network(noisy, level) -> estimate``.
        noisy: in [0, 1].
        level: its standard deviation [B, 1, 1, 1], or a map [B, 1, H, W], which is cut likewise; of clips
            [B, T, 1, 1, 1] or [B, T, 1, H, W].
        tile: the side of a tile, its halos included; pictures of up to as many pixels go whole; one too small for the
            halo is made larger. None: the largest that fits.
        halo: pixels; None: as far as the network sees.
        window: how many frames of a clip are estimated at once.
    """
    reach = reach_of(network)
    if noisy.ndim == 4:
        return in_space(network, noisy, level, tile, halo)
    parts = []
    for seen, kept in windows(noisy.shape[1], window if reach else 1, reach[0] if reach else 0):
        levels = None if level is None else level[:, seen]
        parts.append(in_space(network, noisy[:, seen], levels, tile, halo)[:, kept])
    return torch.cat(parts, dim=1)


def in_space(network: Network, noisy: Tensor, level: Tensor | None, tile: int | None, halo: int | None) -> Tensor:
    """Pictures or clips, of which each frame is whole or put together from tiles, see :func:`tiled`."""

    def planned(side: int | None, exact: bool) -> Plan:
        frames = noisy.shape[1] if noisy.ndim == 5 else 1
        size, device = noisy.shape[-2:], noisy.device
        return plan_for(network, noisy.shape[-3], size, device, tile=side, halo=halo, frames=frames, exact=exact)

    def run(plan: Plan) -> Tensor:
        if not plan.cut:
            return estimated(network, noisy, level)
        estimate = torch.empty_like(noisy)
        for rows, part in bands(network, noisy, level, plan):
            estimate[..., rows, :] = part
        return estimate

    return halving(run, planned(tile, exact=True), lambda side: planned(side, exact=False))[0]


def bands(
    estimate: Network,
    noisy: Tensor,
    level: Tensor | None,
    plan: Plan,
    views: Sequence[View] = UPRIGHT,
    prepare: Callable[[Tensor], Tensor] = Tensor.contiguous,
) -> Iterator[tuple[slice, Tensor]]:
    """The estimate from top to bottom: rows of the picture, and what they become, [..., C, rows, W].

    Args:
        estimate: of what ``prepare`` makes of a tile of ``noisy``, and its level; same shape.
        views: in which each tile is shown; their estimates' mean is taken.
        prepare: contiguous, or convolutions would choose slower ways.
    """
    height, width = noisy.shape[-2:]
    mapped = level is not None and level.shape[-2:] == noisy.shape[-2:]

    def piece(row: slice, column: slice) -> Tensor:
        total: Tensor | None = None
        for view in views:
            rows, columns = plan.seen(row, height, view.rows), plan.seen(column, width, view.columns)
            cut = view.of(prepare(noisy[..., rows, columns])).contiguous()
            cut_level = view.of(level[..., rows, columns]) if level is not None and mapped else level
            found = view.undo(estimated(estimate, cut, cut_level))
            found = found[..., shifted(row, rows.start), shifted(column, columns.start)]
            total = found if total is None else total + found
        assert total is not None  # there is at least one view
        return total / len(views) if len(views) > 1 else total

    columns = plan.pieces(width)
    fading: Tensor | None = None  # the rows that a band shares with the next one
    for row, above, below in neighbours(plan.pieces(height)):
        if len(columns) == 1:
            band = piece(row, columns[0])
        else:
            parts = ((column, piece(row, column), before, after) for column, before, after in neighbours(columns))
            band = joined(parts, width)
        done = below.start if below else height
        if plan.blended:
            band = band * faded(row, above, below, band)[:, None]
            if above and fading is not None:
                band[..., : fading.shape[-2], :] += fading
            fading = band[..., done - row.start :, :].clone()
        yield slice(row.start, done), band[..., : done - row.start, :]


def joined(parts: Iterable[tuple[slice, Tensor, slice | None, slice | None]], width: int) -> Tensor:
    """Pieces beside one another, each with its place and those of its neighbours, as one [..., width]."""
    whole: Tensor | None = None
    for place, part, before, after in parts:
        if whole is None:
            whole = part.new_zeros(*part.shape[:-1], width)
        whole[..., place] += part * faded(place, before, after, part)
    assert whole is not None  # there is at least one piece
    return whole


def faded(piece: slice, before: slice | None, after: slice | None, like: Tensor) -> Tensor:
    """The weights along a piece: 1, but where it overlaps its neighbours, with whose weights they add up to 1."""
    weights = like.new_ones(piece.stop - piece.start)
    for shared, turned in ((before and before.stop - piece.start, False), (after and piece.stop - after.start, True)):
        if shared:
            rise = torch.sin((torch.arange(shared, device=like.device) + 0.5) * (math.pi / 2 / shared)) ** 2
            weights[slice(-shared, None) if turned else slice(shared)] *= (rise.flip(0) if turned else rise).to(weights)
    return weights


def neighbours(pieces: Sequence[slice]) -> Iterator[tuple[slice, slice | None, slice | None]]:
    """Each piece with the one before and the one after it."""
    return zip(pieces, [None, *pieces[:-1]], [*pieces[1:], None], strict=True)


def shifted(piece: slice, origin: int) -> slice:
    """The same piece counted from an origin."""
    return slice(piece.start - origin, piece.stop - origin)


def windows(length: int, window: int, beyond: int) -> Iterator[tuple[slice, slice]]:
    """The windows along a clip of ``length`` frames: what each sees, and which of these it keeps.

    Each keeps ``window`` frames and sees as many ``beyond`` on either side, where the clip has them.
    """
    if length <= window + 2 * beyond:
        window = length
    for start in range(0, length, window):
        stop, first = min(start + window, length), max(0, start - beyond)
        yield slice(first, min(stop + beyond, length)), slice(start - first, stop - first)
