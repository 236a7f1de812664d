"""Learning behind masks that leave no pixel out, and then to use the pixels themselves, too."""

import torch
from torch import nn

from denoisers.objectives.base import Batch, Learnt, Network, Objective, generator
from denoisers.objectives.blindspots import Fill, grid, hide, require_fill


class Blind2Unblind(Objective):
    """loss(h + λ f, (λ + 1) noisy) + η · loss(h, noisy), at masked pixels.

    Wang, Liu, Li and Han, "Blind2Unblind: Self-Supervised Image Denoising with Visible Blind Spots", CVPR 2022. h is
    the estimate of pictures in which the pixels of one place of a grid are replaced by neighbours of theirs, read at
    these pixels; f that of the whole picture, whose gradient is not followed. The first term is least where the network
    finds the best mixture of what a pixel shows and what its neighbourhood says; the second keeps h itself near. λ
    grows with the run.

    Deviations: of the side² masks of the paper ``masks`` are drawn at each step, whose loss is that of all of them in
    expectation; a masked pixel becomes one of its neighbours by chance and not their weighted mean, see
    :func:`denoisers.objectives.blindspots.hide`; λ grows in proportion to the steps, to 2 where the paper has 20: the
    target's noise grows with 1 + λ, which short runs do not average out.

    Assumes noise that is independent from pixel to pixel and whose mean is the clean image. Needs noisy images alone:
    views 1, realisation fixed.

    Args:
        side: of the grid's cells in pixels.
        masks: how many of the grid's places are masked at a step, each in a picture of its own.
        visible: λ at the beginning and at the end of the run.
        eta: weight of the second term.
        fill: what is shown at masked pixels: ``uniform``, ``median`` or ``interpolated``.

    Raises:
        ValueError: a side below 2, more masks than places, a negative weight, another fill.
    """

    assumes = frozenset({"independent", "unbiased"})

    def __init__(
        self,
        *,
        side: int = 2,
        masks: int = 1,
        visible: tuple[float, float] = (0.0, 2.0),
        eta: float = 1.0,
        fill: Fill = "uniform",
    ) -> None:
        super().__init__()
        if side < 2:
            raise ValueError(f"side={side}: must be at least 2, or no pixel would be left to see")
        if not 1 <= masks <= side**2:
            raise ValueError(f"masks={masks}: must be from 1 to side² = {side**2}")
        self.visible = tuple(visible)
        if len(self.visible) != 2 or min(*self.visible, eta) < 0:
            raise ValueError(f"visible={visible}, eta={eta}: two weights and one, none of them negative")
        require_fill(fill)
        self.side, self.masks, self.eta, self.fill = side, masks, eta, fill

    def forward(self, network: Network, batch: Batch, loss: nn.Module, progress: float) -> Learnt:
        noisy, level = batch["noisy"], batch["level"]
        random = generator(batch)
        drawn = torch.randperm(self.side**2, generator=random, device=random.device)[: self.masks].tolist()
        masks = torch.stack([grid(noisy, self.side, place) for place in drawn])  # [M, B, 1, H, W]
        with torch.no_grad():
            whole = network(noisy, level).float()
        shown = torch.stack([hide(noisy, mask, self.fill, 3, random) for mask in masks])  # [M, B, C, H, W]
        levels = None if level is None else level.repeat(self.masks, 1, 1, 1)
        blind = network(shown.flatten(0, 1), levels).float().view_as(shown)
        # at masked pixels: [N]
        masked = masks.expand_as(shown)
        hidden, seen, target = blind[masked], whole.expand_as(shown)[masked], noisy.expand_as(shown)[masked]
        weight = self.visible[0] + progress * (self.visible[1] - self.visible[0])
        revisible, kept = loss(hidden + weight * seen, (weight + 1) * target), loss(hidden, target)
        return Learnt(revisible + self.eta * kept, whole, {"revisible": revisible, "blind": kept})
