"""No noise: for pairs, which bring their own, and for looking at what a network does to clean images."""

from typing import Any

from torch import Tensor

from datamodules.noise.base import Noise, Params


class NoNoise(Noise):
    """noisy = clean. What pictures that bring their own noise can be relied on for is taken on trust."""

    properties = frozenset({"independent", "unbiased", "stein"})

    def apply_transform(
        self, input: Tensor, params: Params, flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        return input.clone()

    def level(self, clean: Tensor, params: Params) -> Tensor:
        return clean.new_zeros(len(clean), 1, 1, 1)
