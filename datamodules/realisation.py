"""How the noisy half of an evaluation pair is drawn: the corrupting half of a protocol.

Both ways draw on the CPU, one image at a time, so batch size, workers, device and the training seed cannot change it.
"""

import math
from copy import copy

import numpy as np
import torch
from torch import Tensor

from datamodules import seeds
from datamodules.noise.base import Noise, Params

ROWS = 64  # drawn at a time, which the numbers do not depend on


def drawn(noise: Noise, clean: Tensor, seed: int, draw: int, fields: Params) -> tuple[Tensor, Tensor, Params]:
    """Clean [C, H, W] in [0, 1], or a clip [T, C, H, W] → noisy, same shape, its level […, 1, 1, 1], what was drawn.

    Args:
        noise: which draws.
        clean: on the CPU, whose content is part of the seed.
        seed, draw: the others.
        fields: random fields in place of those that would be drawn.
    """
    noise = copy(noise)  # kornia's augmentations keep what they have drawn: here it goes with the copy
    with seeds.seeded(seeds.derive(seed, seeds.content(clean), draw), torch.device("cpu")):
        params = noise.draws(clean[None].shape) | fields
        noisy, level = noise.corrupt(clean[None], params)
    return noisy[0], level[0], params


class ContentSeeded:
    """The noise of an image is a function of ``eval_seed``, of the clean image itself, wherever it is filed, and of the
    number of the draw.

    Args:
        draws: how many realisations each image meets.
        quantize: whether the noisy image is what an 8-bit file would hold: clipped to [0, 1] and rounded.
    """

    def __init__(self, *, draws: int = 1, quantize: bool = False) -> None:
        if draws < 1:
            raise ValueError(f"draws={draws}: must be at least 1")
        self.draws, self.quantize = draws, quantize

    def __call__(self, noise: Noise, clean: Tensor, eval_seed: int, draw: int = 0) -> tuple[Tensor, Tensor]:
        """Clean [C, H, W] in [0, 1], or a clip [T, C, H, W] → noisy, same shape, and its level […, 1, 1, 1]."""
        noisy, level, _ = drawn(noise, clean, eval_seed, draw, self.fixed(clean))
        return (noisy.clamp(0, 1) * 255).round() / 255 if self.quantize else noisy, level

    def fixed(self, clean: Tensor) -> Params:
        """Random fields that the protocol prescribes."""
        return {}


class Kair(ContentSeeded):
    """KAIR's test noise: NumPy's legacy generator, re-seeded with 0 for each image, drawn in float64 as [H, W, C].

    KAIR defines Gaussian noise alone, of images: the frames of a clip draw one after the other. What other noises draw,
    and a σ drawn from a range, is content-seeded. There is one draw.
    """

    def __init__(self, *, quantize: bool = False) -> None:
        super().__init__(quantize=quantize)

    def fixed(self, clean: Tensor) -> Params:
        *clip, channels, height, width = clean.shape
        frames = math.prod(clip)
        field, generator = np.empty((frames * height, width, channels), clean.numpy().dtype), np.random.RandomState(0)
        for rows in (field[top : top + ROWS] for top in range(0, len(field), ROWS)):
            rows[...] = generator.standard_normal(rows.shape)
        return {"normal": torch.from_numpy(field).view(frames, height, width, channels).permute(0, 3, 1, 2)}
