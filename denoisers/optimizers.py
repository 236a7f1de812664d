"""Optimisers that PyTorch does not have: Muon for convolutions, and several as one."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """About U Vᵀ of each matrix U S Vᵀ, by a quintic Newton–Schulz iteration: singular values come near 1, not to it.

    Args:
        matrices: [N, rows, columns], of any scale; in bfloat16, singular values are off by a few hundredths.
        steps: iterations; with five, what is a hundredth of a matrix's norm or more comes to between 0.6 and 1.3.
    """
    a, b, c = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(Optimizer):
    """Momentum whose step is made orthogonal, for the weights within a network; Adam for what else it has.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024. A convolution's weight [O, I, k, k]
    is taken as the matrix [O, I·k·k]; all its directions learn at the same pace, where gradient descent and Adam follow
    the few strongest. (``torch.optim.Muon`` refuses weights that are no matrices.)

    The weights of two or more dimensions learn so but for the first and the last of them, which read and write images;
    these two, biases and norms learn by Adam (Kingma and Ba, ICLR 2015).

    Args:
        parameters: in the order of the network.
        lr: of the weights within: a step's spectral norm, where outputs are no more than inputs.
        adam_lr: of the others.
        momentum: of the weights within (Nesterov's).
        betas, eps: Adam's.
        newton_schulz_steps: see :func:`orthogonal`.
        half: whether steps are made orthogonal in bfloat16, as by Muon's authors: less time on hardware that has it.

    Raises:
        ValueError: a negative learning rate, a momentum or beta that is not in [0, 1), no Newton–Schulz step.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float = 0.02,
        adam_lr: float = 2e-3,
        momentum: float = 0.85,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        newton_schulz_steps: int = 4,
        half: bool = False,
    ) -> None:
        for name, rate in {"lr": lr, "adam_lr": adam_lr}.items():
            if rate < 0:
                raise ValueError(f"Invalid learning rate: {rate} ({name}): must be at least 0")
        for name, share in {"momentum": momentum, "betas[0]": betas[0], "betas[1]": betas[1]}.items():
            if not 0 <= share < 1:
                raise ValueError(f"{name}={share}: must be at least 0 and below 1")
        if newton_schulz_steps < 1:
            raise ValueError(f"newton_schulz_steps={newton_schulz_steps}: must be at least 1")
        parameters = list(parameters)
        within = {id(p) for p in [p for p in parameters if p.ndim >= 2][1:-1]}
        inner, others = ([p for p in parameters if (id(p) in within) == side] for side in (True, False))
        groups = [{"params": inner, "lr": lr}, {"params": others, "lr": adam_lr}]
        shared = {"momentum": momentum, "betas": tuple(betas), "eps": eps, "newton_schulz_steps": newton_schulz_steps}
        super().__init__(groups, shared)
        self.half = half

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns what the closure does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        inner, others = self.param_groups
        by_shape: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
        for weight in inner["params"]:
            if weight.grad is not None:
                by_shape.setdefault(weight.shape, []).append((weight, weight.grad))
        for alike in by_shape.values():
            self.muon(alike, inner)
        for parameter in others["params"]:
            if parameter.grad is not None:
                self.adam(parameter, parameter.grad, others)
        return loss

    def muon(self, alike: list[tuple[nn.Parameter, Tensor]], group: dict[str, Any]) -> None:
        """A step of all the weights of one shape within the network, each with its gradient."""
        means = [self.state[weight].setdefault("mean", torch.zeros_like(weight)) for weight, _ in alike]
        grads = [grad for _, grad in alike]
        torch._foreach_lerp_(means, grads, 1 - group["momentum"])
        ahead = torch._foreach_lerp(grads, means, group["momentum"])
        # columns in the order of channels last, in which networks are kept: a matrix then is a view of the weight
        rows = [step.movedim(1, -1).flatten(1) for step in ahead]
        matrices = torch.stack([row.bfloat16() for row in rows] if self.half else rows)  # [N, O, k·k·I]
        steps = orthogonal(matrices, group["newton_schulz_steps"])
        rate = group["lr"] * math.sqrt(max(1.0, steps.shape[1] / steps.shape[2]))
        for (weight, _), step in zip(alike, steps, strict=True):
            last = weight.movedim(1, -1)
            last.sub_(step.reshape(last.shape), alpha=rate)

    def adam(self, parameter: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        """A step of one other parameter."""
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        mean, square = (state.setdefault(name, torch.zeros_like(parameter)) for name in ("mean", "square"))
        state["step"] = state.get("step", 0) + 1
        mean.lerp_(grad, 1 - beta1)
        square.lerp_(grad.square(), 1 - beta2)
        root = (square / (1 - beta2 ** state["step"])).sqrt() + group["eps"]
        parameter.addcdiv_(mean, root, value=-group["lr"] / (1 - beta1 ** state["step"]))


class Joint(Optimizer):
    """Several optimisers that step together and are saved as one: a network's, and one of what teaches it.

    Its groups are theirs, so a schedule moves all learning rates by the same factor.

    Args:
        optimizers: none of them has parameters of another's.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = list(optimizers)
        super().__init__(self._groups(), {})
        self.defaults = self.optimizers[0].defaults  # of which schedules ask what they may change

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of each; returns what the closure does, which is called once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """That of each."""
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Gives each its own."""
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.param_groups = self._groups()
