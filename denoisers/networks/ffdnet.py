"""FFDNet: a plain stack of convolutions on sub-images of half the size, told how strong the noise is."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisers.activations import ActivationName, GateName, activation_factory
from denoisers.layers import conv_stack, level_map, replicate_to_multiple, require_odd, require_positive, zero_init


class FFDNet(nn.Module):
    """Four sub-images per channel and a noise map → convolutions with ReLU between them → the clean sub-images.

    Zhang, Zuo and Zhang, "FFDNet: Toward a Fast and Flexible Solution for CNN-Based Image Denoising", IEEE TIP 2018:
    grey 15 convolutions × 64 channels, 485,316 parameters; RGB 12 × 96, 852,108. The sub-images of a channel follow
    each other (left and right pixels of the upper row, then of the lower), and the noise map comes last.

    ``residual=True`` is the form of Tassano, Delon and Veit, "An Analysis and Implementation of the FFDNet Image
    Denoising Method", IPOL 2019: what comes out is the noise.

    Deviations: no batch norm, which the paper trains with and the published weights have merged into the convolutions;
    He initialisation in place of orthogonal. A map of the level is averaged over 2×2 pixels.

    Args:
        channels: 1 (grey) or 3 (RGB).
        num_layers: convolutions, at least 2; None is 15 for grey, 12 for RGB.
        num_features: channels between them; None is 64 for grey, 96 for RGB.
        kernel_size: their side, odd.
        residual: whether it puts out the noise; it is then subtracted, and the untrained network is the identity.
        activation: ``relu``, ``gelu``, ``hardswish``, ``xunit``, ``xunit_s`` or ``xunit_d``.
        activation_kernel_size: side of an xUnit's depthwise convolution, odd.
        activation_gate: an xUnit's gate, ``sigmoid`` or ``gaussian``.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        num_layers: int | None = None,
        num_features: int | None = None,
        kernel_size: int = 3,
        residual: bool = False,
        activation: ActivationName = "relu",
        activation_kernel_size: int = 9,
        activation_gate: GateName = "sigmoid",
    ) -> None:
        super().__init__()
        num_layers = (15 if channels == 1 else 12) if num_layers is None else num_layers
        num_features = (64 if channels == 1 else 96) if num_features is None else num_features
        require_positive(channels=channels, num_features=num_features)
        require_odd(kernel_size=kernel_size)
        if num_layers < 2:
            raise ValueError(f"num_layers={num_layers}: must be at least 2 (a first and a last convolution)")
        activate = activation_factory(activation, activation_kernel_size, activation_gate)
        self.residual = residual
        widths = [4 * channels + 1, *[num_features] * (num_layers - 1), 4 * channels]
        body = conv_stack(widths, kernel_size, activate)
        self.body = zero_init(body) if residual else body

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """[B, C, H, W] in [0, 1] and its level → the clean estimate, same shape, unclamped.

        Raises:
            LevelError: no level.
        """
        height, width = noisy.shape[-2:]
        if level is not None and level.shape[-2:] == noisy.shape[-2:]:
            level = F.avg_pool2d(replicate_to_multiple(level, 2), 2)
        x = F.pixel_unshuffle(replicate_to_multiple(noisy, 2), 2)  # [B, 4C, H/2, W/2]
        x = self.body(torch.cat([x, level_map(level, x, type(self).__name__)], dim=1))
        estimate = F.pixel_shuffle(x, 2)[..., :height, :width]  # [B, C, H, W]
        return noisy - estimate if self.residual else estimate
