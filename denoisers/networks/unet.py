"""U-Net: an encoder and a decoder joined by skips."""

import torch
from torch import Tensor, nn

from denoisers.activations import ActivationName, GateName, activation_factory
from denoisers.layers import (
    Activate,
    double_conv,
    mirror_to_multiple,
    require_odd,
    require_positive,
    same_conv,
    zero_init,
)


class UNet(nn.Module):
    """Two convolutions per level, max-pooling down, transposed convolution up, skips joined by concatenation.

    Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015.

    Deviations: zero-padded convolutions (the output has the input's size), batch norm after each convolution, and the
    network predicts the residual, its last convolution beginning at zero.

    Args:
        channels: 1 (grey) or 3 (RGB).
        num_layers: resolutions, the finest included; 1 has no pooling.
        num_features: channels at the finest resolution, doubled at each coarser one.
        kernel_size: side of the convolutions, odd.
        activation: ``relu``, ``gelu``, ``hardswish``, ``xunit``, ``xunit_s`` or ``xunit_d``.
        activation_kernel_size: side of an xUnit's depthwise convolution, odd.
        activation_gate: an xUnit's gate, ``sigmoid`` or ``gaussian``.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        num_layers: int = 4,
        num_features: int = 32,
        kernel_size: int = 3,
        activation: ActivationName = "relu",
        activation_kernel_size: int = 9,
        activation_gate: GateName = "sigmoid",
    ) -> None:
        super().__init__()
        require_positive(channels=channels, num_layers=num_layers, num_features=num_features)
        require_odd(kernel_size=kernel_size)
        activate = activation_factory(activation, activation_kernel_size, activation_gate)

        widths = [num_features * 2**i for i in range(num_layers)]
        steps = zip([channels, *widths], widths, strict=False)
        self.down = nn.ModuleList(self.encode(i, o, kernel_size, activate) for i, o in steps)
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(self.upsample(2 * w, w) for w in reversed(widths[:-1]))
        self.merge = nn.ModuleList(self.decode(2 * w, w, kernel_size, activate) for w in reversed(widths[:-1]))
        self.skip = nn.ModuleList(self.on_skip(w) for w in widths[:-1])
        self.bottom = self.at_bottom(widths[-1], kernel_size, activate)
        self.last = zero_init(same_conv(num_features, channels, kernel_size))

    # What networks of this family make otherwise:

    def encode(self, in_features: int, out_features: int, kernel_size: int, activate: Activate) -> nn.Module:
        """A level of the encoder."""
        return double_conv(in_features, out_features, kernel_size, activate)

    def on_skip(self, features: int) -> nn.Module:
        """What a skip passes through."""
        return nn.Identity()

    def at_bottom(self, features: int, kernel_size: int, activate: Activate) -> nn.Module:
        """What stands between encoder and decoder."""
        return nn.Identity()

    def upsample(self, in_features: int, out_features: int) -> nn.Module:
        """[B, in, H, W] → [B, out, 2H, 2W]"""
        return nn.ConvTranspose2d(in_features, out_features, 2, stride=2)

    def decode(self, in_features: int, out_features: int, kernel_size: int, activate: Activate) -> nn.Module:
        """A level of the decoder."""
        return double_conv(in_features, out_features, kernel_size, activate)

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """[B, C, H, W] in [0, 1] → the clean estimate, same shape, unclamped. Blind: ``level`` is ignored."""
        height, width = noisy.shape[-2:]
        x = self.down[0](mirror_to_multiple(noisy, 2 ** len(self.up)))
        skips = []
        for skip, down in zip(self.skip, list(self.down)[1:], strict=True):
            skips.append(skip(x))
            x = down(self.pool(x))  # [B, 2F, H/2, W/2]
        x = self.bottom(x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], dim=1))  # [B, F, 2H, 2W]
        return noisy - self.last(x)[..., :height, :width]
