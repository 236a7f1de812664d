"""Restormer: a U-shaped transformer whose attention mixes channels, not pixels."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisers.layers import mirror_to_multiple, require_positive, zero_init


class BiasFreeNorm(nn.Module):
    """x / √(variance over the channels + 1e-5) · weight, pixel by pixel; the mean stays in."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        variance = x.var(1, correction=0, keepdim=True)  # [B, 1, H, W]
        return x * (variance + 1e-5).rsqrt() * self.weight[:, None, None]


class TransposedAttention(nn.Module):
    """Channels attend to channels of their head, compared as unit vectors over all the pixels ("MDTA")."""

    def __init__(self, num_features: int, num_heads: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = nn.Conv2d(num_features, 3 * num_features, 1, bias=False)
        self.qkv_dwconv = depthwise(3 * num_features)
        self.project_out = nn.Conv2d(num_features, num_features, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        features = self.qkv_dwconv(self.qkv(x)).unflatten(1, (3, len(self.temperature), -1))
        q, k, v = features.flatten(-2).unbind(1)  # each [B, heads, C/heads, H·W]
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.temperature
        mixed = scores.softmax(-1) @ v  # [B, heads, C/heads, H·W]
        return self.project_out(mixed.flatten(1, 2).unflatten(-1, x.shape[-2:]))


class GatedFeedForward(nn.Module):
    """1×1 and depthwise 3×3 convolutions to two halves, GELU(first) · second, 1×1 back ("GDFN")."""

    def __init__(self, num_features: int, expansion: float) -> None:
        super().__init__()
        hidden = int(num_features * expansion)
        self.project_in = nn.Conv2d(num_features, 2 * hidden, 1, bias=False)
        self.dwconv = depthwise(2 * hidden)
        self.project_out = nn.Conv2d(hidden, num_features, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(F.gelu(first) * second)


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then y + feed-forward(norm(y))."""

    def __init__(self, num_features: int, num_heads: int, expansion: float) -> None:
        super().__init__()
        self.norm1 = nn.Sequential(OrderedDict(body=BiasFreeNorm(num_features)))
        self.attn = TransposedAttention(num_features, num_heads)
        self.norm2 = nn.Sequential(OrderedDict(body=BiasFreeNorm(num_features)))
        self.ffn = GatedFeedForward(num_features, expansion)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


def depthwise(num_features: int) -> nn.Conv2d:
    return nn.Conv2d(num_features, num_features, 3, padding=1, groups=num_features, bias=False)


def down(num_features: int) -> nn.Sequential:
    """[B, F, H, W] → [B, 2F, H/2, W/2]."""
    conv = nn.Conv2d(num_features, num_features // 2, 3, padding=1, bias=False)
    return nn.Sequential(OrderedDict(body=nn.Sequential(conv, nn.PixelUnshuffle(2))))


def up(num_features: int) -> nn.Sequential:
    """[B, F, H, W] → [B, F/2, 2H, 2W]."""
    conv = nn.Conv2d(num_features, 2 * num_features, 3, padding=1, bias=False)
    return nn.Sequential(OrderedDict(body=nn.Sequential(conv, nn.PixelShuffle(2))))


class Restormer(nn.Module):
    """Transformer blocks at four resolutions, skips by concatenation, refinement at the finest; predicts the residual.

    Zamir, Arora, Khan, Hayat, Khan and Yang, "Restormer: Efficient Transformer for High-Resolution Image
    Restoration", CVPR 2022, as for denoising: no biases, in norms neither. 26,109,076 parameters in grey, 26,111,668
    in RGB. Module names are those of the published checkpoints. Sizes that 8 does not divide are mirrored, as the
    authors' evaluation does.

    Deviation: the last convolution begins at zero.

    Args:
        channels: 1 (grey) or 3 (RGB).
        num_features: channels F at the finest resolution, doubled at each coarser one; even.
        num_blocks: at each of the four resolutions, the finest first; the same on the way up.
        num_heads: of the attention at each of them.
        refinement_blocks: after the decoder, with 2F channels.
        expansion: of the feed-forward's halves.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        num_features: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_heads: Sequence[int] = (1, 2, 4, 8),
        refinement_blocks: int = 4,
        expansion: float = 2.66,
    ) -> None:
        super().__init__()
        require_positive(channels=channels, num_features=num_features, refinement_blocks=refinement_blocks)
        for name, values in (("num_blocks", num_blocks), ("num_heads", num_heads)):
            if len(values) != 4:
                raise ValueError(f"{name}={list(values)}: must be four numbers, one for each resolution")
            require_positive(**{f"{name}[{i}]": value for i, value in enumerate(values)})
        if num_features % 2:
            raise ValueError(f"num_features={num_features}: must be even")
        widths = [num_features * 2**i for i in range(4)]
        for i, (width, heads) in enumerate(zip(widths, num_heads, strict=True)):
            if width % heads:
                raise ValueError(f"num_heads[{i}]={heads}: must divide the {width} channels of that resolution")
        if num_features * expansion < 1:
            raise ValueError(f"expansion={expansion}: must leave at least one of {num_features} channels")

        def blocks(number: int, features: int, heads: int) -> nn.Sequential:
            return nn.Sequential(*(TransformerBlock(features, heads, expansion) for _ in range(number)))

        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)))
        self.encoder_level1 = blocks(num_blocks[0], widths[0], num_heads[0])
        self.down1_2 = down(widths[0])
        self.encoder_level2 = blocks(num_blocks[1], widths[1], num_heads[1])
        self.down2_3 = down(widths[1])
        self.encoder_level3 = blocks(num_blocks[2], widths[2], num_heads[2])
        self.down3_4 = down(widths[2])
        self.latent = blocks(num_blocks[3], widths[3], num_heads[3])
        self.up4_3 = up(widths[3])
        self.reduce_chan_level3 = nn.Conv2d(widths[3], widths[2], 1, bias=False)
        self.decoder_level3 = blocks(num_blocks[2], widths[2], num_heads[2])
        self.up3_2 = up(widths[2])
        self.reduce_chan_level2 = nn.Conv2d(widths[2], widths[1], 1, bias=False)
        self.decoder_level2 = blocks(num_blocks[1], widths[1], num_heads[1])
        self.up2_1 = up(widths[1])
        self.decoder_level1 = blocks(num_blocks[0], widths[1], num_heads[0])  # the skip is kept: 2F channels from here
        self.refinement = blocks(refinement_blocks, widths[1], num_heads[0])
        self.output = zero_init(nn.Conv2d(widths[1], channels, 3, padding=1, bias=False))

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """[B, C, H, W] in [0, 1] → the clean estimate, same shape, unclamped. Blind: ``level`` is ignored."""
        height, width = noisy.shape[-2:]
        skip1 = self.encoder_level1(self.patch_embed(mirror_to_multiple(noisy, 8)))  # [B, F, H, W]
        skip2 = self.encoder_level2(self.down1_2(skip1))  # [B, 2F, H/2, W/2]
        skip3 = self.encoder_level3(self.down2_3(skip2))  # [B, 4F, H/4, W/4]
        x = self.latent(self.down3_4(skip3))  # [B, 8F, H/8, W/8]
        x = self.decoder_level3(self.reduce_chan_level3(torch.cat([self.up4_3(x), skip3], dim=1)))
        x = self.decoder_level2(self.reduce_chan_level2(torch.cat([self.up3_2(x), skip2], dim=1)))
        x = self.decoder_level1(torch.cat([self.up2_1(x), skip1], dim=1))  # [B, 2F, H, W]
        return noisy + self.output(self.refinement(x))[..., :height, :width]
