"""DRUNet: a U-Net of residual blocks without biases, told how strong the noise is."""

import torch
from torch import Tensor, nn

from denoisers.activations import ActivationName, GateName, activation_factory
from denoisers.layers import ResidualBlock, level_map, replicate_to_multiple, require_positive, same_conv


class DRUNet(nn.Module):
    """Residual blocks at each resolution, strided 2×2 convolution down, transposed 2×2 up, skips that are added.

    Zhang, Li, Zuo, Zhang, Van Gool and Timofte, "Plug-and-Play Image Restoration with Deep Denoiser Prior", IEEE TPAMI
    2021: four resolutions of 64, 128, 256 and 512 channels with four blocks each, the noise map as one more channel of
    the input, no biases; 32,638,656 parameters in grey, 32,640,960 in RGB. What comes out is the clean image.

    Deviations: sizes that are no multiple of 8 are padded by repeating the border and cropped back; He initialisation
    in place of orthogonal, and blocks that begin as the identity.

    Args:
        channels: 1 (grey) or 3 (RGB).
        num_layers: resolutions, the finest included.
        num_blocks: residual blocks at each, down and up.
        num_features: channels at the finest resolution, doubled at each coarser one.
        activation: ``relu``, ``gelu``, ``hardswish``, ``xunit``, ``xunit_s`` or ``xunit_d``.
        activation_kernel_size: side of an xUnit's depthwise convolution, odd.
        activation_gate: an xUnit's gate, ``sigmoid`` or ``gaussian``.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        num_layers: int = 4,
        num_blocks: int = 4,
        num_features: int = 64,
        activation: ActivationName = "relu",
        activation_kernel_size: int = 9,
        activation_gate: GateName = "sigmoid",
    ) -> None:
        super().__init__()
        require_positive(channels=channels, num_layers=num_layers, num_blocks=num_blocks, num_features=num_features)
        activate = activation_factory(activation, activation_kernel_size, activation_gate)

        def blocks(features: int) -> list[nn.Module]:
            return [ResidualBlock(features, activate, bias=False) for _ in range(num_blocks)]

        # modules are named as in the published weights
        self.depth = num_layers - 1
        self.m_head = same_conv(channels + 1, num_features, 3, bias=False)
        for level in range(1, num_layers):
            fine, coarse = num_features * 2 ** (level - 1), num_features * 2**level
            down = nn.Conv2d(fine, coarse, 2, stride=2, bias=False)
            up = nn.ConvTranspose2d(coarse, fine, 2, stride=2, bias=False)
            self.add_module(f"m_down{level}", nn.Sequential(*blocks(fine), down))
            self.add_module(f"m_up{level}", nn.Sequential(up, *blocks(fine)))
        self.m_body = nn.Sequential(*blocks(num_features * 2**self.depth))
        self.m_tail = same_conv(num_features, channels, 3, bias=False)

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """[B, C, H, W] in [0, 1] and its level → the clean estimate, same shape, unclamped.

        Raises:
            LevelError: no level.
        """
        height, width = noisy.shape[-2:]
        x = torch.cat([noisy, level_map(level, noisy, type(self).__name__)], dim=1)  # [B, C + 1, H, W]
        x = self.m_head(replicate_to_multiple(x, 2**self.depth))
        skips = [x]
        for number in range(1, self.depth + 1):
            skips.append(self.get_submodule(f"m_down{number}")(skips[-1]))  # [B, 2F, H/2, W/2]
        x = self.m_body(skips[-1])
        for number in range(self.depth, 0, -1):
            x = self.get_submodule(f"m_up{number}")(x + skips.pop())  # [B, F, 2H, 2W]
        return self.m_tail(x + skips.pop())[..., :height, :width]
