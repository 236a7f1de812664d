"""DnCNN: a plain stack of convolutions that predicts the residual (the noise)."""

from torch import Tensor, nn

from denoisers.activations import ActivationName, GateName, activation_factory
from denoisers.layers import require_odd, require_positive, same_conv, zero_init


class DnCNN(nn.Module):
    """Conv + activation, (num_layers − 2) × (conv + batch norm + activation), conv; subtracted from the input.

    Zhang, Zuo, Chen, Meng and Zhang, "Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image Denoising",
    IEEE TIP 2017. DnCNN-S has 17 layers (559,363 parameters in RGB), DnCNN-B 20. With ``activation="xunit"`` and nine
    layers it is xDnCNN (Kligvasser et al., CVPR 2018; 306,947 parameters in RGB).

    Without ``norm`` it is the form in which trained weights are published, batch norm merged into the convolutions.

    Deviations: convolutions keep their bias before batch norm (as the published counts do), and the last convolution
    begins at zero, so that the untrained network is the identity.

    Args:
        channels: 1 (grey) or 3 (RGB).
        num_layers: convolutions, at least 2.
        num_features: channels between them.
        kernel_size: their side, odd.
        norm: whether batch norm follows the convolutions between the first and the last.
        activation: ``relu``, ``gelu``, ``hardswish``, ``xunit``, ``xunit_s`` or ``xunit_d``.
        activation_kernel_size: side of an xUnit's depthwise convolution, odd.
        activation_gate: an xUnit's gate, ``sigmoid`` or ``gaussian``.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        num_layers: int = 17,
        num_features: int = 64,
        kernel_size: int = 3,
        norm: bool = True,
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

        layers: list[nn.Module] = [same_conv(channels, num_features, kernel_size), activate(num_features)]
        for _ in range(num_layers - 2):
            layers.append(same_conv(num_features, num_features, kernel_size))
            layers += [nn.BatchNorm2d(num_features)] if norm else []
            layers.append(activate(num_features))
        layers.append(zero_init(same_conv(num_features, channels, kernel_size)))
        self.body = nn.Sequential(*layers)

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """[B, C, H, W] in [0, 1] → the clean estimate, same shape, unclamped. Blind: ``level`` is ignored."""
        return noisy - self.body(noisy)
