"""Batch norm folded into the convolution before it: the same estimate from fewer operations."""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn


def folded(
    weight: Tensor, bias: Tensor | None, mean: Tensor, var: Tensor, gain: Tensor, shift: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that equals a convolution and a batch norm with these running statistics."""
    scale = gain.double() / (var.double() + eps).sqrt()
    offset = -mean.double() if bias is None else bias.double() - mean.double()
    new_weight = weight.double() * scale.view(-1, 1, 1, 1)  # [out, in, k, k]
    return new_weight.to(weight.dtype), (shift.double() + offset * scale).to(weight.dtype)


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode in which every batch norm that directly follows a convolution is folded into it.

    Such neighbours are looked for in each ``nn.Sequential``, also within xUnits; an ``nn.Identity`` takes the place of
    the batch norm. A batch norm that stands elsewhere, or keeps no running statistics, stays as it is.
    """
    network = copy.deepcopy(network).eval()
    for stack in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for (_, conv), (name, norm) in pairwise(list(stack.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
                _fold(conv, norm)
                stack.add_module(name, nn.Identity())
    return network


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    gain = torch.ones_like(var) if norm.weight is None else norm.weight
    shift = torch.zeros_like(mean) if norm.bias is None else norm.bias
    with torch.no_grad():
        weight, bias = folded(conv.weight, conv.bias, mean, var, gain, shift, norm.eps)
    conv.weight = nn.Parameter(weight)
    conv.bias = nn.Parameter(bias)
