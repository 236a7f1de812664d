"""A U-Net of 3-D convolutions: a clip is cleaned as a whole, pooled in space only."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from denoisers.activations import ActivationName, GateName, activation_factory
from denoisers.clips import frames
from denoisers.layers import Activate, mirror_to_multiple, require_positive, same_conv, zero_init


class Conv3dUNet(nn.Module):
    """Two 3×3×3 convolutions per level, max-pooling down, transposed convolution up, skips joined by concatenation.

    Çiçek, Abdulkadir, Lienkamp, Brox and Ronneberger, "3D U-Net: Learning Dense Volumetric Segmentation from Sparse
    Annotation", MICCAI 2016. Frames beyond an end are that of the end, repeated in each layer. Images are clips of one
    frame.

    Deviations: it pools and upsamples in space only, so that clips may have any length; zero-padded convolutions (the
    output has the input's size); F and F channels in a level instead of F and 2F; the network predicts the residual,
    its last convolution beginning at zero.

    Args:
        channels: 1 (grey) or 3 (RGB).
        num_layers: resolutions, the finest included; 1 has no pooling.
        num_features: channels at the finest resolution, doubled at each coarser one.
        activation: ``relu``, ``gelu``, ``hardswish``, ``xunit``, ``xunit_s`` or ``xunit_d``.
        activation_kernel_size: side of an xUnit's depthwise convolution, odd.
        activation_gate: an xUnit's gate, ``sigmoid`` or ``gaussian``.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        num_layers: int = 3,
        num_features: int = 24,
        activation: ActivationName = "relu",
        activation_kernel_size: int = 9,
        activation_gate: GateName = "sigmoid",
    ) -> None:
        super().__init__()
        require_positive(channels=channels, num_layers=num_layers, num_features=num_features)
        activate = activation_factory(activation, activation_kernel_size, activation_gate)

        widths = [num_features * 2**i for i in range(num_layers)]
        #: frames and pixels that an estimate reaches; xUnits reach further
        self.reach = (4 * num_layers - 2, 7 * 2 ** (num_layers - 1) - 5)
        self.down = nn.ModuleList(Level(into, out, activate) for into, out in pairwise([channels, *widths]))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1]))
        self.merge = nn.ModuleList(Level(2 * w, w, activate) for w in reversed(widths[:-1]))
        self.last = zero_init(same_conv(num_features, channels, 1))

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """Clips [B, T, C, H, W], or images [B, C, H, W], in [0, 1] → the clean estimate, same shape, unclamped.

        Blind: ``level`` is ignored.
        """
        length = noisy.shape[1] if noisy.ndim == 5 else 1
        x = mirror_to_multiple(frames(noisy), 2 ** len(self.up))  # [B · T, C, H', W']
        skips: list[Tensor] = []
        for down in self.down:
            x = down(self.pool(x) if skips else x, length)  # [B · T, 2F, H/2, W/2]
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], dim=1), length)  # [B · T, F, 2H, 2W]
        return noisy - self.last(x)[..., : noisy.shape[-2], : noisy.shape[-1]].reshape(noisy.shape)


class Level(nn.Module):
    """Twice 3×3×3 convolution, batch norm, activation."""

    def __init__(self, into: int, out: int, activate: Activate) -> None:
        super().__init__()
        self.convs = nn.ModuleList([Conv3d(into, out), Conv3d(out, out)])
        self.after = nn.ModuleList(nn.Sequential(nn.BatchNorm2d(out), activate(out)) for _ in self.convs)

    def forward(self, x: Tensor, length: int) -> Tensor:
        """[B · T, C, H, W], of clips of ``length`` frames T → the same with other channels."""
        for conv, after in zip(self.convs, self.after, strict=True):
            x = after(conv(x, length))
        return x


class Conv3d(nn.Module):
    """A 3×3×3 convolution of a clip, zero-padded in space; in time the frames at the ends are repeated.

    Computed as a 2-D convolution of each frame's channels and its neighbours', which is the same sum: so it has 4-D
    weights, and is as fast channels last, with bf16 and under Muon as other networks are.
    """

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.conv = same_conv(3 * into, out, 3)  # weight [out, 3 · into, 3, 3]: before, now, after

    def forward(self, x: Tensor, length: int) -> Tensor:
        """[B · T, in, H, W], of clips of ``length`` frames T → [B · T, out, H, W]"""
        clip = x.unflatten(0, (-1, length))
        before = torch.cat([clip[:, :1], clip[:, :-1]], dim=1)
        after = torch.cat([clip[:, 1:], clip[:, -1:]], dim=1)
        return self.conv(torch.cat([before, clip, after], dim=2).flatten(0, 1))
