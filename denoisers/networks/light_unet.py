"""Light U-Net: a U-Net of MobileNetV3's blocks, at most a fifth of ResUNet."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from denoisers.activations import ActivationName, GateName, activation_factory
from denoisers.layers import (
    Activate,
    DepthwiseConv2d,
    SqueezeExcite,
    conv_norm,
    mirror_to_multiple,
    require_odd,
    require_positive,
    same_conv,
    zero_init,
)


def pointwise(in_features: int, out_features: int) -> list[nn.Module]:
    """1×1 convolution, batch norm."""
    return [same_conv(in_features, out_features, 1, bias=False), nn.BatchNorm2d(out_features)]


def separable_conv(in_features: int, out_features: int, kernel_size: int, activate: Activate) -> nn.Sequential:
    """Depthwise k×k, then 1×1 convolution, each with batch norm and activation (Howard et al., MobileNets, 2017)."""
    return nn.Sequential(
        DepthwiseConv2d(in_features, kernel_size),
        nn.BatchNorm2d(in_features),
        activate(in_features),
        *pointwise(in_features, out_features),
        activate(out_features),
    )


class InvertedResidual(nn.Module):
    """1×1 to more channels, depthwise k×k, squeeze-and-excitation with a hard sigmoid, 1×1 to few, no activation.

    The input is added where the output has its shape.

    Args:
        in_features, out_features: channels before and after.
        kernel_size: side of the depthwise convolution.
        activate: channels → activation.
        expansion: how many times the input's channels stand in between.
        stride: of the depthwise convolution, 1 or 2.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        activate: Activate,
        *,
        expansion: int,
        stride: int = 1,
    ) -> None:
        super().__init__()
        hidden = expansion * in_features
        depthwise: nn.Module = DepthwiseConv2d(hidden, kernel_size)
        if stride > 1:
            depthwise = nn.Conv2d(hidden, hidden, kernel_size, stride, padding=kernel_size // 2, groups=hidden)
        self.body = nn.Sequential(
            *pointwise(in_features, hidden),
            activate(hidden),
            depthwise,
            nn.BatchNorm2d(hidden),
            activate(hidden),
            SqueezeExcite(hidden, max(8, hidden // 4), gate=nn.Hardsigmoid),
            *pointwise(hidden, out_features),
        )
        self.residual = stride == 1 and in_features == out_features

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class LightUNet(nn.Module):
    """Inverted residual blocks, strides down, PixelShuffle up, skips joined by separable convolutions.

    Howard et al., "Searching for MobileNetV3", ICCV 2019. 437,341 parameters in grey, 437,919 in RGB.

    The blocks are the paper's: h-swish throughout, squeezed to a quarter of the expanded channels (at least eight).
    The network around them is ours: one block at the finest resolution, two at each coarser one, the first of which
    has stride 2; on the way up a 1×1 convolution with PixelShuffle, a separable convolution of that and the skip, one
    block. It predicts the residual, its last convolution beginning at zero.

    Squeeze-and-excitation takes the mean over all that the network is shown; tiles take it each for itself, being much
    larger samples than the crops it learnt from.

    Args:
        channels: 1 (grey) or 3 (RGB).
        num_layers: resolutions, the finest included.
        num_features: channels at the finest resolution, doubled at each coarser one.
        kernel_size: side of all convolutions that are not 1×1, odd.
        expansion: how many times a block's channels its depthwise convolution has.
        activation: ``relu``, ``gelu``, ``hardswish``, ``xunit``, ``xunit_s`` or ``xunit_d``.
        activation_kernel_size: side of an xUnit's depthwise convolution, odd.
        activation_gate: an xUnit's gate, ``sigmoid`` or ``gaussian``.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        num_layers: int = 4,
        num_features: int = 16,
        kernel_size: int = 3,
        expansion: int = 3,
        activation: ActivationName = "hardswish",
        activation_kernel_size: int = 9,
        activation_gate: GateName = "sigmoid",
    ) -> None:
        super().__init__()
        require_positive(channels=channels, num_layers=num_layers, num_features=num_features, expansion=expansion)
        require_odd(kernel_size=kernel_size)
        activate = activation_factory(activation, activation_kernel_size, activation_gate)

        def block(in_features: int, out_features: int, stride: int = 1) -> InvertedResidual:
            return InvertedResidual(
                in_features, out_features, kernel_size, activate, expansion=expansion, stride=stride
            )

        widths = [num_features * 2**i for i in range(num_layers)]
        first = nn.Sequential(*conv_norm(channels, num_features, kernel_size, activate), block(widths[0], widths[0]))
        steps = list(pairwise(widths))
        self.down = nn.ModuleList([first, *(nn.Sequential(block(i, o, stride=2), block(o, o)) for i, o in steps)])
        self.up = nn.ModuleList(nn.Sequential(nn.Conv2d(o, 4 * i, 1), nn.PixelShuffle(2)) for i, o in reversed(steps))
        self.merge = nn.ModuleList(
            nn.Sequential(separable_conv(2 * i, i, kernel_size, activate), block(i, i)) for i, _ in reversed(steps)
        )
        self.last = zero_init(same_conv(num_features, channels, kernel_size))

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """[B, C, H, W] in [0, 1] → the clean estimate, same shape, unclamped. Blind: ``level`` is ignored."""
        height, width = noisy.shape[-2:]
        x = mirror_to_multiple(noisy, 2 ** len(self.up))
        skips = []
        for down in self.down:
            x = down(x)  # [B, F, H, W], then [B, 2F, H/2, W/2], …
            skips.append(x)
        x = skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], dim=1))  # [B, F, 2H, 2W]
        return noisy - self.last(x)[..., :height, :width]
