"""Clips: networks that see time are given them whole, networks of images their frames one by one."""

from collections.abc import Callable

from torch import Tensor


def frames(batch: Tensor) -> Tensor:
    """Images [B, C, H, W] as they are; clips [B, T, C, H, W] → their frames [B · T, C, H, W]."""
    return batch.flatten(0, -4)


def reach_of(network: Callable[..., Tensor]) -> tuple[int, int] | None:
    """The ``reach`` of a network that sees time: how many frames before and after, and how many pixels to each side, an
    estimate can depend on. None for a network of images, which has no such attribute."""
    return getattr(network, "reach", None)


def estimated(network: Callable[..., Tensor], noisy: Tensor, level: Tensor | None = None) -> Tensor:
    """Images [B, C, H, W] or clips [B, T, C, H, W] → the network's estimate, same shape."""
    if reach_of(network):
        return network(noisy, level)
    return network(frames(noisy), None if level is None else frames(level)).view_as(noisy)
