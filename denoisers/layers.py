"""Blocks and rules that two or more networks share."""

import torch.nn.functional as F
from torch import Tensor, nn


def require_positive(**sizes: int) -> None:
    """Raises ValueError naming the first of ``sizes`` that is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size}: must be at least 1")


def require_odd(**kernels: int) -> None:
    """Raises ValueError naming the first of ``kernels`` that has no centre pixel: allowed are 1, 3, 5, …"""
    for name, kernel in kernels.items():
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"{name}={kernel}: must be odd and at least 1 (1, 3, 5, …)")


def same_conv(in_channels: int, out_channels: int, kernel_size: int, bias: bool = True) -> nn.Conv2d:
    """A convolution that keeps height and width (zero padding), He-initialised (He et al., ICCV 2015)."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def zero_init(conv: nn.Conv2d) -> nn.Conv2d:
    """Sets weights and bias to zero, so that a residual network begins as the identity."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """[B, C, H, W] → the same with H and W raised to a multiple, by repeating the last row and column."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")
