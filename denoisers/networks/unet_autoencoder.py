"""A U-Net without skips: all that it puts out has passed the coarsest resolution."""

from itertools import pairwise

from torch import Tensor, nn

from denoisers.activations import ActivationName, GateName, activation_factory
from denoisers.layers import double_conv, mirror_to_multiple, require_odd, require_positive, same_conv


class UNetAutoencoder(nn.Module):
    """Two convolutions per level, max-pooling down, transposed convolution up, no skips; puts out the clean image.

    The denoising autoencoder of Vincent, Larochelle, Bengio and Manzagol ("Extracting and Composing Robust Features
    with Denoising Autoencoders", ICML 2008) in the shape of a U-Net: for digits of 28×28 pixels, which three levels
    halve twice without padding. 421,409 parameters in grey, 422,563 in RGB.

    Deviations: convolutions with batch norm and GELU (Hendrycks and Gimpel, 2016) where the paper has dense sigmoid
    layers; the output is not squashed.

    Args:
        channels: 1 (grey) or 3 (RGB).
        num_layers: resolutions, the finest included.
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
        num_layers: int = 3,
        num_features: int = 32,
        kernel_size: int = 3,
        activation: ActivationName = "gelu",
        activation_kernel_size: int = 9,
        activation_gate: GateName = "sigmoid",
    ) -> None:
        super().__init__()
        require_positive(channels=channels, num_layers=num_layers, num_features=num_features)
        require_odd(kernel_size=kernel_size)
        activate = activation_factory(activation, activation_kernel_size, activation_gate)
        widths = [num_features * 2**i for i in range(num_layers)]

        encoder: list[nn.Module] = [double_conv(channels, num_features, kernel_size, activate)]
        for fine, coarse in pairwise(widths):
            encoder += [nn.MaxPool2d(2), double_conv(fine, coarse, kernel_size, activate)]  # [B, 2F, H/2, W/2]
        decoder: list[nn.Module] = []
        for coarse, fine in pairwise(reversed(widths)):
            decoder += [
                nn.ConvTranspose2d(coarse, fine, 2, stride=2),  # [B, F, 2H, 2W]
                double_conv(fine, fine, kernel_size, activate),
            ]
        self.encoder = nn.Sequential(*encoder)
        self.decoder = nn.Sequential(*decoder, same_conv(num_features, channels, kernel_size))
        self.multiple = 2 ** (num_layers - 1)

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """[B, C, H, W] in [0, 1] → the clean estimate, same shape, unclamped. Blind: ``level`` is ignored."""
        height, width = noisy.shape[-2:]
        code = self.encoder(mirror_to_multiple(noisy, self.multiple))  # [B, 4F, H/4, W/4]
        return self.decoder(code)[..., :height, :width]
