"""What every way of learning is: a batch and a network in, what is to be made small out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Batch = Mapping[str, Any]
Network = Callable[[Tensor, Tensor | None], Tensor]  # (noisy, level) → estimate


class Learnt(NamedTuple):
    """What an objective makes of a batch.

    Args:
        loss: scalar; its gradient is what the network, and what the objective itself has to learn, follow.
        estimate: [B, C, H, W], of ``batch["noisy"]`` or of what was made of it.
        terms: name → scalar, parts of the loss worth a curve of their own.
    """

    loss: Tensor
    estimate: Tensor
    terms: Mapping[str, Tensor] = {}


class Objective(nn.Module, ABC):
    """How a network learns from batches. Class attributes say what it needs; a subclass says how, in ``forward``.

    A batch has ``noisy`` [B, C, H, W] on the [0, 1] scale, its ``level`` [B, 1, 1, 1], a map, or None where nobody
    knows, and a ``seed``, a number that no other batch of the run has; with ``views = 2`` there is ``twin``, another
    noisy view of the same scene; with ``clean`` there is the clean image; with ``line`` the line of the noise's
    variance, [B, 2].
    """

    views: int = 1  #: noisy views of each scene
    fixed: bool = True  #: whether each image has one realisation of the noise for the whole run, as a camera leaves it
    clean: bool = False  #: whether clean images are needed
    clips: bool = False  #: whether it may learn from clips
    pixelwise: bool = True  #: whether the loss must be a mean over values, for it is asked for some of them
    squared: bool = False  #: whether it is a squared error already, so that the loss must be none other
    line: bool = False  #: whether the line of the noise's variance over the brightness is needed
    assumes: frozenset[str] = frozenset()  #: properties of the noise that are relied on

    def attach(self, network: nn.Module) -> None:
        """Looks at the network that is to learn, before the first step."""

    def optimizer(self) -> Optimizer | None:
        """An optimiser of what the objective itself has to learn."""
        return None

    @abstractmethod
    def forward(self, network: Network, batch: Batch, loss: nn.Module, progress: float) -> Learnt:
        """One step's loss.

        Args:
            network: ``network(noisy, level) -> estimate``.
            batch: see above.
            loss: (estimate, target) → scalar.
            progress: the share of the run that is done, from 0 to 1.
        """


def generator(batch: Batch) -> torch.Generator:
    """Random numbers of this batch alone, on its device."""
    return torch.Generator(batch["noisy"].device).manual_seed(batch["seed"])
