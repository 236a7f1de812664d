"""How a trained network meets a real picture."""

from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor, nn

from denoisers.layers import channels_last
from denoisers.tiles import tiled
from denoisers.weights import open_network

Level = Tensor | float | None


class Denoiser(nn.Module):
    """A trained network that takes pictures as they come.

    A grey network cleans a colour picture channel by channel; a colour network sees a grey picture three times and
    answers with the mean of its three estimates.

    Args:
        network: ``network(noisy, level) -> estimate``.
        channels: what it was trained on, 1 or 3.
    """

    def __init__(self, network: nn.Module, channels: int) -> None:
        super().__init__()
        self.network = channels_last(network)
        self.channels = channels

    @overload
    def forward(self, image: np.ndarray, level: Level = None) -> np.ndarray: ...
    @overload
    def forward(self, image: Tensor, level: Level = None) -> Tensor: ...

    @torch.inference_mode()
    def forward(self, image: np.ndarray | Tensor, level: Level = None) -> np.ndarray | Tensor:
        """A noisy picture → the clean estimate, clamped to the range, in the form it came in.

        Args:
            image: an array [H, W] or [H, W, C], uint8 or float in [0, 1]; or a float tensor [C, H, W] or
                [B, C, H, W] in [0, 1]; C is 1 or 3.
            level: for networks that are told the noise: its standard deviation on the [0, 1] scale, a number,
                [B, 1, 1, 1] or a map [B, 1, H, W].

        Raises:
            ValueError: any other shape or type; LevelError: the network is to be told the noise, and is not.
        """
        if isinstance(level, float | int):
            level = torch.full((1, 1, 1, 1), float(level))
        if isinstance(image, Tensor):
            if image.ndim not in (3, 4) or image.shape[-3] not in (1, 3) or not image.is_floating_point():
                raise ValueError(f"a float tensor [C, H, W] or [B, C, H, W] with C = 1 or 3, not {describe(image)}")
            batch = image if image.ndim == 4 else image[None]
            return self.estimate(batch, level).clamp(0, 1).to(image).reshape(image.shape)

        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
            raise ValueError(f"an array [H, W] or [H, W, C] with C = 1 or 3, not {describe(image)}")
        if image.dtype != np.uint8 and image.dtype.kind != "f":
            raise ValueError(f"an array of uint8, or of floats in [0, 1], not {describe(image)}")
        scale = 255 if image.dtype == np.uint8 else 1
        planes = image.reshape(*image.shape[:2], -1).transpose(2, 0, 1)  # [C, H, W]
        batch = torch.from_numpy(np.array(planes, dtype=np.float32))[None] / scale
        clean = self.estimate(batch, level).clamp(0, 1)[0].permute(1, 2, 0).cpu().numpy() * scale  # [H, W, C]
        return (clean.round() if scale == 255 else clean).astype(image.dtype).reshape(image.shape)

    def estimate(self, noisy: Tensor, level: Tensor | None) -> Tensor:
        """[B, C, H, W] with C = 1 or 3 → the same, whatever the network's own channels are."""
        noisy = noisy.float().to(next((p.device for p in self.network.parameters()), noisy.device))
        if noisy.shape[1] == self.channels:
            return tiled(self.network, noisy, level)
        if self.channels == 1:
            return torch.cat([tiled(self.network, plane, level) for plane in noisy.split(1, dim=1)], dim=1)
        return tiled(self.network, noisy.expand(-1, 3, -1, -1), level).mean(dim=1, keepdim=True)


def describe(image: np.ndarray | Tensor) -> str:
    """Shape and type, for messages."""
    return f"{image.dtype} of shape {tuple(image.shape)}"


def load(path: str | Path) -> Denoiser:
    """The denoiser of a run's folder, a checkpoint file or published weights: ``denoisers.load(path)(image)``.

    Raises:
        CheckpointError: no such file, a damaged, unsafe or unknown one, or weights that do not fit.
    """
    opened = open_network(path)
    return Denoiser(opened.network, opened.channels).eval()
