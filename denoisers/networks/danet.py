"""DANet: dual attention, over positions and over channels, between an encoder and a decoder."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisers.layers import Activate, conv_norm, same_conv
from denoisers.networks.unet import UNet


class PositionAttention(nn.Module):
    """α · Σᵢ sⱼᵢ Dᵢ + Aⱼ, where sⱼᵢ is the softmax over all positions i of Cⱼ · Bᵢ: like pixels help each other.

    B, C and D are 1×1 convolutions of the input A, B and C to an eighth of its channels; α begins at zero.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        reduced = max(1, num_features // 8)
        self.query = nn.Conv2d(num_features, reduced, 1)
        self.key = nn.Conv2d(num_features, reduced, 1, bias=False)  # a bias would fall out of the softmax
        self.value = nn.Conv2d(num_features, num_features, 1)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            conv(x).flatten(2).transpose(1, 2)[:, None].contiguous() for conv in (self.query, self.key, self.value)
        )  # [B, 1, HW, F]
        # made equally wide, or PyTorch would hold the HW × HW weights in memory
        query, key = (F.pad(narrow, (0, value.shape[-1] - narrow.shape[-1])) for narrow in (query, key))
        mean = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return self.weight * mean[:, 0].transpose(1, 2).reshape(x.shape) + x


class ChannelAttention(nn.Module):
    """β · Σᵢ xⱼᵢ Aᵢ + Aⱼ, where xⱼᵢ is the softmax over all channels i of the mean of AⱼAᵢ over the positions.

    β begins at zero.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        planes = x.flatten(2)  # [B, F, HW]
        likeness = planes @ planes.transpose(1, 2) / planes.shape[2]  # [B, F, F]
        return self.weight * (likeness.softmax(-1) @ planes).reshape(x.shape) + x


class DualAttention(nn.Module):
    """Both attentions side by side, each between two convolutions, added and mixed by a 1×1 convolution."""

    def __init__(self, num_features: int, kernel_size: int, activate: Activate) -> None:
        super().__init__()
        reduced = max(1, num_features // 4)

        def branch(attention: nn.Module) -> nn.Sequential:
            before = conv_norm(num_features, reduced, kernel_size, activate)
            return nn.Sequential(*before, attention, *conv_norm(reduced, reduced, kernel_size, activate))

        self.position = branch(PositionAttention(reduced))
        self.channel = branch(ChannelAttention())
        self.mix = same_conv(reduced, num_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.position(x) + self.channel(x))


class DANet(UNet):
    """U-Net with dual attention at its coarsest resolution.

    Fu, Liu, Tian, Li, Bao, Fang and Lu, "Dual Attention Network for Scene Segmentation", CVPR 2019. 2,319,339
    parameters in grey, 2,320,493 in RGB. Not the dual *adversarial* network of Yue et al., ECCV 2020.

    Deviations: the encoder and the decoder are those of :class:`~denoisers.networks.unet.UNet`, which predicts the
    residual, where the paper has a dilated ResNet and a classifier. The attention stands at the coarsest resolution,
    an eighth of the picture's in four levels: all pairs of pixels are too many elsewhere. Likenesses of channels are
    means over the positions instead of sums, or the softmax would sharpen with the picture's size. The key has no bias.
    The arguments are U-Net's.

    Attention sees all that the network is shown, at most one tile: time grows with the square of a tile's pixels.
    """

    def at_bottom(self, features: int, kernel_size: int, activate: Activate) -> nn.Module:
        return DualAttention(features, kernel_size, activate)
