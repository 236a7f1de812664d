"""U-Net: an encoder and a decoder joined by skips."""

import torch
from torch import Tensor, nn

from denoisers.activations import ActivationName, GateName, activation_factory
from denoisers.layers import pad_to_multiple, require_odd, require_positive, same_conv, zero_init


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
        activation: ``relu``, ``xunit``, ``xunit_s`` or ``xunit_d``.
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

        def double_conv(in_features: int, out_features: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for features in (in_features, out_features):
                layers += [
                    same_conv(features, out_features, kernel_size),
                    nn.BatchNorm2d(out_features),
                    activate(out_features),
                ]
            return nn.Sequential(*layers)

        widths = [num_features * 2**i for i in range(num_layers)]
        self.down = nn.ModuleList(double_conv(i, o) for i, o in zip([channels, *widths], widths, strict=False))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1]))
        self.merge = nn.ModuleList(double_conv(2 * w, w) for w in reversed(widths[:-1]))
        self.last = zero_init(same_conv(num_features, channels, kernel_size))

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """[B, C, H, W] in [0, 1] → the clean estimate, same shape, unclamped. Blind: ``level`` is ignored."""
        height, width = noisy.shape[-2:]
        x = self.down[0](pad_to_multiple(noisy, 2 ** len(self.up)))
        skips = []
        for down in list(self.down)[1:]:
            skips.append(x)
            x = down(self.pool(x))  # [B, 2F, H/2, W/2]
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], dim=1))  # [B, F, 2H, 2W]
        return noisy - self.last(x)[..., :height, :width]
