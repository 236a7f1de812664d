"""How far a network sees: where its estimate is not a number when some of its input is not."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from denoisers.clips import reach_of

ALIGNMENT = 64  # of networks that halve the resolution, or see in windows, and do not say or show that less will do
WIDTH = 1024 + ALIGNMENT  # of the strip on which it is tried, one row high
POSITIONS = 16  # neighbouring columns: networks that halve the resolution do not reach equally far from each
TOLERANCE = 1e-5  # by which estimates may differ, of numbers up to 1

Network = Callable[..., Tensor]


class Sight(NamedTuple):
    """What a piece of a picture needs if it is to be estimated as in the whole picture.

    Attributes:
        halo: how many pixels beyond itself it is shown; None: nothing less than the whole picture will do.
        alignment: what is shown of it begins at multiples of so many pixels, counted from the picture's first, and ends
            there or with the picture: 1 for networks that treat all columns alike, 2 if they halve the resolution.
    """

    halo: int | None
    alignment: int = ALIGNMENT


_sights: "WeakKeyDictionary[Network, Sight]" = WeakKeyDictionary()


def receptive_field(network: Network, channels: int) -> int | None:
    """The side of the square of input pixels that an output pixel can depend on; None if it is the whole image.

    Measured along a strip; a network that sees one of its ends counts as seeing the whole image. What is not a number
    reaches whatever depends on it, however small the weights are, and be they zero.
    """
    reached: list[tuple[int, int]] = []
    for column in range(WIDTH // 2, WIDTH // 2 + POSITIONS):
        found = _reached(network, channels, slice(column, column + 1))
        if found is None:
            return None
        reached.append(found)
    return max(_side(reached, column) for column in range(POSITIONS))


def _side(reached: list[tuple[int, int]], column: int) -> int:
    """How many columns an output column depends on, from how far each of ``POSITIONS`` input columns reaches."""
    seen = [  # of the input columns n, n + POSITIONS, …, the first and the last whose reach covers it
        (column - after + (n - column + after) % POSITIONS, column + before - (column + before - n) % POSITIONS)
        for n, (before, after) in enumerate(reached)
    ]
    return max(last for _, last in seen) - min(first for first, _ in seen) + 1


def sight_of(network: Network, channels: int) -> Sight:
    """How far a network sees, and at what multiples pieces may be cut out.

    A network may say it of itself: by ``reach`` (see :mod:`denoisers.clips`); by ``receptive_field``, the side of a
    square, or ``whole_image = True``, if it sees all of it; and then by ``alignment``, which is else taken to be
    ``ALIGNMENT``. Of others both are measured, once for each.
    """
    alignment = getattr(network, "alignment", ALIGNMENT)
    if reach := reach_of(network):
        return Sight(reach[1], alignment)
    if getattr(network, "whole_image", False):
        return Sight(None)
    if field := getattr(network, "receptive_field", None):
        return Sight(math.ceil(field / 2), alignment)
    if network not in _sights:
        _sights[network] = _measured(network, channels)
    return _sights[network]


def halo_of(network: Network, channels: int) -> int | None:
    """How many pixels beyond itself a piece has to be shown, see :func:`sight_of`; None: all."""
    return sight_of(network, channels).halo


def _measured(network: Network, channels: int) -> Sight:
    """The sight of a network, its alignment at most ``ALIGNMENT``, or three times that if it has strides of three."""
    middle = WIDTH // 2 // ALIGNMENT * ALIGNMENT
    reached = _reached(network, channels, slice(middle, middle + ALIGNMENT))
    if reached is None:
        return Sight(None)
    halo = max(reached)
    # of these, how far it sees decides alone: kernels that round coarsely give other last digits elsewhere
    steps = (step for step in (ALIGNMENT, 3 * ALIGNMENT) if _kept(network, channels, halo, step, math.inf))
    if (step := next(steps, None)) is None:
        return Sight(None)
    while step % 2 == 0 and _kept(network, channels, halo, step // 2, TOLERANCE):
        step //= 2
    return Sight(halo, step)


def _reached(network: Network, channels: int, columns: slice) -> tuple[int, int] | None:
    """How far before and behind these columns of the strip the estimate depends on them; None: to one of its ends."""
    strip = torch.full((1, channels, 1, WIDTH), 0.5)
    strip[..., columns] = torch.nan
    found = _estimate(network, strip).isnan().any(dim=2).any(dim=1).flatten().nonzero()
    if not len(found):
        return 0, 0
    first, last = int(found[0]), int(found[-1])
    return None if first == 0 or last == WIDTH - 1 else (max(0, columns.start - first), max(0, last - columns.stop + 1))


def _kept(network: Network, channels: int, halo: int, step: int, tolerance: float) -> bool:
    """Whether a piece that is cut out at multiples of ``step`` is estimated as in the whole strip, up to a tolerance.

    The strip is noise, and at both ends, as far as two steps into the piece, not a number: how far that reaches tells a
    network's phases apart even if its weights, as yet, are zero.
    """
    unit = math.lcm(step, ALIGNMENT)  # few shapes, because convolutions are slow with each new one
    length = math.ceil((2 * halo + 5 * unit) / unit) * unit
    start, stop, width = step, step + length, length + 2 * unit + 1  # odd: no multiple of what networks pad to
    strip = torch.rand(1, channels, 1, width, generator=torch.Generator().manual_seed(0))
    strip[..., : start + 2 * step] = strip[..., stop - 2 * step :] = torch.nan
    whole = _estimate(network, strip)[..., start + halo : stop - halo]
    piece = _estimate(network, strip[..., start:stop].contiguous())[..., halo : length - halo]
    scale = max(1.0, float(whole.nan_to_num().abs().max()))
    return torch.allclose(piece, whole, rtol=0, atol=tolerance * scale, equal_nan=True)


@torch.inference_mode()
def _estimate(network: Network, strip: Tensor) -> Tensor:
    """The network's estimate of a strip, on the network's device."""
    weight = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    strip = strip.to(None if weight is None else weight.device)
    # cuDNN's faster convolutions mix neighbours that have nothing to do with each other
    with evaluating(network), torch.backends.cudnn.flags(enabled=False):
        return network(strip, torch.full((1, 1, 1, 1), 0.1, device=strip.device))


@contextmanager
def evaluating(network: Network) -> Iterator[None]:
    """Within it the network is in evaluation mode: its norms must not learn from what is not a number."""
    modes = {module: module.training for module in network.modules()} if isinstance(network, nn.Module) else {}
    try:
        for module in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
