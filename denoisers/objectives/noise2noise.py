"""Learning from two noisy views of each scene."""

import torch
from torch import nn

from denoisers.objectives.base import Batch, Learnt, Network, Objective, generator


class Noise2Noise(Objective):
    """loss(network(one view), the other), each sample's views in an order of its own.

    Lehtinen et al., "Noise2Noise: Learning Image Restoration without Clean Data", ICML 2018. With MSE the expectation
    of the loss is that of learning from clean images plus the noise's variance, a constant; with L1 medians are learnt.

    Assumes that the two realisations are independent of each other and that their mean is the clean image; from pixel
    to pixel the noise may be as it likes. Needs two views of each scene, both fixed, and no clean image.
    """

    views = 2
    pixelwise = False
    assumes = frozenset({"unbiased"})

    def forward(self, network: Network, batch: Batch, loss: nn.Module, progress: float) -> Learnt:
        noisy, twin = batch["noisy"], batch["twin"]
        swap = torch.rand(len(noisy), 1, 1, 1, generator=generator(batch), device=noisy.device) < 0.5
        estimate = network(torch.where(swap, twin, noisy), batch["level"]).float()
        return Learnt(loss(estimate, torch.where(swap, noisy, twin)), estimate)
