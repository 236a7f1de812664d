"""FastDVDnet: a frame is cleaned together with the two before and the two after it, without motion compensation."""

import torch
from torch import Tensor, nn

from denoisers.activations import ActivationName, GateName, activation_factory
from denoisers.clips import frames
from denoisers.layers import Activate, level_map, mirror_to_multiple, mirrored, require_positive, zero_init


class FastDVDnet(nn.Module):
    """Two steps, each a small U-Net that cleans the middle one of three frames; the second sees what the first gave.

    Tassano, Delon and Veit, "FastDVDnet: Towards Real-Time Deep Video Denoising Without Flow Estimation", CVPR 2020;
    2,479,096 parameters in RGB. An estimate depends on five frames. The first step's output is computed once for each
    frame and shared by the three windows that it is in. Frames beyond an end are mirrored about the frame at the end
    (``c b | a b c``); a clip of one frame is repeated. Images are clips of one frame.

    Deviations: all frames of a clip are estimated, those at its ends too, where the authors train on the middle one of
    five; every frame has a level of its own; the last convolution of each step begins at zero, so that the untrained
    network is the identity.

    Args:
        channels: 1 (grey) or 3 (RGB).
        num_features: channels at the finest resolution; at the coarser ones there are twice and four times as many.
        frame_features: channels into which each frame is brought by itself.
        told: whether it sees a map of the noise level beside each frame, as the paper has it; False: it is blind.
        neighbours: False shows it the middle frame in the place of its neighbours: a network of single frames, of the
            same size.
        activation: ``relu``, ``gelu``, ``hardswish``, ``xunit``, ``xunit_s`` or ``xunit_d``.
        activation_kernel_size: side of an xUnit's depthwise convolution, odd.
        activation_gate: an xUnit's gate, ``sigmoid`` or ``gaussian``.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        num_features: int = 32,
        frame_features: int = 30,
        told: bool = True,
        neighbours: bool = True,
        activation: ActivationName = "relu",
        activation_kernel_size: int = 9,
        activation_gate: GateName = "sigmoid",
    ) -> None:
        super().__init__()
        require_positive(channels=channels, num_features=num_features, frame_features=frame_features)
        activate = activation_factory(activation, activation_kernel_size, activation_gate)
        self.told, self.neighbours = told, neighbours
        #: frames and pixels that an estimate reaches; xUnits reach further
        self.reach = (2 if neighbours else 0, 80)
        self.first = Step(channels, told, num_features, frame_features, activate)
        self.second = Step(channels, told, num_features, frame_features, activate)

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """Clips [B, T, C, H, W], or images [B, C, H, W], in [0, 1] → the clean estimate, same shape, unclamped.

        Args:
            level: [B, T, 1, 1, 1] or a map [B, T, 1, H, W]; of images as ever, [B, 1, 1, 1] or [B, 1, H, W].

        Raises:
            LevelError: it is to be told the level, and is not.
        """
        batch, length = noisy.shape[:2] if noisy.ndim == 5 else (noisy.shape[0], 1)
        x = frames(noisy)
        if self.told:
            x = torch.cat([x, level_map(None if level is None else frames(level), x, type(self).__name__)], dim=1)
        x = mirror_to_multiple(x, 4).unflatten(0, (batch, length))  # [B, T, C + 1, H', W']
        if self.neighbours:
            x = x.index_select(1, mirrored(length, 2, 2, x.device))  # [B, T + 4, C + 1, H', W']
        shown = self.windows(x)
        first = self.first(shown.flatten(0, 1)).unflatten(0, shown.shape[:2])  # [B, T + 2, C, H', W']
        if self.told:
            levels = x[:, :, -1:]
            first = torch.cat([first, levels[:, 1:-1] if self.neighbours else levels], dim=2)
        estimate = self.second(self.windows(first).flatten(0, 1))  # [B · T, C, H', W']
        return estimate[..., : noisy.shape[-2], : noisy.shape[-1]].reshape(noisy.shape)

    def windows(self, x: Tensor) -> Tensor:
        """[B, T + 2, C, H, W] → each frame between its neighbours [B, T, 3C, H, W]; alone, [B, T, …] → three times."""
        return torch.cat([x[:, :-2], x[:, 1:-1], x[:, 2:]] if self.neighbours else [x, x, x], dim=2)


class Step(nn.Module):
    """Three frames, each with its level map → the middle one's estimate: a U-Net of three resolutions.

    Each frame is first convolved by itself; skips are added; the noise of the middle frame is what comes out.
    """

    def __init__(self, channels: int, told: bool, num_features: int, frame_features: int, activate: Activate) -> None:
        super().__init__()
        fine, middle, coarse = num_features, 2 * num_features, 4 * num_features
        self.channels, self.shown = channels, channels + told
        self.inlet = nn.Sequential(
            *conv(3 * self.shown, 3 * frame_features, activate, groups=3), *conv(3 * frame_features, fine, activate)
        )
        self.down = nn.Sequential(*conv(fine, middle, activate, stride=2), *two(middle, activate))
        self.deep = nn.Sequential(*conv(middle, coarse, activate, stride=2), *two(coarse, activate))
        self.rise = nn.Sequential(*two(coarse, activate), plain(coarse, 4 * middle), nn.PixelShuffle(2))
        self.up = nn.Sequential(*two(middle, activate), plain(middle, 4 * fine), nn.PixelShuffle(2))
        self.outlet = zero_init(nn.Sequential(*conv(fine, fine, activate), plain(fine, channels)))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3(C + 1), H, W] → [N, C, H, W]; H and W are multiples of 4."""
        middle = x[:, self.shown : self.shown + self.channels]
        fine = self.inlet(x)  # [N, F, H, W]
        half = self.down(fine)  # [N, 2F, H/2, W/2]
        half = half + self.rise(self.deep(half))
        return middle - self.outlet(fine + self.up(half))


def plain(into: int, out: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A 3×3 convolution without bias, He-initialised, as the authors have it."""
    layer = nn.Conv2d(into, out, 3, stride, padding=1, groups=groups, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layer


def conv(into: int, out: int, activate: Activate, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution, batch norm, activation."""
    return [plain(into, out, stride, groups), nn.BatchNorm2d(out), activate(out)]


def two(features: int, activate: Activate) -> list[nn.Module]:
    """Twice that."""
    return [*conv(features, features, activate), *conv(features, features, activate)]
