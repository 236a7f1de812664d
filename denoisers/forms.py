"""Forms of a network that compute the same, or nearly, and are built from its configuration as part of their own."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from denoisers.checkpoint import build
from denoisers.clips import reach_of
from denoisers.folding import fold_batch_norm
from denoisers.ranged import Ranged


class Form(nn.Module):
    """A network inside.

    Args:
        model: its class and arguments, ``_target_`` and so on.
    """

    def __init__(self, *, model: Mapping[str, Any]) -> None:
        super().__init__()
        self.hold(build(model))

    def hold(self, network: nn.Module) -> None:
        """Takes it in, in the form that this class gives to networks."""
        self.network = network
        self.whole, self.reach = getattr(network, "whole", False), reach_of(network)

    @classmethod
    def of(cls, network: nn.Module, model: Mapping[str, Any]) -> nn.Module:
        """A copy of a trained network of that configuration in this form, still within its value range."""
        if isinstance(network, Ranged):
            outer = copy.deepcopy(network)
            outer.network = cls.of(network.network, model)
            return outer
        form = cls(model=model)
        form.hold(copy.deepcopy(network))
        return form.eval()

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        return self.network(noisy, level)


class Folded(Form):
    """A network whose batch norm is folded into its convolutions: the same estimate."""

    def hold(self, network: nn.Module) -> None:
        super().hold(fold_batch_norm(network))


class Bfloat16(Form):
    """A network whose convolutions and matrix products are computed in bfloat16 (autocast); float32 in and out.

    Their weights are kept in bfloat16, to which each estimate would round them.
    """

    def hold(self, network: nn.Module) -> None:
        super().hold(network)
        for module in network.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.Linear):
                module.bfloat16()

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        with torch.autocast(noisy.device.type, torch.bfloat16):
            return self.network(noisy, level).float()
