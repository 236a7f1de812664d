"""Learning from clean images."""

from torch import nn

from denoisers.objectives.base import Batch, Learnt, Network, Objective


class Supervised(Objective):
    """loss(network(noisy), clean), with fresh noise on the clean images at each step.

    Nothing is assumed of the noise. Needs clean images: views 1, realisation not fixed.
    """

    fixed = False
    clean = True
    clips = True
    pixelwise = False

    def forward(self, network: Network, batch: Batch, loss: nn.Module, progress: float) -> Learnt:
        estimate = network(batch["noisy"], batch["level"]).float()
        return Learnt(loss(estimate.flatten(0, -4), batch["clean"].flatten(0, -4)), estimate)
