"""IRCNN: seven dilated convolutions that predict the noise of one level; and a bank of them, one for each level."""

import math

import torch
from torch import Tensor, nn

from denoisers.activations import ActivationName, GateName, activation_factory
from denoisers.layers import conv_stack, level_map, require_positive, zero_init

DILATIONS = (1, 2, 3, 4, 3, 2, 1)


class IRCNN(nn.Module):
    """3×3 convolutions with dilations 1, 2, 3, 4, 3, 2, 1, ReLU between them; subtracted from the input.

    Zhang, Zuo, Gu and Zhang, "Learning Deep CNN Denoiser Prior for Image Restoration", CVPR 2017: 185,857 parameters
    in grey, 188,163 in RGB.

    Deviations: no batch norm, which the paper trains with and the published weights have merged into the convolutions;
    the last convolution begins at zero, so that the untrained network is the identity.

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
        widths = [channels, *[num_features] * (len(DILATIONS) - 1), channels]
        self.body = zero_init(conv_stack(widths, 3, activate, DILATIONS))

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """[B, C, H, W] in [0, 1] → the clean estimate, same shape, unclamped. Blind: ``level`` is ignored."""
        return noisy - self.body(noisy)


class IRCNNBank(nn.Module):
    """An IRCNN for each noise level, as the published files hold them: for σ = 2, 4, …, 50 on the 0–255 scale.

    A sample's level takes the first network that was trained for at least as much noise, or the last.

    Args:
        channels: 1 (grey) or 3 (RGB).
        num_features: channels between the convolutions.
        num_networks: how many.
        step: by how much σ rises from one to the next.
    """

    def __init__(self, *, channels: int = 1, num_features: int = 64, num_networks: int = 25, step: float = 2.0) -> None:
        super().__init__()
        require_positive(num_networks=num_networks)
        self.step = step
        self.networks = nn.ModuleList(IRCNN(channels=channels, num_features=num_features) for _ in range(num_networks))

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """[B, C, H, W] in [0, 1] and its level (of a map, the mean) → the clean estimate, same shape, unclamped.

        Raises:
            LevelError: no level.
        """
        sigmas = level_map(level, noisy, type(self).__name__).mean((1, 2, 3)) * 255
        # rounded, for 30/255 · 255 may be more than 30
        numbers = [math.ceil(round(sigma / self.step, 3)) - 1 for sigma in sigmas.tolist()]
        last = len(self.networks) - 1
        return torch.cat([self.networks[min(max(n, 0), last)](x[None]) for n, x in zip(numbers, noisy, strict=True)])
