"""ADNet: a sparse mixture of dilated and plain convolutions, and attention that the noisy image guides."""

import torch
from torch import Tensor, nn

from denoisers.activations import ActivationName, GateName, activation_factory
from denoisers.layers import require_positive, same_conv, zero_init

NUM_LAYERS = 16  # of which the first 12 are the sparse block, the others the feature-enhancement block
DILATED = (2, 5, 9, 12)  # layers with dilation 2


class ADNet(nn.Module):
    """15 × (conv + batch norm + activation), conv → f; noise = f · (1×1 conv of tanh(noisy, f)); subtracted.

    Tian, Xu, Li, Zuo, Fei and Liu, "Attention-guided CNN for image denoising", Neural Networks 2020. Layers 2, 5, 9
    and 12 are dilated (the sparse block), layers 13 to 16 join the noisy image to what they see (the
    feature-enhancement block), the 1×1 convolution is the attention block: 519,171 parameters in grey, 521,493 in RGB.

    As in the published code, only the attention block's convolution has a bias. Deviation: layer 16 begins at zero, so
    that the untrained network is the identity.

    Args:
        channels: 1 (grey) or 3 (RGB).
        num_features: channels between the convolutions.
        activation: ``relu``, ``gelu``, ``hardswish``, ``xunit``, ``xunit_s`` or ``xunit_d``.
        activation_kernel_size: side of an xUnit's depthwise convolution, odd.
        activation_gate: an xUnit's gate, ``sigmoid`` or ``gaussian``.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        num_features: int = 64,
        activation: ActivationName = "relu",
        activation_kernel_size: int = 9,
        activation_gate: GateName = "sigmoid",
    ) -> None:
        super().__init__()
        require_positive(channels=channels, num_features=num_features)
        activate = activation_factory(activation, activation_kernel_size, activation_gate)
        layers: list[nn.Module] = []
        for number in range(1, NUM_LAYERS):
            into, dilation = channels if number == 1 else num_features, 2 if number in DILATED else 1
            layers += [
                same_conv(into, num_features, 3, bias=False, dilation=dilation),
                nn.BatchNorm2d(num_features),
                activate(num_features),
            ]
        layers.append(zero_init(same_conv(num_features, channels, 3, bias=False)))
        self.body = nn.Sequential(*layers)
        self.attention = same_conv(2 * channels, channels, 1)

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """[B, C, H, W] in [0, 1] → the clean estimate, same shape, unclamped. Blind: ``level`` is ignored."""
        features = self.body(noisy)  # [B, C, H, W]
        attention = self.attention(torch.cat([noisy, features], dim=1).tanh())  # [B, C, H, W]
        return noisy - attention * features
