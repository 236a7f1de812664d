"""SCUNet: a U-shaped network whose blocks are half convolution, half attention in shifted windows."""

import torch
from torch import Tensor, nn

from denoisers.layers import replicate_to_multiple, require_positive
from denoisers.windows import init_linear, relative_positions, window_attention


class WindowAttention(nn.Module):
    """Attention within windows with a learned bias for each head and relative position; [B, H, W, C] → the same."""

    index: Tensor

    def __init__(self, num_features: int, num_heads: int, window_size: int, shift: int) -> None:
        super().__init__()
        self.window_size, self.shift = window_size, shift
        self.embedding_layer = nn.Linear(num_features, 3 * num_features)
        self.relative_position_params = nn.Parameter(torch.zeros(num_heads, 2 * window_size - 1, 2 * window_size - 1))
        self.register_buffer("index", relative_positions(window_size), persistent=False)
        self.linear = nn.Linear(num_features, num_features)
        nn.init.trunc_normal_(self.relative_position_params, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.relative_position_params.flatten(1)[:, self.index]  # [heads, window², window²]
        return window_attention(x, self.embedding_layer, self.linear, bias, self.window_size, self.shift)


class SwinBlock(nn.Module):
    """x + attention(norm(x)), then y + MLP(norm(y)); [B, H, W, C] → the same."""

    def __init__(self, num_features: int, num_heads: int, window_size: int, shift: int) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(num_features)
        self.msa = WindowAttention(num_features, num_heads, window_size, shift)
        self.ln2 = nn.LayerNorm(num_features)
        self.mlp = nn.Sequential(
            nn.Linear(num_features, 4 * num_features), nn.GELU(), nn.Linear(4 * num_features, num_features)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.msa(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class ConvTransBlock(nn.Module):
    """x + 1×1(residual convolutions of one half, Swin block of the other), the halves being those of 1×1(x)."""

    def __init__(self, num_features: int, head_features: int, window_size: int, shift: int) -> None:
        super().__init__()
        half = num_features // 2
        self.trans_block = SwinBlock(half, half // head_features, window_size, shift)
        self.conv1_1 = nn.Conv2d(num_features, num_features, 1)
        self.conv1_2 = nn.Conv2d(num_features, num_features, 1)
        self.conv_block = nn.Sequential(
            nn.Conv2d(half, half, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        local, distant = self.conv1_1(x).chunk(2, dim=1)  # [B, F/2, H, W] each
        local = local + self.conv_block(local)
        distant = self.trans_block(distant.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.conv1_2(torch.cat([local, distant], dim=1))


class SCUNet(nn.Module):
    """Blocks at four resolutions, strided convolutions down and up, skips added; puts out the clean image itself.

    Zhang, Li, Liang, Cao, Zhang, Tang, Fan, Timofte and Van Gool, "Practical Blind Image Denoising via
    Swin-Conv-UNet and Data Synthesis", Machine Intelligence Research 2023. 17,943,768 parameters in grey, 17,946,072
    in RGB. Module names are those of the published checkpoints; sizes are padded to a multiple of 64 (8 windows) by
    repeating the border, as by the authors.

    Deviations: no drop path; the coarser resolutions shift their windows whatever the size of the training crops; an
    image is seen whole (the authors' evaluation puts it together from four overlapping parts).

    Args:
        channels: 1 (grey) or 3 (RGB).
        num_features: channels at the finest resolution, doubled at each coarser one.
        num_blocks: on each of the seven stages: three down, one at the bottom, three up.
        head_features: channels of an attention head; they divide half of ``num_features``.
        window_size: side of a window.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        num_features: int = 64,
        num_blocks: int = 4,
        head_features: int = 32,
        window_size: int = 8,
    ) -> None:
        super().__init__()
        require_positive(channels=channels, num_features=num_features, num_blocks=num_blocks)
        require_positive(head_features=head_features, window_size=window_size)
        if num_features % (2 * head_features):
            raise ValueError(
                f"num_features={num_features}: must be a multiple of 2 · head_features={2 * head_features}"
            )
        self.multiple = 8 * window_size

        def blocks(features: int) -> list[nn.Module]:
            shifts = (window_size // 2 if i % 2 else 0 for i in range(num_blocks))
            return [ConvTransBlock(features, head_features, window_size, shift) for shift in shifts]

        def down(features: int) -> nn.Sequential:  # [B, F, H, W] → [B, 2F, H/2, W/2]
            return nn.Sequential(*blocks(features), nn.Conv2d(features, 2 * features, 2, stride=2, bias=False))

        def up(features: int) -> nn.Sequential:  # [B, 2F, H, W] → [B, F, 2H, 2W]
            widen = nn.ConvTranspose2d(2 * features, features, 2, stride=2, bias=False)
            return nn.Sequential(widen, *blocks(features))

        self.m_head = nn.Sequential(nn.Conv2d(channels, num_features, 3, padding=1, bias=False))
        self.m_down1 = down(num_features)
        self.m_down2 = down(2 * num_features)
        self.m_down3 = down(4 * num_features)
        self.m_body = nn.Sequential(*blocks(8 * num_features))
        self.m_up3 = up(4 * num_features)
        self.m_up2 = up(2 * num_features)
        self.m_up1 = up(num_features)
        self.m_tail = nn.Sequential(nn.Conv2d(num_features, channels, 3, padding=1, bias=False))
        self.apply(init_linear)

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """[B, C, H, W] in [0, 1] → the clean estimate, same shape, unclamped. Blind: ``level`` is ignored."""
        height, width = noisy.shape[-2:]
        skip1 = self.m_head(replicate_to_multiple(noisy, self.multiple))  # [B, F, H, W]
        skip2 = self.m_down1(skip1)  # [B, 2F, H/2, W/2]
        skip3 = self.m_down2(skip2)  # [B, 4F, H/4, W/4]
        skip4 = self.m_down3(skip3)  # [B, 8F, H/8, W/8]
        x = self.m_up3(self.m_body(skip4) + skip4)
        x = self.m_up2(x + skip3)
        x = self.m_up1(x + skip2)
        return self.m_tail(x + skip1)[..., :height, :width]
