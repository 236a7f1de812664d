"""Learning pixels from what is around them."""

from typing import Literal

import torch
from torch import Tensor, nn

from denoisers.objectives.base import Batch, Learnt, Network, Objective, generator
from denoisers.objectives.blindspots import median, scattered, surrounding, uniform


class Noise2Void(Objective):
    """Some pixels are replaced by what their neighbourhood says; the network is to find what stood there.

    Krull, Buchholz and Jug, "Noise2Void: Learning Denoising from Single Noisy Images", CVPR 2019: by a pixel of the
    neighbourhood, drawn at random, never the pixel itself. Höck, Buchholz, Brachmann, Jug and Freytag, "N2V2: Fixing
    Noise2Void Checkerboard Artifacts with Modified Sampling Strategies and a Tweaked Network Architecture", ECCV
    Workshops 2022: by the neighbourhood's median, which shows no noise of its own (their changes of the network are a
    network's business). The loss is taken at the replaced pixels alone, one of each cell.

    Assumes noise that is independent from pixel to pixel and whose mean is the clean image. Needs noisy images alone:
    views 1, realisation fixed.

    Args:
        cell: side of the cells in pixels, of which each has one replaced pixel; 16 would be the 0.4 % of papers.
        window: side of the neighbourhood, odd, and less than twice the cell's. No replaced pixel lies in another's.
        replacement: ``uniform`` or ``median``.

    Raises:
        ValueError: an even window or one below 3, a cell that is too small for it, another replacement.
    """

    assumes = frozenset({"independent", "unbiased"})

    def __init__(self, *, cell: int = 8, window: int = 5, replacement: Literal["uniform", "median"] = "median") -> None:
        super().__init__()
        if window < 3 or window % 2 == 0:
            raise ValueError(f"window={window}: must be odd and at least 3")
        if cell <= window // 2:
            raise ValueError(f"cell={cell}: must be above window // 2 = {window // 2}, so that windows keep clear")
        if replacement not in ("uniform", "median"):
            raise ValueError(f"replacement={replacement}: must be uniform or median")
        self.cell, self.window, self.replacement = cell, window, replacement

    def forward(self, network: Network, batch: Batch, loss: nn.Module, progress: float) -> Learnt:
        noisy = batch["noisy"]
        hidden, shown = self.hide(noisy, generator(batch))
        estimate = network(shown, batch["level"]).float()
        hidden = hidden.expand_as(noisy)
        return Learnt(loss(estimate[hidden], noisy[hidden]), estimate)

    def hide(self, noisy: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] → which pixels are hidden, [B, 1, H, W], and what is shown."""
        hidden = scattered(noisy.shape, self.cell, self.window // 2, random)
        around = surrounding(noisy, hidden, self.window)
        values = median(around) if self.replacement == "median" else uniform(around, random)
        return hidden, noisy.movedim(1, -1).masked_scatter(hidden.movedim(1, -1), values).movedim(-1, 1)
