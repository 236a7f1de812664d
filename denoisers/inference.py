"""How a trained network meets a real picture."""

import functools
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import torch
from torch import Tensor, nn

from denoisers.checkpoint import CheckpointError
from denoisers.folding import folded_alike
from denoisers.layers import LevelError, channels_last
from denoisers.receptive import Network, sight_of
from denoisers.tiles import WHOLE, Plan, bands, halving, largest_tile, plan_for, tiled
from denoisers.views import EIGHT, UPRIGHT
from denoisers.weights import open_network

Level = Tensor | float | None
Colour = Literal["channels", "luminance"]
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Denoiser(nn.Module):
    """A trained network that takes pictures as they come, of any size.

    A grey network cleans a colour picture channel by channel, or its luminance alone; a colour network sees a grey
    picture three times and answers with the mean of its three estimates.

    Args:
        network: ``network(noisy, level) -> estimate``.
        channels: what it was trained on, 1 or 3.
        ensemble: whether the estimate is the mean over those of the picture's eight flips and rotations.
        strength: how much of the residual is taken away, 0 (the noisy picture) to 1 (the estimate).
        colour: what a grey network cleans of a colour picture: ``channels``, each, or ``luminance`` (ITU-R BT.601),
            whose change is added to all three, so that colour differences stay as they are, their noise included.
        tile: the side of the tiles that larger pictures are cut into; None: the largest that fits when the first one
            comes, see :func:`denoisers.tiles.tiled`.

    Attributes:
        plan: how the last picture was cut.
        exact: whether tiles may grow so that the network sees as much as in the whole picture; else some are blended.

    Raises:
        ValueError: a strength beyond 0 and 1, or another way with colour.
    """

    def __init__(
        self,
        network: nn.Module,
        channels: int,
        *,
        ensemble: bool = False,
        strength: float = 1.0,
        colour: Colour = "channels",
        tile: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= strength <= 1:
            raise ValueError(f"strength={strength}: must lie between 0, the noisy picture, and 1, the clean estimate")
        if colour not in get_args(Colour):
            raise ValueError(f"colour={colour}: must be {' or '.join(get_args(Colour))}")
        self.network = channels_last(network)
        self.channels, self.strength, self.colour, self.tile = channels, strength, colour, tile
        self.views = EIGHT if ensemble else UPRIGHT
        self.exact = tile is not None
        self.plan: Plan | None = None

    @property
    def luminance(self) -> bool:
        """Whether it sees of colours their luminance alone, whose noise it then is to be told."""
        return self.channels == 1 and self.colour == "luminance"

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next((weight.device for weight in self.network.parameters()), torch.device("cpu"))

    @functools.cached_property
    @torch.inference_mode()
    def told(self) -> bool:
        """Whether the network has to be told how strong the noise is."""
        try:
            self.network(torch.zeros(1, self.channels, 32, 32, device=self.device))
        except LevelError:
            return True
        return False

    @overload
    def forward(self, image: np.ndarray, level: Level = None) -> np.ndarray: ...
    @overload
    def forward(self, image: Tensor, level: Level = None) -> Tensor: ...

    @torch.inference_mode()
    def forward(self, image: np.ndarray | Tensor, level: Level = None) -> np.ndarray | Tensor:
        """A noisy picture → the clean estimate, clamped to the range, in the form it came in.

        Args:
            image: an array [H, W] or [H, W, C], uint8, uint16 or float in [0, 1]; or a float tensor [C, H, W] or
                [B, C, H, W] in [0, 1]; C is 1 or 3.
            level: for networks that are told the noise: its standard deviation on the [0, 1] scale, a number,
                [B, 1, 1, 1] or a map [B, 1, H, W].

        Raises:
            ValueError: any other shape or type; LevelError: the network is to be told the noise, and is not.
        """
        if isinstance(image, Tensor):
            if image.ndim not in (3, 4) or image.shape[-3] not in (1, 3) or not image.is_floating_point():
                raise ValueError(f"a float tensor [C, H, W] or [B, C, H, W] with C = 1 or 3, not {describe(image)}")
            batch, clean = image if image.ndim == 4 else image[None], torch.empty_like(image)
            self.run(batch, level, clean.view(batch.shape).__setitem__)
            return clean

        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
            raise ValueError(f"an array [H, W] or [H, W, C] with C = 1 or 3, not {describe(image)}")
        if image.dtype not in (np.uint8, np.uint16) and image.dtype.kind != "f":
            raise ValueError(f"an array of uint8 or uint16, or of floats in [0, 1], not {describe(image)}")
        return self.clean(image.reshape(*image.shape[:2], -1), level).reshape(image.shape)

    @torch.inference_mode()
    def clean(
        self,
        pixels: np.ndarray,
        level: Level = None,
        out: np.ndarray | None = None,
        limits: tuple[float, float] | None = None,
    ) -> np.ndarray:
        """An array [H, W, C] → its clean estimate, of the same type; floats are made of a tile at a time.

        Args:
            out: what the estimate is written into: another array of that shape and type; None: a new one.
            limits: the numbers that stand for black and white, beyond which there is no estimate; None: those of the
                type, of floats 0 and 1.
        """
        low, high = limits or (0, np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1)
        clean = np.empty_like(pixels) if out is None else out

        def put(place: Any, estimate: Tensor) -> None:
            rows = estimate[0].permute(1, 2, 0).cpu().numpy() * (high - low) + low  # [h, W, C]
            clean[place[-2]] = np.rint(rows) if clean.dtype.kind == "u" else rows

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of arrays that are not to be written to
            planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]  # [1, C, H, W]
        self.run(planes, level, put, (low, high))
        return clean

    def run(
        self,
        noisy: Tensor,
        level: Level,
        put: Callable[[Any, Tensor], object],
        limits: tuple[float, float] = (0, 1),
    ) -> None:
        """Hands the clean estimate of [B, C, H, W], of any type, out as it is done: ``put((..., rows, :), [0, 1])``."""
        low, high = limits
        device = self.device
        if isinstance(level, float | int):
            level = torch.full((1, 1, 1, 1), float(level))
        level = None if level is None else level.to(device, torch.float32)

        def prepare(cut: Tensor) -> Tensor:
            return (cut.to(device, torch.float32, memory_format=torch.contiguous_format) - low) / (high - low)

        def planned(side: int | None, exact: bool) -> Plan:
            return plan_for(self.network, self.channels, noisy.shape[-2:], device, tile=side, exact=exact)

        if self.tile is None and math.prod(noisy.shape[-2:]) > WHOLE**2 and not getattr(self.network, "whole", False):
            self.tile = largest_tile(self.network, self.channels, device, sight_of(self.network, self.channels))

        def run(plan: Plan) -> None:
            for rows, estimate in bands(self.estimate, noisy, level, plan, self.views, prepare):
                if self.strength < 1:
                    given = prepare(noisy[..., rows, :])
                    estimate = given + self.strength * (estimate - given)
                put((..., rows, slice(None)), estimate.clamp(0, 1))

        first = planned(self.tile, self.exact)
        _, self.plan = halving(run, first, lambda side: planned(side, exact=False))
        if self.plan is not first:
            self.tile, self.exact = self.plan.tile, False

    @torch.inference_mode()
    def clip(self, frames: np.ndarray, level: float | None = None) -> np.ndarray:
        """The frames of a video, uint8 or uint16 [T, H, W, C], by a network that sees time → the same, clean."""
        white = float(np.iinfo(frames.dtype).max)
        noisy = torch.from_numpy(frames.transpose(0, 3, 1, 2).astype(np.float32) / white)[None].to(self.device)

        def network(shown: Tensor, level: Tensor | None) -> Tensor:
            return tiled(self.network, shown, level, tile=self.tile, window=len(frames))

        levels = None if level is None else noisy.new_full((1, len(frames), 1, 1, 1), level)
        views = [view.undo(self.estimate(view.of(noisy).contiguous(), levels, network)) for view in self.views]
        clean = noisy + self.strength * (sum(views) / len(views) - noisy)
        return (clean.clamp(0, 1) * white).round()[0].permute(0, 2, 3, 1).cpu().numpy().astype(frames.dtype)

    def estimate(self, noisy: Tensor, level: Tensor | None, network: Network | None = None) -> Tensor:
        """[..., C, H, W] with C = 1 or 3 → the same, whatever the network's own channels are."""
        network = network or self.network
        if noisy.shape[-3] == self.channels:
            return network(noisy, level)
        if self.channels == 3:
            shape = [-1] * noisy.ndim
            shape[-3] = 3
            return network(noisy.expand(shape), level).mean(dim=-3, keepdim=True)
        if self.colour == "channels":
            return torch.cat([network(plane, level) for plane in noisy.split(1, dim=-3)], dim=-3)
        luma = (noisy * noisy.new_tensor(LUMA)[:, None, None]).sum(dim=-3, keepdim=True)
        return noisy + (network(luma, level) - luma)


def describe(image: np.ndarray | Tensor) -> str:
    """Shape and type, for messages."""
    return f"{image.dtype} of shape {tuple(image.shape)}"


def load(path: str | Path, **options: Any) -> Denoiser:
    """The denoiser of a run's folder, a checkpoint file or published weights: ``denoisers.load(path)(image)``.

    Batch norm is folded into the convolutions before it where that leaves the estimate the same to 1e-5.

    Args:
        path: of the folder or file.
        options: of :class:`Denoiser`.

    Raises:
        CheckpointError: no such file, a damaged, unsafe or unknown one, weights that do not fit, or of other channels
            than 1 and 3.
    """
    opened = open_network(path)
    if opened.channels not in (1, 3):
        raise CheckpointError(
            f"{path}: its network takes {opened.channels} channels, and pictures have 1 (grey) or 3 (RGB): give one "
            "that learnt from such"
        )
    network = opened.network if opened.spec is None else folded_alike(opened.network, opened.channels)
    return Denoiser(network, opened.channels, **options).eval()
