"""Noisy images that stay as they are: one realisation of the noise for the whole run, as a camera leaves it."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules import seeds
from datamodules.images import to_tensor
from datamodules.noise.base import Noise, rms


class Fixed(NamedTuple):
    """A training image, noisy once and for all.

    Args:
        views: ``noisy``, ``twin`` → [H, W, C] float32.
        facts: ``level`` [1, 1, 1], the mean over the picture where it is a map; ``line`` [2], where the noise has one.
    """

    views: dict[str, np.ndarray]
    facts: dict[str, Tensor]


def fixed(noise: Noise, clean: np.ndarray, seed: int, views: int) -> Fixed:
    """The noisy views of a clean image [H, W, C], a function of the seed and the image itself; drawn on the CPU."""
    image = to_tensor(clean)
    found: dict[str, np.ndarray] = {}
    facts: dict[str, Tensor] = {}
    for name, number in zip(("noisy", "twin")[:views], range(views), strict=True):
        with seeds.seeded(seeds.derive(seed, seeds.content(image), number), torch.device("cpu")):
            params = noise.draws(image[None].shape)
            noisy, level = noise.corrupt(image[None], params)
        found[name] = np.ascontiguousarray(noisy[0].permute(1, 2, 0).numpy())
        if not facts:
            facts = {"level": rms(level[0].square())}
            if (line := noise.line(params)) is not None:
                facts["line"] = line[0]
    return Fixed(found, facts)
