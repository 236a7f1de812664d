"""Learning from pairs that are made of one noisy image by adding noise to it."""

import torch
from torch import Tensor, nn

from denoisers.objectives.base import Batch, Learnt, Network, Objective, generator


class Recorrupted2Recorrupted(Objective):
    """loss(network(noisy + α σ z), noisy − σ z / α), z normal: two noisy images whose noises are uncorrelated.

    Pang, Zheng, Quan and Ji, "Recorrupted-to-Recorrupted: Unsupervised Deep Learning for Image Denoising", CVPR 2021,
    with A = α I. Both have the clean image as their mean; the first has the variance (1 + α²) σ², the second
    (1 + 1/α²) σ². With MSE the loss is that of learning from clean images plus a constant.

    Deviations: each z comes with −z in the same batch, so that what the two losses have in common but for its sign
    cancels: with one z alone the target's noise, the stronger the smaller α, drowns what there is to learn in short
    runs. The saved network is shown the noisy image once, without added noise, where the paper takes the mean over 50
    images with added noise; it has then learnt at a σ that is higher by √(1 + α²), and so α is smaller than the paper's
    0.5.

    Assumes Gaussian noise, independent from pixel to pixel, of known σ. Needs noisy images alone: views 1, realisation
    fixed.

    Args:
        alpha: see above, positive.

    Raises:
        ValueError: it is not.
    """

    line = True
    pixelwise = False
    assumes = frozenset({"gaussian"})

    def __init__(self, *, alpha: float = 0.2) -> None:
        super().__init__()
        if alpha <= 0:
            raise ValueError(f"alpha={alpha}: must be positive")
        self.alpha = alpha

    def forward(self, network: Network, batch: Batch, loss: nn.Module, progress: float) -> Learnt:
        noisy, level = batch["noisy"], batch["level"]
        shown, target = self.recorrupted(noisy, batch["line"], generator(batch))
        told = None if level is None else level.repeat(2, 1, 1, 1) * (1 + self.alpha**2) ** 0.5
        estimate = network(shown, told).float()
        return Learnt(loss(estimate, target), estimate[: len(noisy)])

    def recorrupted(self, noisy: Tensor, line: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] and its noise's line [B, 2] → images of uncorrelated noise, [2B, C, H, W] twice: z, then −z."""
        added = torch.randn(noisy.shape, generator=random, device=noisy.device) * line[:, 1, None, None, None].sqrt()
        added = torch.cat([added, -added])
        return noisy.repeat(2, 1, 1, 1) + self.alpha * added, noisy.repeat(2, 1, 1, 1) - added / self.alpha
