"""Learning from a network that has learnt."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from denoisers.folding import fold_batch_norm
from denoisers.layers import channels_last
from denoisers.objectives.base import Batch, Learnt, Network, Objective
from denoisers.weights import open_network


class Distill(Objective):
    """(1 − w) · loss(estimate, clean) + w · loss(estimate, teacher's estimate), and the teacher's features matched.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, for regression: a good estimate is a
    less noisy target than the clean image, of which nobody could know every detail. Features as in Romero et al.,
    "FitNets: Hints for Thin Deep Nets", ICLR 2015: what goes into the last convolution of either network, the
    student's brought to the teacher's channels by a 1×1 convolution, which learns too, and to its size. Their distance
    is the squared one relative to the teacher's own square; it counts ``features`` times the loss, whatever that is.

    Nothing is assumed of the noise. Needs clean images, unless w is 1: views 1, realisation not fixed. The teacher is
    in no checkpoint.

    Args:
        teacher: a run's folder, a checkpoint of ours or a file of published weights.
        weight: w, above 0 and at most 1.
        features: see above; 0 leaves them out.
        lr: learning rate (Adam) of the 1×1 convolution.

    Raises:
        ValueError: a weight outside its range; as CheckpointError: no such teacher.
    """

    fixed = False
    pixelwise = False
    teacher: nn.Module
    ends: list[nn.Conv2d]

    def __init__(self, *, teacher: str | Path, weight: float = 0.5, features: float = 0.1, lr: float = 1e-3) -> None:
        super().__init__()
        if not 0 < weight <= 1:
            raise ValueError(f"weight={weight}: must be above 0 and at most 1")
        if features < 0 or lr < 0:
            raise ValueError(f"features={features}, lr={lr}: must not be negative")
        self.weight, self.features, self.lr = weight, features, lr
        opened = open_network(teacher)
        self.channels = opened.channels
        # not among the modules, or it would be trained, counted and saved
        self.__dict__["teacher"] = channels_last(fold_batch_norm(opened.network)).requires_grad_(False)

    @property
    def clean(self) -> bool:  # type: ignore[override]
        return self.weight < 1

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Distill":
        self.teacher._apply(fn)
        return super()._apply(fn, recurse)

    def attach(self, network: nn.Module) -> None:
        """Finds both last convolutions, by a small picture.

        Raises:
            ValueError: a network without convolutions, or one that the teacher's pictures do not fit.
        """
        if not self.features:
            return
        picture, level = torch.full((1, self.channels, 32, 32), 0.5), torch.full((1, 1, 1, 1), 0.1)
        self.__dict__["ends"] = [last_convolution(one, picture, level) for one in (network, self.teacher)]
        ours, theirs = (end.in_channels for end in self.ends)
        self.adapter = nn.Conv2d(ours, theirs, 1)

    def optimizer(self) -> Optimizer | None:
        return Adam(self.adapter.parameters(), lr=self.lr) if self.features else None

    def forward(self, network: Network, batch: Batch, loss: nn.Module, progress: float) -> Learnt:
        noisy, level = batch["noisy"], batch["level"]
        with inputs(self.ends if self.features else []) as seen:
            with torch.no_grad():
                target = self.teacher(noisy, level).float()
            estimate = network(noisy, level).float()
        total = self.weight * loss(estimate, target)
        if self.clean:
            total = total + (1 - self.weight) * loss(estimate, batch["clean"])
        if not self.features:
            return Learnt(total, estimate)
        ours, theirs = (seen[end].float() for end in self.ends)
        adapted = F.interpolate(self.adapter(ours), theirs.shape[-2:], mode="bilinear", align_corners=False)
        distance = (adapted - theirs).square().mean() / theirs.square().mean()
        return Learnt(total + self.features * total.detach() * distance, estimate, {"features": distance})


def last_convolution(network: nn.Module, picture: Tensor, level: Tensor) -> nn.Conv2d:
    """The 2-D convolution that a network comes to last.

    Raises:
        ValueError: there is none.
    """
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    training, device = network.training, next(network.parameters()).device
    with torch.no_grad(), inputs(convolutions) as seen:
        network.eval()(picture.to(device), level.to(device))
    network.train(training)
    if not seen:
        raise ValueError(f"{type(network).__name__} has no convolution whose features could be matched: features=0")
    return list(seen)[-1]


@contextmanager
def inputs(convolutions: list[nn.Conv2d]) -> Iterator[dict[nn.Conv2d, Tensor]]:
    """Convolution → what has last gone into it within the block, in the order in which they were come to."""
    seen: dict[nn.Conv2d, Tensor] = {}

    def note(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        seen[module] = arguments[0]  # type: ignore[index]

    hooks = [convolution.register_forward_pre_hook(note) for convolution in convolutions]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
