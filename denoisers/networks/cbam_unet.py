"""CBAM U-Net: what the skips hand over is weighed, channel by channel and then pixel by pixel."""

import torch
from torch import Tensor, nn

from denoisers.layers import same_conv
from denoisers.networks.unet import UNet


class ChannelGate(nn.Module):
    """x · sigmoid(W₁ ReLU(W₀ mean(x)) + W₁ ReLU(W₀ max(x))), mean and maximum over all pixels."""

    def __init__(self, num_features: int, hidden: int) -> None:
        super().__init__()
        self.shared = nn.Sequential(
            nn.Conv2d(num_features, hidden, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, num_features, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        mean, largest = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)  # [B, C, 1, 1]
        return x * torch.sigmoid(self.shared(mean) + self.shared(largest))


class SpatialGate(nn.Module):
    """x · sigmoid(k×k convolution of (mean(x), max(x))), mean and maximum over the channels."""

    def __init__(self, kernel_size: int = 7) -> None:
        super().__init__()
        self.conv = same_conv(2, 1, kernel_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)  # [B, 2, H, W]
        return x * torch.sigmoid(self.conv(pooled))


class CBAM(nn.Module):
    """The convolutional block attention module: channels first, then space."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.channels = ChannelGate(num_features, max(8, num_features // 16))
        self.space = SpatialGate()

    def forward(self, x: Tensor) -> Tensor:
        return self.space(self.channels(x))


class CBAMUNet(UNet):
    """U-Net with a CBAM on each skip.

    Woo, Park, Lee and Kweon, "CBAM: Convolutional Block Attention Module", ECCV 2018, inside U-Net as
    :class:`~denoisers.networks.unet.UNet` describes it. 1,931,975 parameters in grey, 1,933,129 in RGB.

    Deviations: the module stands on the skips instead of in residual blocks; the hidden layer of its channel attention
    has a sixteenth of the channels, but at least eight (these networks are narrower than the paper's). The arguments
    are U-Net's.

    Channel attention pools over all that the network is shown. Tiles pool each for itself: a tile is a much larger
    sample than the crops the network learnt from, and takes 0.6 GB; a whole picture of 12 megapixels, 10 GB.
    """

    def on_skip(self, features: int) -> nn.Module:
        return CBAM(features)
