"""ResUNet: a U-Net of residual blocks, squeeze-and-excitation in its decoder."""

from torch import Tensor, nn

from denoisers.layers import Activate, SqueezeExcite, conv_norm, same_conv
from denoisers.networks.unet import UNet


class ResidualDoubleConv(nn.Module):
    """activate(attend(BN(conv(activate(BN(conv(x)))))) + x): the basic block of He et al., CVPR 2016.

    Where the widths differ, a 1×1 convolution with batch norm takes x to the new one.

    Args:
        in_features, out_features: channels before and after.
        kernel_size: side of both convolutions.
        activate: channels → activation.
        attend: what the sum of both convolutions passes before x is added.
    """

    def __init__(
        self, in_features: int, out_features: int, kernel_size: int, activate: Activate, attend: nn.Module
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_norm(in_features, out_features, kernel_size, activate),
            same_conv(out_features, out_features, kernel_size),
            nn.BatchNorm2d(out_features),
            attend,
        )
        self.shortcut: nn.Module = nn.Identity()
        if in_features != out_features:
            self.shortcut = nn.Sequential(same_conv(in_features, out_features, 1), nn.BatchNorm2d(out_features))
        self.activate = activate(out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.activate(self.body(x) + self.shortcut(x))


class Upsample(nn.Module):
    """Twice the size in two ways, added: [B, in, H, W] → [B, out, 2H, 2W].

    A transposed convolution, 4×4 with stride 2, whose windows overlap: each new pixel knows two by two old ones. And a
    1×1 convolution to 4·out channels with PixelShuffle (Shi et al., CVPR 2016): each old pixel alone makes two by two
    new ones.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.transposed = nn.ConvTranspose2d(in_features, out_features, 4, stride=2, padding=1)
        self.shuffled = nn.Sequential(nn.Conv2d(in_features, 4 * out_features, 1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.transposed(x) + self.shuffled(x)


class ResUNet(UNet):
    """U-Net of residual double convolutions, squeeze-and-excitation in the decoder's, upsampling in two ways.

    Zhang, Liu and Wang, "Road Extraction by Deep Residual U-Net", IEEE GRSL 2018; Hu, Shen and Sun,
    "Squeeze-and-Excitation Networks", CVPR 2018. 2,709,113 parameters in grey, 2,710,331 in RGB.

    Deviations from the first: the activation follows the sum instead of preceding the convolutions, max-pooling instead
    of strides, four resolutions, 32 channels at the finest, squeeze-and-excitation (to a sixteenth of the channels, at
    least eight), upsampling learnt (see :class:`Upsample`). The last convolution, which predicts the residual, begins
    at zero. The arguments are U-Net's.

    Squeeze-and-excitation takes the mean over all that the network is shown. Tiles take it each for itself: a tile is
    a much larger sample than the crops it learnt from, and takes 0.7 GB; a whole picture of 12 megapixels, 12 GB.
    """

    def encode(self, in_features: int, out_features: int, kernel_size: int, activate: Activate) -> nn.Module:
        return ResidualDoubleConv(in_features, out_features, kernel_size, activate, attend=nn.Identity())

    def upsample(self, in_features: int, out_features: int) -> nn.Module:
        return Upsample(in_features, out_features)

    def decode(self, in_features: int, out_features: int, kernel_size: int, activate: Activate) -> nn.Module:
        attend = SqueezeExcite(out_features, max(8, out_features // 16))
        return ResidualDoubleConv(in_features, out_features, kernel_size, activate, attend)
