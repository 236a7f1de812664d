"""Noisy images that stay as they are: one realisation of the noise for the whole run, as a camera leaves it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from datamodules.images import to_tensor
from datamodules.noise.base import Noise, rms
from datamodules.realisation import drawn

VIEWS = ("noisy", "twin")


def realised(
    noise: Noise, images: Sequence[np.ndarray], seed: int, views: int
) -> tuple[list[tuple[np.ndarray, ...]], dict[str, Any]]:
    """The noisy views of clean images [H, W, C], and what :class:`datamodules.datasets.Crops` has to know of them."""
    found = [[fixed(noise, image, seed, view) for view in range(views)] for image in images]
    facts = [of_first for (_, of_first), *_ in found]
    return [tuple(view for view, _ in of_one) for of_one in found], {"views": VIEWS[:views], "facts": facts}


def fixed(noise: Noise, clean: np.ndarray, seed: int, view: int) -> tuple[np.ndarray, dict[str, Tensor]]:
    """A noisy view of a clean image [H, W, C], a function of the seed, the image and the view; drawn on the CPU.

    Returns:
        float32 [H, W, C]; and its ``level`` [1, 1, 1], the mean over the picture where it is a map, and the ``line``
        [2] of its variance, where the noise has one.
    """
    noisy, level, params = drawn(noise, to_tensor(clean), seed, view, {})
    line = noise.line(params)
    facts = {"level": rms(level.square())} | ({} if line is None else {"line": line[0]})
    return np.ascontiguousarray(noisy.permute(1, 2, 0).numpy()), facts
