"""Attention inside shifted windows, which SwinIR and SCUNet share.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


def to_windows(x: Tensor, size: int) -> Tensor:
    """[B, H, W, C] → [B, windows, size², C], both in reading order; H and W are multiples of the size."""
    x = x.unflatten(2, (-1, size)).unflatten(1, (-1, size))  # [B, H/size, size, W/size, size, C]
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def from_windows(x: Tensor, size: int, height: int, width: int) -> Tensor:
    """[B, windows, size², C] → [B, H, W, C]: undoes :func:`to_windows`."""
    x = x.unflatten(2, (size, size)).unflatten(1, (height // size, width // size))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def relative_positions(size: int) -> Tensor:
    """[size², size²]: of query i and key j, (Δrow, Δcolumn) = i − j as one index into (2·size − 1)² entries."""
    place = torch.arange(size)
    offset = place[:, None] - place[None, :] + size - 1  # [i, j] of one axis, from 0
    index = offset[:, None, :, None] * (2 * size - 1) + offset[None, :, None, :]
    return index.reshape(size * size, size * size)


def strangers(height: int, width: int, size: int, shift: int, device: torch.device) -> Tensor:
    """[windows, size², size²], true for pairs that only the cyclic shift has brought into one window."""
    below = torch.arange(height, device=device) >= height - shift
    right = torch.arange(width, device=device) >= width - shift
    region = 2 * below[:, None] + right[None, :].to(torch.int64)  # [H, W]
    regions = to_windows(region[None, :, :, None], size)[0]  # [windows, size², 1]
    return regions != regions.transpose(1, 2)


def window_attention(
    x: Tensor,
    embed: Callable[[Tensor], Tensor],
    project: Callable[[Tensor], Tensor],
    bias: Tensor,
    size: int,
    shift: int,
) -> Tensor:
    """[B, H, W, C] → the same: softmax(q·kᵀ/√d + bias)·v over the pixels of each window.

    Args:
        x: its height and width are multiples of the size.
        embed: C → 3 · heads · d features: all queries, all keys, all values.
        project: heads · d → C features.
        bias: [heads, size², size²].
        size: side of a window.
        shift: windows begin that many rows and columns later and wrap around; wrapped pixels see only one another.
    """
    height, width = x.shape[1:3]
    windows = to_windows(x.roll((-shift, -shift), dims=(1, 2)) if shift else x, size)
    qkv = embed(windows).unflatten(-1, (3, bias.shape[0], -1))  # [B, windows, size², 3, heads, d]
    q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)  # each [B, windows, heads, size², d]
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1) + bias
    if shift:
        scores = scores.masked_fill(strangers(height, width, size, shift, x.device)[:, None], -math.inf)
    mixed = scores.softmax(-1) @ v
    x = from_windows(project(mixed.transpose(2, 3).flatten(-2)), size, height, width)
    return x.roll((shift, shift), dims=(1, 2)) if shift else x


def init_linear(module: nn.Module) -> None:
    """For ``Module.apply``: normal weights of deviation 0.02 and no bias, as vision transformers begin."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
