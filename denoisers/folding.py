"""Batch norm folded into the convolution before it: the same estimate from fewer operations."""

import copy
from collections import Counter
from itertools import pairwise

import torch
from torch import Tensor, nn

TOLERANCE = 1e-5  # of an estimate in [0, 1]


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
    the batch norm. A batch norm that stands elsewhere, keeps no running statistics, or follows a convolution that has
    several places, stays as it is.
    """
    network = copy.deepcopy(network).eval()
    places = Counter(module for _, module in network.named_modules(remove_duplicate=False))
    for stack in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for (_, conv), (name, norm) in pairwise(list(stack.named_children())):
            if not (isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
                continue
            if norm.running_mean is not None and places[conv] == 1:
                _fold(conv, norm)
                stack.add_module(name, nn.Identity())
    return network


@torch.no_grad()
def folded_alike(network: nn.Module, channels: int) -> nn.Module:
    """:func:`fold_batch_norm`, if the estimate of a small picture stays the same to 1e-5; else the network itself.

    It would change in one that also reads, beside the batch norm, what the convolution puts out.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return network
    found, generator = fold_batch_norm(network), torch.Generator().manual_seed(0)
    noisy, level = torch.rand(1, channels, 48, 48, generator=generator), torch.full((1, 1, 1, 1), 0.1)
    return found if (found(noisy, level) - network.eval()(noisy, level)).abs().max() <= TOLERANCE else network


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
