"""Learning functions that do not use the pixel they predict."""

import torch
from torch import nn

from denoisers.objectives.base import Batch, Learnt, Network, Objective, generator
from denoisers.objectives.blindspots import Fill, grid, hide, require_fill


class Noise2Self(Objective):
    """The pixels of one place of a grid are replaced by neighbours of theirs; the network is to find what they were.

    Batson and Royer, "Noise2Self: Blind Denoising by Self-Supervision", ICML 2019: the network of pictures so masked
    is J-invariant, its estimate of a masked pixel independent of that pixel, and then its loss against the noisy
    picture is that against the clean one plus the noise's variance.

    Deviations: what is saved is the network itself, which sees every pixel, as the authors also evaluate it; a masked
    pixel becomes one of its neighbours by chance and not their mean, see :func:`denoisers.objectives.blindspots.hide`;
    and it is a random place of the grid at each step, not each in turn.

    Assumes noise that is independent from pixel to pixel and whose mean is the clean image. Needs noisy images alone:
    views 1, realisation fixed.

    Args:
        side: of the grid's cells in pixels, each of which has one masked pixel.
        fill: what is shown there: ``uniform``, ``median`` or ``interpolated``.

    Raises:
        ValueError: a side below 2, another fill.
    """

    assumes = frozenset({"independent", "unbiased"})

    def __init__(self, *, side: int = 3, fill: Fill = "uniform") -> None:
        super().__init__()
        if side < 2:
            raise ValueError(f"side={side}: must be at least 2, or masked pixels would be each other's neighbours")
        require_fill(fill)
        self.side, self.fill = side, fill

    def forward(self, network: Network, batch: Batch, loss: nn.Module, progress: float) -> Learnt:
        noisy, random = batch["noisy"], generator(batch)
        place = int(torch.randint(self.side**2, (), generator=random, device=random.device))
        masked = grid(noisy, self.side, place)
        estimate = network(hide(noisy, masked, self.fill, 3, random), batch["level"]).float()
        masked = masked.expand_as(noisy)
        return Learnt(loss(estimate[masked], noisy[masked]), estimate)
