"""How far a network sees: where its estimate is not a number when some of its input is not."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from denoisers.clips import reach_of

ALIGNMENT = 64  # tiles begin at its multiples: networks that halve the resolution, or see in windows, stay in phase
WIDTH = 1024 + ALIGNMENT  # of the strip on which it is tried, one row high
POSITIONS = 16  # neighbouring columns: networks that halve the resolution do not reach equally far from each

Network = Callable[..., Tensor]
_halos: "WeakKeyDictionary[Network, int | None]" = WeakKeyDictionary()


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


def halo_of(network: Network, channels: int) -> int | None:
    """How many pixels beyond itself a piece has to be shown if it is cut out at multiples of ``ALIGNMENT``; None: all.

    A network may say it of itself: by ``reach`` (see :mod:`denoisers.clips`); by ``receptive_field``, the side of a
    square, or ``whole_image = True``, if it sees all of it. Of others it is measured, once for each.
    """
    if reach := reach_of(network):
        return reach[1]
    if getattr(network, "whole_image", False):
        return None
    if field := getattr(network, "receptive_field", None):
        return math.ceil(field / 2)
    if network not in _halos:
        middle = WIDTH // 2 // ALIGNMENT * ALIGNMENT
        reached = _reached(network, channels, slice(middle, middle + ALIGNMENT))
        _halos[network] = None if reached is None else max(reached)
    return _halos[network]


@torch.inference_mode()
def _reached(network: Network, channels: int, columns: slice) -> tuple[int, int] | None:
    """How far before and behind these columns of the strip the estimate depends on them; None: to one of its ends."""
    weight = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    strip = torch.full((1, channels, 1, WIDTH), 0.5, device=None if weight is None else weight.device)
    strip[..., columns] = torch.nan
    # cuDNN's faster convolutions mix neighbours that have nothing to do with each other
    with evaluating(network), torch.backends.cudnn.flags(enabled=False):
        estimate = network(strip, torch.full((1, 1, 1, 1), 0.1, device=strip.device))
    found = estimate.isnan().any(dim=2).any(dim=1).flatten().nonzero()
    if not len(found):
        return 0, 0
    first, last = int(found[0]), int(found[-1])
    return None if first == 0 or last == WIDTH - 1 else (max(0, columns.start - first), max(0, last - columns.stop + 1))


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
