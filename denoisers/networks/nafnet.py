"""NAFNet: a U-shaped network whose only non-linearity is the product of two halves."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from denoisers.layers import mirror_to_multiple, require_positive, zero_init


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of each pixel, [B, C, H, W] → the same."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def simple_gate(x: Tensor) -> Tensor:
    """[B, 2C, H, W] → [B, C, H, W]: the first half of the channels times the second."""
    first, second = x.chunk(2, dim=1)
    return first * second


class NAFBlock(nn.Module):
    """x + β · conv(attention(gate(conv(norm(x))))), then y + γ · conv(gate(conv(norm(y)))); β = γ = 0 at first."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm2d(num_features, eps=1e-6)
        self.conv1 = nn.Conv2d(num_features, 2 * num_features, 1)
        self.conv2 = nn.Conv2d(2 * num_features, 2 * num_features, 3, padding=1, groups=2 * num_features)
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(num_features, num_features, 1))
        self.conv3 = nn.Conv2d(num_features, num_features, 1)
        self.norm2 = LayerNorm2d(num_features, eps=1e-6)
        self.conv4 = nn.Conv2d(num_features, 2 * num_features, 1)
        self.conv5 = nn.Conv2d(num_features, num_features, 1)
        self.beta = nn.Parameter(torch.zeros(1, num_features, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, num_features, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = simple_gate(self.conv2(self.conv1(self.norm1(x))))
        x = x + self.beta * self.conv3(y * self.sca(y))  # simplified channel attention: [B, C, 1, 1], no squashing
        return x + self.gamma * self.conv5(simple_gate(self.conv4(self.norm2(x))))


class NAFNet(nn.Module):
    """Blocks at several resolutions, strided convolutions down, PixelShuffle up, skips added; predicts the residual.

    Chen, Chu, Zhang and Sun, "Simple Baselines for Image Restoration", ECCV 2022. In RGB, with encoder 2-2-4-8,
    middle 12 and decoder 2-2-2-2: 29,159,715 parameters with 32 features, 115,982,915 with 64 (grey: 29,158,561 and
    115,980,609). Module names are those of the published checkpoints.

    Deviations: sizes that no 2ⁿ divides are mirrored, not padded with zeros, and the last convolution begins at zero.
    The attention averages over the whole picture in evaluation too (the authors' for deblurring averages over 1.5
    training crops).

    Args:
        channels: 1 (grey) or 3 (RGB).
        num_features: channels at the finest resolution, doubled at each coarser one.
        encoder_blocks: at each resolution on the way down, the finest first.
        middle_blocks: at the coarsest resolution, below all of them.
        decoder_blocks: on the way up, the coarsest first; as many resolutions as ``encoder_blocks``.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        num_features: int = 32,
        encoder_blocks: Sequence[int] = (2, 2, 4, 8),
        middle_blocks: int = 12,
        decoder_blocks: Sequence[int] = (2, 2, 2, 2),
    ) -> None:
        super().__init__()
        require_positive(channels=channels, num_features=num_features, middle_blocks=middle_blocks)
        require_positive(**{f"encoder_blocks[{i}]": number for i, number in enumerate(encoder_blocks)})
        require_positive(**{f"decoder_blocks[{i}]": number for i, number in enumerate(decoder_blocks)})
        if len(decoder_blocks) != len(encoder_blocks):
            raise ValueError(f"decoder_blocks={list(decoder_blocks)}: must be as many numbers as encoder_blocks")

        def blocks(number: int, features: int) -> nn.Sequential:
            return nn.Sequential(*(NAFBlock(features) for _ in range(number)))

        widths = [num_features * 2**i for i in range(len(encoder_blocks))]
        coarse = num_features * 2 ** len(widths)
        self.intro = nn.Conv2d(channels, num_features, 3, padding=1)
        self.encoders = nn.ModuleList(blocks(n, w) for n, w in zip(encoder_blocks, widths, strict=True))
        self.downs = nn.ModuleList(nn.Conv2d(w, 2 * w, 2, stride=2) for w in widths)
        self.middle_blks = blocks(middle_blocks, coarse)
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * w, 4 * w, 1, bias=False), nn.PixelShuffle(2)) for w in reversed(widths)
        )
        self.decoders = nn.ModuleList(blocks(n, w) for n, w in zip(decoder_blocks, reversed(widths), strict=True))
        self.ending = zero_init(nn.Conv2d(num_features, channels, 3, padding=1))

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """[B, C, H, W] in [0, 1] → the clean estimate, same shape, unclamped. Blind: ``level`` is ignored."""
        height, width = noisy.shape[-2:]
        x = self.intro(mirror_to_multiple(noisy, 2 ** len(self.downs)))  # [B, F, H, W]
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            skips.append(encoder(x))
            x = down(skips[-1])  # [B, 2F, H/2, W/2]
        x = self.middle_blks(x)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            x = decoder(up(x) + skips.pop())  # [B, F, 2H, 2W]
        return noisy + self.ending(x)[..., :height, :width]
