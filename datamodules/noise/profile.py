"""Noise as it was measured: files of profiles, which ``python -m experiments.profile`` fits to noisy–clean pairs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.files import write_text
from datamodules.images import DataError
from datamodules.noise.base import Noise, Params, as_range, draw, per_sample, rms
from datamodules.noise.moments import BINS, FEWEST, bins

TEXTURES = 8  # classes of local deviation, each twice as strong as the one before
PATCH = 11  # side of the patches whose covariance tells how far the noise of neighbours is alike
PATCHES = 20_000  # of them, from all the pictures of a profile
ROUNDS = 5  # in which the groups' strengths are told from what they have in common
FORMAT = "noise profiles, 2"
Pair = tuple[Tensor, Tensor]  # noisy and clean, [C, H, W] in [0, 1]


@dataclass(frozen=True)
class Profile:
    """The noise of pictures that were taken alike.

    Args:
        pixels: that it was fitted to.
        sigma: root-mean-square noise of these, on the 0–255 scale.
        variance: [C][BINS][TEXTURES], mean square of the noise of each channel at the middle of each bin of intensity,
            by the texture of the place.
        kernel: [C][C][K][K]; white noise correlated with it has the covariance of the noise, and variance 1.
    """

    pixels: int
    sigma: float
    variance: list[list[list[float]]]
    kernel: list[list[list[list[float]]]]


class Table:
    """Count and mean square of the noise by channel, intensity and texture, of pictures that were taken alike.

    Cameras smooth flat places more than edges, and an edge that has moved between two pictures looks like noise: what
    is found at one intensity can differ tenfold.

    Args:
        pairs: that are counted in, with ``channels`` channels each.
    """

    def __init__(self, channels: int, pairs: Iterable[Pair] = ()) -> None:
        self.sums = np.zeros((2, channels, BINS, TEXTURES))  # of ones, and of the squares
        for noisy, clean in pairs:
            squares = (noisy - clean).square().flatten(1).double().numpy()
            places = (bins(clean) * TEXTURES + textures(clean)).flatten(1).numpy()
            for channel, place in enumerate(places):
                for sums, weights in zip(self.sums, (None, squares[channel]), strict=True):
                    sums[channel] += np.bincount(place, weights, BINS * TEXTURES).reshape(BINS, TEXTURES)

    @property
    def count(self) -> np.ndarray:
        """[C, BINS, TEXTURES], how many values there are."""
        return self.sums[0]

    def shrunk(self, prior: np.ndarray) -> np.ndarray:
        """[C, BINS, TEXTURES], the mean square; where there are few values, mostly the prior's."""
        return (self.sums[1] + FEWEST * prior) / (self.count + FEWEST)

    def product(self) -> np.ndarray:
        """[C, BINS, TEXTURES], the nearest one that is a function of intensity times one of texture.

        Either function, where there are too few values, is interpolated between or beside those that have enough.

        Raises:
            DataError: there are too few everywhere.
        """
        by = [np.ones((len(self.count), BINS, 1)), np.ones((len(self.count), 1, TEXTURES))]
        for step in range(20):  # by turns, which converges
            axis = 1 + step % 2
            counts, squares, other = self.count.sum(axis), self.sums[1].sum(axis), by[axis - 1]
            expected = (self.count * other).sum(axis)
            for channel, enough in enumerate(counts >= FEWEST):
                if not enough.any():
                    raise DataError(f"there are fewer than {FEWEST} values: give more or larger pictures")
                found = np.maximum(squares[channel, enough], 1e-12) / expected[channel, enough]
                places = np.arange(len(enough))
                filled = np.exp(np.interp(places, places[enough], np.log(found)))
                by[axis % 2][channel] = np.expand_dims(filled, axis - 1)
        return by[0] * by[1]


