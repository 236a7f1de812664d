"""A few convolutions and nothing else: a first network."""

from torch import Tensor, nn

from denoisers.activations import ActivationName, GateName, activation_factory
from denoisers.layers import conv_stack, require_odd, require_positive


class SimpleCNN(nn.Module):
    """Convolutions with an activation between them, which put out the clean image itself.

    The beginner's network of tutorials, in two or three layers: no residual, no normalisation, no skip. What it lacks
    beside :class:`~denoisers.networks.dncnn.DnCNN` is the point of it.

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
        num_layers: int = 3,
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
        widths = [channels, *[num_features] * (num_layers - 1), channels]
        self.body = conv_stack(widths, kernel_size, activate)

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """[B, C, H, W] in [0, 1] → the clean estimate, same shape, unclamped. Blind: ``level`` is ignored."""
        return self.body(noisy)
