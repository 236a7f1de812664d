"""SwinIR: attention in shifted windows at full resolution."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from denoisers.layers import mirror_to_multiple, require_positive, zero_init
from denoisers.windows import init_linear, relative_positions, window_attention

MEAN = {1: (0.0,), 3: (0.4488, 0.4371, 0.4040)}  # RGB: of DIV2K


class WindowAttention(nn.Module):
    """Attention within windows with a learned bias for each head and relative position; [B, H, W, C] → the same."""

    relative_position_index: Tensor

    def __init__(self, num_features: int, num_heads: int, window_size: int, shift: int) -> None:
        super().__init__()
        self.window_size, self.shift = window_size, shift
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, num_heads))
        self.register_buffer("relative_position_index", relative_positions(window_size), persistent=False)
        self.qkv = nn.Linear(num_features, 3 * num_features)
        self.proj = nn.Linear(num_features, num_features)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        return window_attention(x, self.qkv, self.proj, bias, self.window_size, self.shift)


class SwinBlock(nn.Module):
    """x + attention(norm(x)), then y + MLP(norm(y)); [B, H, W, C] → the same."""

    def __init__(self, num_features: int, num_heads: int, window_size: int, shift: int, expansion: float) -> None:
        super().__init__()
        hidden = int(num_features * expansion)
        self.norm1 = nn.LayerNorm(num_features)
        self.attn = WindowAttention(num_features, num_heads, window_size, shift)
        self.norm2 = nn.LayerNorm(num_features)
        self.mlp = nn.Sequential(
            OrderedDict(fc1=nn.Linear(num_features, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, num_features))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ResidualGroup(nn.Module):
    """x + conv(blocks(x)), every second block with its windows shifted by half; [B, H, W, C] → the same."""

    def __init__(self, num_features: int, num_blocks: int, num_heads: int, window_size: int, expansion: float) -> None:
        super().__init__()
        blocks = (
            SwinBlock(num_features, num_heads, window_size, window_size // 2 if i % 2 else 0, expansion)
            for i in range(num_blocks)
        )
        self.residual_group = nn.Sequential(OrderedDict(blocks=nn.Sequential(*blocks)))
        self.conv = nn.Conv2d(num_features, num_features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.residual_group(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def drop_constants(network: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before loading: published files also hold what the window size decides (and the mask of one training crop)."""
    constants = ("relative_position_index", "attn_mask")
    for key in [key for key in state if key.startswith(prefix) and key.endswith(constants)]:
        del state[key]


class SwinIR(nn.Module):
    """Convolution, groups of Swin blocks, convolution around them all; predicts the residual.

    Liang, Cao, Sun, Zhang, Van Gool and Timofte, "SwinIR: Image Restoration Using Swin Transformer", ICCVW 2021, as
    for denoising: 11,497,681 parameters in grey, 11,504,163 in RGB. Module names are those of the published
    checkpoints, and so is the mean that RGB images are relieved of (grey ones of none). Sizes that no window
    divides are mirrored, the border repeated, as the authors' evaluation does.

    Deviations: no drop path; sizes that windows divide are not padded (the authors' evaluation adds one window more);
    the mask is computed from the size, and −∞, not −100; the last convolution begins at zero.

    Args:
        channels: 1 (grey) or 3 (RGB).
        num_features: channels.
        num_groups: residual groups.
        num_blocks: Swin blocks in each.
        num_heads: of the attention; divides ``num_features``.
        window_size: side of a window.
        expansion: of the MLP's hidden layer.
    """

    mean: Tensor

    def __init__(
        self,
        *,
        channels: int = 1,
        num_features: int = 180,
        num_groups: int = 6,
        num_blocks: int = 6,
        num_heads: int = 6,
        window_size: int = 8,
        expansion: float = 2.0,
    ) -> None:
        super().__init__()
        require_positive(num_features=num_features, num_groups=num_groups, num_blocks=num_blocks)
        require_positive(num_heads=num_heads, window_size=window_size)
        if channels not in MEAN:
            raise ValueError(f"channels={channels}: must be 1 or 3")
        if num_features % num_heads:
            raise ValueError(f"num_heads={num_heads}: must divide num_features={num_features}")
        if num_features * expansion < 1:
            raise ValueError(f"expansion={expansion}: must leave at least one of {num_features} channels")
        self.window_size = window_size
        self.register_buffer("mean", torch.tensor(MEAN[channels]).view(1, channels, 1, 1), persistent=False)
        self.conv_first = nn.Conv2d(channels, num_features, 3, padding=1)
        self.patch_embed = nn.Sequential(OrderedDict(norm=nn.LayerNorm(num_features)))
        self.layers = nn.Sequential(
            *(ResidualGroup(num_features, num_blocks, num_heads, window_size, expansion) for _ in range(num_groups))
        )
        self.norm = nn.LayerNorm(num_features)
        self.conv_after_body = nn.Conv2d(num_features, num_features, 3, padding=1)
        self.conv_last = zero_init(nn.Conv2d(num_features, channels, 3, padding=1))
        self.apply(init_linear)
        self.register_load_state_dict_pre_hook(drop_constants)

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """[B, C, H, W] in [0, 1] → the clean estimate, same shape, unclamped. Blind: ``level`` is ignored."""
        height, width = noisy.shape[-2:]
        shallow = self.conv_first(mirror_to_multiple(noisy, self.window_size, repeat_edge=True) - self.mean)
        x = self.patch_embed(shallow.permute(0, 2, 3, 1))  # [B, H, W, F]
        x = self.norm(self.layers(x)).permute(0, 3, 1, 2)  # [B, F, H, W]
        return noisy + self.conv_last(shallow + self.conv_after_body(x))[..., :height, :width]