def textures(clean: Tensor) -> Tensor:
    """[…, C, H, W] → […, 1, H, W], the octave of the deviation of the channels' mean in 3×3 pixels."""
    grey = clean.mean(-3, keepdim=True)
    mean, square = (F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) for x in (grey, grey.square()))
    deviation = 255 * (square - mean.square()).clamp(min=0).sqrt()
    return (torch.log2(deviation + 0.25) + 2).long().clamp(0, TEXTURES - 1)


def fit(groups: Mapping[str, Sequence[Pair]]) -> dict[str, Profile]:
    """Group of pictures that were taken alike → its profile.

    What a group has too few values for is taken from all groups together, as strong as the group's noise is.

    Args:
        groups: pairs [C, H, W], all with as many channels, no side below PATCH pixels; gone through twice.

    Raises:
        DataError: too little to fit to.
    """
    channels = len(next(iter(groups.values()))[0][1])
    tables, together = {name: Table(channels, pairs) for name, pairs in groups.items()}, Table(channels)
    if small := [name for name, table in tables.items() if table.count[0].sum() < FEWEST]:
        raise DataError(f"{small[0]}: there are fewer than {FEWEST} values: give more or larger pictures")
    strengths = dict.fromkeys(groups, np.ones((channels, 1, 1)))
    for _ in range(ROUNDS):
        together.sums[0] = sum(table.count for table in tables.values())
        together.sums[1] = sum(table.sums[1] / strengths[name] for name, table in tables.items())
        prior = together.shrunk(together.product())
        for name, table in tables.items():
            squares, expected = (values.sum((1, 2), keepdims=True) for values in (table.sums[1], table.count * prior))
            strengths[name] = np.maximum(squares, 1e-12) / expected
    profiles = {}
    for name, table in tables.items():
        variance, pixels = table.shrunk(strengths[name] * prior), int(table.count[0].sum())
        sigma = 255 * float(table.sums[1].sum() / table.count.sum()) ** 0.5
        profiles[name] = Profile(pixels, sigma, variance.tolist(), kernel(groups[name], variance).tolist())
    return profiles


def kernel(pairs: Sequence[Pair], variance: np.ndarray) -> Tensor:
    """[C, C, PATCH, PATCH], that white noise becomes correlated with as the noise of the pairs is.

    The noise, divided by its deviation, is cut into patches; the symmetric root of their covariance, from its principal
    components, has in its middle rows the kernel that gives white noise that covariance.
    """
    channels, pixels = len(variance), sum(clean[0].numel() for _, clean in pairs)
    table = torch.from_numpy(np.maximum(variance, 1e-12)).float()[None]
    covariance, total = torch.zeros(channels * PATCH**2, channels * PATCH**2, dtype=torch.float64), 0
    for noisy, clean in pairs:
        standard = (noisy - clean) / looked_up(table, clean[None])[0].sqrt()
        standard = standard - standard.mean(dim=(1, 2), keepdim=True)
        # odd, or patches would always lie at the same places of JPEG's blocks
        step = int((pixels / PATCHES) ** 0.5) | 1
        patches = standard.unfold(1, PATCH, step).unfold(2, PATCH, step)  # [C, rows, columns, PATCH, PATCH]
        patches = patches.permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1).double()  # [N, C · PATCH²]
        covariance += patches.T @ patches
        total += len(patches)
    values, components = torch.linalg.eigh(covariance / total)
    root = components * values.clamp(min=0).sqrt() @ components.T
    middle = PATCH**2 // 2 + PATCH**2 * torch.arange(channels)
    rows = root[middle]
    return (rows / rows.norm(dim=1, keepdim=True)).view(channels, channels, PATCH, PATCH).float()


def looked_up(table: Tensor, clean: Tensor) -> Tensor:
    """Values [B, C, BINS, TEXTURES] → [B, C, H, W], at the intensities, between the middles of bins, and textures."""
    place = (clean * BINS - 0.5).clamp(0, BINS - 1)
    below, texture, values = place.long().clamp(max=BINS - 2), textures(clean), table.flatten(2)
    low, high = (values.gather(2, (b * TEXTURES + texture).flatten(2)).view_as(clean) for b in (below, below + 1))
    return torch.lerp(low, high, place - below)


