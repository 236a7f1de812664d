"""FDnCNN: a plain stack of convolutions, told how strong the noise is, that puts out the clean image."""

import torch
from torch import Tensor, nn

from denoisers.activations import ActivationName, GateName, activation_factory
from denoisers.layers import conv_stack, level_map, require_odd, require_positive


class FDnCNN(nn.Module):
    """The noisy image and a noise map → convolutions with ReLU between them → the clean image.

    The flexible DnCNN of Zhang, Zuo and Zhang's FFDNet code (2018), of which only weights are published: DnCNN-B
    without batch norm and without residual, 666,497 parameters in grey, 668,803 in RGB.

    Args:
        channels: 1 (grey) or 3 (RGB).
        num_layers: convolutions, at least 2.
        num_features: channels between them.
        kernel_size: their side, odd.
        activation: ``relu``, ``gelu``, ``hardswish``, ``xunit``, ``xunit_s`` or ``xunit_d``.
        activation_kernel_size: side of an xUnit's depthwise convolution, odd.
        activation_gate: an xUnit's gate, ``sigmoid`` or ``gaussian``.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        num_layers: int = 20,
        num_features: int = 64,
        kernel_size: int = 3,
        activation: ActivationName = "relu",
        activation_kernel_size: int = 9,
        activation_gate: GateName = "sigmoid",
    ) -> None:
        super().__init__()
        require_positive(channels=channels, num_features=num_features)
        require_odd(kernel_size=kernel_size)
        if num_layers < 2:
            raise ValueError(f"num_layers={num_layers}: must be at least 2 (a first and a last convolution)")
        activate = activation_factory(activation, activation_kernel_size, activation_gate)
        widths = [channels + 1, *[num_features] * (num_layers - 1), channels]
        self.body = conv_stack(widths, kernel_size, activate)

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """[B, C, H, W] in [0, 1] and its level → the clean estimate, same shape, unclamped.

        Raises:
            LevelError: no level.
        """
        return self.body(torch.cat([noisy, level_map(level, noisy, type(self).__name__)], dim=1))
