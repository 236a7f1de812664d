"""Swift: a residual U-Net on sub-images, the best denoiser that a few minutes of a CPU can teach."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from denoisers.activations import ActivationName, GateName, activation_factory
from denoisers.layers import ResidualBlock, mirror_to_multiple, require_positive, same_conv, zero_init

CENTRE, SCALE = 0.5, 4.0  # take an image to about zero mean and unit variance


class Swift(nn.Module):
    """Sub-images → residual blocks at each resolution, joined by skips that are added → the noise's sub-images.

    Ours. Of FFDNet (Zhang, Zuo and Zhang, IEEE TIP 2018) it has the sub-images, which make each convolution four times
    cheaper; of DRUNet (Zhang et al., IEEE TPAMI 2021) the residual blocks without normalisation, strided convolutions
    down and transposed ones up; of DnCNN that it predicts the noise. 568,836 parameters in grey, 573,452 in RGB. The
    channels double once, below the finest resolution, and no further: the time is spent where the pixels are.

    Args:
        channels: 1 (grey) or 3 (RGB).
        num_layers: resolutions, the finest (half the image's) included.
        num_blocks: residual blocks at each, down and up.
        num_features: channels at the finest resolution; at the others there are twice as many.
        activation: ``relu``, ``gelu``, ``hardswish``, ``xunit``, ``xunit_s`` or ``xunit_d``.
        activation_kernel_size: side of an xUnit's depthwise convolution, odd.
        activation_gate: an xUnit's gate, ``sigmoid`` or ``gaussian``.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        num_layers: int = 3,
        num_blocks: int = 2,
        num_features: int = 32,
        activation: ActivationName = "relu",
        activation_kernel_size: int = 9,
        activation_gate: GateName = "sigmoid",
    ) -> None:
        super().__init__()
        require_positive(channels=channels, num_layers=num_layers, num_blocks=num_blocks, num_features=num_features)
        activate = activation_factory(activation, activation_kernel_size, activation_gate)

        def blocks(features: int) -> nn.Sequential:
            return nn.Sequential(*(ResidualBlock(features, activate, bias=True) for _ in range(num_blocks)))

        widths = [num_features] + [2 * num_features] * (num_layers - 1)
        steps = list(pairwise(widths))
        self.first = same_conv(4 * channels, num_features, 3)
        self.encode = nn.ModuleList(blocks(fine) for fine, _ in steps)
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in steps)
        self.bottom = blocks(widths[-1])
        self.up = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in reversed(steps))
        self.decode = nn.ModuleList(blocks(fine) for fine, _ in reversed(steps))
        self.last = zero_init(same_conv(num_features, 4 * channels, 3))

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """[B, C, H, W] in [0, 1] → the clean estimate, same shape, unclamped. Blind: ``level`` is ignored."""
        height, width = noisy.shape[-2:]
        x = mirror_to_multiple(noisy, 2 ** (1 + len(self.down)))
        x = self.first(F.pixel_unshuffle(SCALE * (x - CENTRE), 2))  # [B, F, H/2, W/2]
        skips = []
        for encode, down in zip(self.encode, self.down, strict=True):
            skips.append(encode(x))
            x = down(skips[-1])  # [B, 2F, H/4, W/4]
        x = self.bottom(x)
        for up, decode in zip(self.up, self.decode, strict=True):
            x = decode(up(x) + skips.pop())  # [B, F, H/2, W/2]
        return noisy - F.pixel_shuffle(self.last(x), 2)[..., :height, :width]