def save(path: Path, profiles: dict[str, Profile]) -> None:
    """Writes profiles, whole or not at all."""
    groups = {name: asdict(profile) for name, profile in profiles.items()}
    write_text(path, json.dumps({"format": FORMAT, "groups": groups}))


def load(path: Path) -> dict[str, Profile]:
    """Group → its profile.

    Raises:
        DataError: no such file, or it is none of profiles.
    """
    try:
        content: Any = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise KeyError("format")
        return {name: Profile(**group) for name, group in content["groups"].items()}
    except OSError as error:
        raise DataError(f"noise.file={path}: {error.strerror}; make one with python -m experiments.profile") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"noise.file={path}: not a file of noise profiles (python -m experiments.profile)") from error


class ProfileNoise(Noise):
    """noisy = clean + σ(clean) · field: σ by intensity and texture, the field correlated as the profile says.

    The noise model of Foi et al. ("Practical Poissonian-Gaussian Noise Modeling and Fitting", IEEE TIP 2008) without
    its line: the variance at each intensity is what was measured, in places as flat or as rough. The field is Gaussian.

    Args:
        file: of profiles.
        channels: 1 or 3, as the profiles have.
        groups: those that samples draw from, by their pixels; None: all.
        strength: factor on the noise; a number, or a range [a, b], from which each sample draws its own.
    """

    properties = frozenset({"unbiased"})

    def __init__(
        self,
        *,
        file: str | None,
        channels: int,
        groups: Sequence[str] | None = None,
        strength: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__()
        if file is None:
            raise DataError("noise=profile needs noise.file=FILE, which python -m experiments.profile makes")
        profiles = load(Path(file))
        if unknown := [name for name in groups or [] if name not in profiles]:
            raise DataError(
                f"noise.groups={list(groups or [])}: {file} has no {unknown[0]}, only {', '.join(profiles)}"
            )
        chosen = [profiles[name] for name in groups or profiles]
        if (found := len(chosen[0].variance)) != channels:
            raise DataError(
                f"noise.file={file} was fitted with channels={found}: fit it again with channels={channels}"
            )
        self.strength = as_range("strength", strength)
        self.pixels = torch.tensor([float(profile.pixels) for profile in chosen])
        self.variance: Tensor
        self.kernel: Tensor
        self.register_buffer("variance", stacked(profile.variance for profile in chosen), persistent=False)
        self.register_buffer("kernel", stacked(profile.kernel for profile in chosen), persistent=False)

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        group = torch.multinomial(self.pixels, batch_shape[0], replacement=True)
        return {"group": group, "strength": draw(batch_shape[0], self.strength)}

    def apply_transform(
        self, input: Tensor, params: Params, flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        batch, channels, height, width = input.shape
        kernel = self.kernel.to(input.device)[params["group"].to(input.device)]  # [B, C, C, K, K]
        margin = kernel.shape[-1] - 1  # of the field, so that its borders are like the rest of it
        white = torch.randn(1, batch * channels, height + margin, width + margin, device=input.device)
        field = F.conv2d(white, kernel.flatten(0, 1), groups=batch).view_as(input).to(input)
        return torch.addcmul(input, field, self.variances(input, params).sqrt())

    def level(self, clean: Tensor, params: Params) -> Tensor:
        return rms(self.variances(clean, params))

    def variances(self, clean: Tensor, params: Params) -> Tensor:
        """[B, C, H, W], of the noise of each value."""
        table = self.variance.to(clean)[params["group"].to(clean.device)]
        return looked_up(table, clean) * per_sample(params["strength"], clean).square()


def stacked(tables: Iterable[Any]) -> Tensor:
    """Nested lists of numbers → one tensor."""
    return torch.stack([torch.tensor(table) for table in tables])
