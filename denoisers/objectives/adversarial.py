"""Learning against a critic, which learns to tell estimates from clean images."""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from denoisers.layers import require_positive
from denoisers.objectives.base import Batch, Learnt, Network, Objective, generator

Kind = Literal["wgan_gp", "relativistic"]


class PatchCritic(nn.Module):
    """Convolutions of stride 2 and a last one, without norms: one number for each patch of a picture.

    Isola, Zhu, Zhou and Efros, "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017. Without
    batch norm, as the gradient penalty asks for: it is one of each sample by itself.

    Args:
        channels: 1 (grey) or 3 (RGB).
        num_features: channels after the first convolution, doubled by each other.
        num_layers: convolutions of stride 2.
    """

    def __init__(self, *, channels: int = 1, num_features: int = 32, num_layers: int = 3) -> None:
        super().__init__()
        require_positive(channels=channels, num_features=num_features, num_layers=num_layers)
        widths = [channels, *(num_features * 2**i for i in range(num_layers))]
        steps: list[nn.Module] = []
        for into, out in pairwise(widths):
            steps += [nn.Conv2d(into, out, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*steps, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1] → [B, 1, h, w], higher for what looks clean; H and W of at least 2^num_layers."""
        return self.body(2 * image - 1)


class Adversarial(Objective):
    """loss(estimate, clean) + weight · what the critic makes of the estimate.

    Kinds: ``wgan_gp``: Gulrajani, Ahmed, Arjovsky, Dumoulin and Courville, "Improved Training of Wasserstein GANs",
    NeurIPS 2017: the critic's mean over clean images less that over estimates, and a penalty where its gradient between
    the two is not of length 1. ``relativistic``: Jolicoeur-Martineau, "The Relativistic Discriminator", ICLR 2019, in
    its average form: whether a clean image looks more so than estimates do in the mean, and the reverse.

    Deviation: network and critic take their steps together, each by an optimiser of its own, from one sum whose parts
    do not reach each other's weights; where papers give the critic several steps for each of the network's, give it a
    higher learning rate (Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", NeurIPS 2017).

    Nothing is assumed of the noise. Needs clean images: views 1, realisation not fixed. The pixel and perceptual parts
    are the ``loss``.

    Args:
        critic: [B, C, H, W] → numbers, higher for clean images.
        build_optimizer: parameters → the critic's optimiser.
        kind: ``wgan_gp`` or ``relativistic``.
        weight: of the adversarial part.
        penalty: weight of the gradient penalty, in the critic's loss; 0 leaves it out.
        begin: share of the run that is over before the network listens to the critic, which learns from the beginning.

    Raises:
        ValueError: another kind, a negative weight, a share outside 0 … 1.
    """

    fixed = False
    clean = True
    pixelwise = False

    def __init__(
        self,
        *,
        critic: nn.Module,
        build_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        kind: Kind = "relativistic",
        weight: float = 5e-3,
        penalty: float = 10.0,
        begin: float = 0.0,
    ) -> None:
        super().__init__()
        if kind not in ("wgan_gp", "relativistic"):
            raise ValueError(f"kind={kind}: must be wgan_gp or relativistic")
        if min(weight, penalty) < 0 or not 0 <= begin <= 1:
            raise ValueError(f"weight={weight}, penalty={penalty}, begin={begin}: none negative, begin at most 1")
        self.critic, self.build_optimizer, self.kind = critic, build_optimizer, kind
        self.weight, self.penalty, self.begin = weight, penalty, begin

    def optimizer(self) -> Optimizer:
        return self.build_optimizer(self.critic.parameters())

    def forward(self, network: Network, batch: Batch, loss: nn.Module, progress: float) -> Learnt:
        clean = batch["clean"]
        estimate = network(batch["noisy"], batch["level"]).float()
        frozen = {name: weight.detach() for name, weight in self.critic.named_parameters()}
        content = loss(estimate, clean)
        _, of_network = self.losses(*(functional_call(self.critic, frozen, (image,)) for image in (clean, estimate)))
        fake = estimate.detach()
        of_critic, _ = self.losses(self.critic(clean), self.critic(fake))
        gap = gradient_penalty(self.critic, clean, fake, generator(batch)) if self.penalty else clean.new_zeros(())
        weight = self.weight if progress >= self.begin else 0.0
        terms = {"content": content, "adversarial": of_network, "critic": of_critic, "penalty": gap}
        return Learnt(content + weight * of_network + of_critic + self.penalty * gap, estimate, terms)

    def losses(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """What the critic says of clean images and of estimates → the critic's loss, and the network's."""
        real, fake = real.float(), fake.float()
        if self.kind == "wgan_gp":
            return fake.mean() - real.mean(), -fake.mean()
        above, below = real - fake.mean(), fake - real.mean()
        # softplus(−x) is the cross-entropy of "yes", softplus(x) that of "no"
        critic = (F.softplus(-above).mean() + F.softplus(below).mean()) / 2
        network = (F.softplus(above).mean() + F.softplus(-below).mean()) / 2
        return critic, network


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, random: torch.Generator) -> Tensor:
    """Mean of (‖∇ critic‖ − 1)² at a random point between each real and its fake picture, [B, C, H, W] twice."""
    share = torch.rand(len(real), 1, 1, 1, generator=random, device=real.device)
    with torch.enable_grad(), torch.autocast(real.device.type, enabled=False):
        between = torch.lerp(real, fake, share).requires_grad_()
        # the mean of the critic's numbers is its value of a picture
        values = critic(between).mean((1, 2, 3)).sum()
        (gradient,) = torch.autograd.grad(values, between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()
