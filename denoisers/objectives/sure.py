"""Learning by Stein's estimate of the error that nobody can see."""

import torch
from torch import nn

from denoisers.objectives.base import Batch, Learnt, Network, Objective, generator


class SURE(Objective):
    """Mean of (f − y)² − v + 2 v · (∂f/∂y)'s diagonal, whose expectation is the mean squared error of f against clean.

    Stein, "Estimation of the Mean of a Multivariate Normal Distribution", Annals of Statistics 1981; the divergence by
    one random direction b: Ramani, Blu and Unser, "Monte-Carlo SURE", IEEE TIP 2008; as a loss: Soltanayev and Chun,
    "Training Deep Learning Based Denoisers without Ground Truth Data", NeurIPS 2018.

    Deviation: the divergence is bᵀ (f(y + ε b) − f(y − ε b)) / 2ε, and f in the first term is that of these two ends,
    in the mean. With one end and the middle, as published, a network that knows the noise's strength tells y from
    y + ε b by it, and becomes the identity on the one and a denoiser on the other, for which the sum has no bound but
    −v. So the error that is estimated is that of f(y + ε b), which differs from f(y)'s by terms of ε².

    v is the noise's variance. Of Gaussian noise it is σ². Of Poisson–Gaussian noise it is gain · y + floor at a pixel
    of value y; then the expectation is that of the mean squared error up to terms with second derivatives of f, times
    the gain: the first order of Le Montagner, Angelini and Olivo-Marin, "An Unbiased Risk Estimator for Image Denoising
    in the Presence of Mixed Poisson–Gaussian Noise", IEEE TIP 2014. It is exact for linear f.

    Assumes Gaussian or Poisson–Gaussian noise, independent from pixel to pixel, of known variance: the noise's own, or
    what ``gain`` and ``read`` say of real pictures (``python -m experiments.estimate`` finds them). Needs noisy images
    alone: views 1, realisation fixed. It is itself a squared error: with loss=mse alone.

    Args:
        epsilon: length of the step along b, on the [0, 1] scale. Within a tiny one few of a network's units change
            sign, and these few by much: the gradient is right in the mean and of little use.
        gain, read: of the noise of pictures that bring their own: brightness of one photon on the [0, 1] scale, and
            standard deviation of the read noise on the 0–255 scale.

    Raises:
        ValueError: a step that is not positive, one of gain and read without the other, or a negative one.
    """

    squared = True
    assumes = frozenset({"stein"})

    def __init__(self, *, epsilon: float = 0.02, gain: float | None = None, read: float | None = None) -> None:
        super().__init__()
        if epsilon <= 0:
            raise ValueError(f"epsilon={epsilon}: must be positive")
        if (gain is None) != (read is None) or min(gain or 0, read or 0) < 0:
            raise ValueError(f"gain={gain}, read={read}: give both, none of them negative, or none")
        self.epsilon = epsilon
        self.own_line = None if gain is None or read is None else (gain, (read / 255) ** 2)

    @property
    def line(self) -> bool:  # type: ignore[override]
        return self.own_line is None

    def forward(self, network: Network, batch: Batch, loss: nn.Module, progress: float) -> Learnt:
        noisy, level = batch["noisy"], batch["level"]
        line = batch["line"] if self.own_line is None else noisy.new_tensor([self.own_line])
        variance = line[:, 0, None, None, None] * noisy + line[:, 1, None, None, None]  # [B, C, H, W]
        random = generator(batch)
        direction = torch.randint(2, noisy.shape, generator=random, device=noisy.device).mul_(2).sub_(1).to(noisy)
        ends = torch.cat([noisy + self.epsilon * direction, noisy - self.epsilon * direction])
        above, below = network(ends, None if level is None else level.repeat(2, 1, 1, 1)).float().chunk(2)
        slope = direction * (above - below) / (2 * self.epsilon)
        fidelity = ((above - noisy).square().mean() + (below - noisy).square().mean()) / 2
        divergence = (variance * slope).mean()
        terms = {"fidelity": fidelity, "divergence": divergence}
        return Learnt(fidelity - variance.mean() + 2 * divergence, (above + below) / 2, terms)
