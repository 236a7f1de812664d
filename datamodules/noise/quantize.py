"""What files and screens do to numbers: fewer values, and none below black or above white."""

from typing import Any

from torch import Tensor

from datamodules.noise.base import Noise, Params


class Quantize(Noise):
    """noisy = the nearest of the 2^bits values from 0 to 1; what lies outside is clipped. The level is measured.

    Args:
        bits: from 1 to 16.
    """

    properties = frozenset({"independent"})  # what is cut off on one side moves the mean

    def __init__(self, *, bits: int = 8) -> None:
        super().__init__()
        if not 1 <= bits <= 16:
            raise ValueError(f"bits={bits}: must be from 1 to 16")
        self.steps = 2**bits - 1

    def apply_transform(
        self, input: Tensor, params: Params, flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        return input.clamp(0, 1).mul_(self.steps).round_().div_(self.steps)


class Clip(Noise):
    """noisy = the picture without what is below 0 or above 1. The level is measured."""

    properties = frozenset({"independent"})  # what is cut off on one side moves the mean

    def apply_transform(
        self, input: Tensor, params: Params, flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        return input.clamp(0, 1)
