"""Noise as it was measured: files of profiles, which ``python -m experiments.profile`` fits to noisy–clean pairs."""

import json
from collections.abc import Iterable, Sequence
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

BINS = 32  # intensities at which a variance is kept
FEWEST = 500  # values that a variance is measured from
PATCH = 11  # side of the patches whose covariance tells how far the noise of neighbours is alike
PATCHES = 20_000  # of them, from all the pictures of a profile
FORMAT = "noise profiles, 1"
Pair = tuple[Tensor, Tensor]  # noisy and clean, [C, H, W] in [0, 1]


@dataclass(frozen=True)
class Profile:
    """The noise of pictures that were taken alike.

    Args:
        pixels: that it was fitted to.
        variance: [C][BINS], of the noise of each channel at the middle of each bin of intensity.
        kernel: [C][C][K][K]; white noise correlated with it has the covariance of the noise, and variance 1.
    """

    pixels: int
    variance: list[list[float]]
    kernel: list[list[list[list[float]]]]


class Moments:
    """Count, mean and variance of the noise by channel and bin of intensity, over any number of pictures."""

    def __init__(self, channels: int) -> None:
        self.sums = np.zeros((3, channels, BINS))  # of ones, of the noise, of its squares

    def add(self, noisy: Tensor, clean: Tensor) -> None:
        """Counts a pair [C, H, W] in."""
        noise = (noisy - clean).flatten(1).double().numpy()
        for channel, (where, values) in enumerate(zip(bins(clean).flatten(1).numpy(), noise, strict=True)):
            for sums, weights in zip(self.sums, (None, values, values**2), strict=True):
                sums[channel] += np.bincount(where, weights, BINS)

    @property
    def count(self) -> np.ndarray:
        """[C, BINS], how many values there are."""
        return self.sums[0]

    @property
    def variance(self) -> np.ndarray:
        """[C, BINS], about the mean of each bin; NaN where there is no value."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.sums[2] / self.sums[0] - (self.sums[1] / self.sums[0]) ** 2

    def curve(self) -> np.ndarray:
        """[C, BINS], the variance; where there are too few values, between or beside the bins that have enough.

        Raises:
            DataError: no bin of a channel has.
        """
        filled, centres = self.variance, np.arange(BINS)
        for row, count in zip(filled, self.count, strict=True):
            if not (enough := count >= FEWEST).any():
                raise DataError(f"no intensity is met by {FEWEST} values: give more or larger pictures")
            row[:] = np.interp(centres, centres[enough], row[enough])
        return filled

    def pooled(self) -> tuple[np.ndarray, np.ndarray]:
        """Intensity and variance, over all channels, of the bins that have values enough."""
        count, variance = self.count.sum(0), np.nan_to_num(self.variance * self.count).sum(0)
        enough = count >= FEWEST
        return (np.arange(BINS) + 0.5)[enough] / BINS, variance[enough] / count[enough]


def bins(clean: Tensor) -> Tensor:
    """Which bin of intensity each value is in."""
    return (clean * BINS).long().clamp(0, BINS - 1)


def fit(pairs: Sequence[Pair]) -> Profile:
    """The profile of pictures that were taken alike.

    The noise, divided by its deviation at each intensity, is cut into patches; the symmetric root of their covariance,
    from its principal components, has in its middle rows the kernel that gives white noise that covariance.

    Args:
        pairs: [C, H, W] each, all with as many channels, no side below PATCH pixels; gone through twice.

    Raises:
        DataError: too little to fit to.
    """
    channels = len(pairs[0][1])
    moments = Moments(channels)
    for noisy, clean in pairs:
        moments.add(noisy, clean)
    curve = moments.curve()
    deviation = torch.from_numpy(np.sqrt(np.maximum(curve, 1e-12))).float()
    covariance, total = torch.zeros(channels * PATCH**2, channels * PATCH**2, dtype=torch.float64), 0
    for noisy, clean in pairs:
        standard = (noisy - clean) / interpolated(deviation[None], clean[None])[0]
        standard = standard - standard.mean(dim=(1, 2), keepdim=True)
        # odd, or patches would always lie at the same places of JPEG's blocks
        step = int((clean[0].numel() * len(pairs) / PATCHES) ** 0.5) | 1
        patches = standard.unfold(1, PATCH, step).unfold(2, PATCH, step)  # [C, rows, columns, PATCH, PATCH]
        patches = patches.permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1).double()  # [N, C · PATCH²]
        covariance += patches.T @ patches
        total += len(patches)
    values, components = torch.linalg.eigh(covariance / total)
    root = components * values.clamp(min=0).sqrt() @ components.T
    middle = PATCH**2 // 2 + PATCH**2 * torch.arange(channels)
    kernel = root[middle]
    kernel = kernel / kernel.norm(dim=1, keepdim=True)
    shaped = kernel.view(channels, channels, PATCH, PATCH).float()
    return Profile(int(moments.count[0].sum()), curve.tolist(), shaped.tolist())


def interpolated(table: Tensor, clean: Tensor) -> Tensor:
    """Values [B, C, BINS] at the middles of the bins → at the intensities of pictures [B, C, H, W]."""
    place = (clean * BINS - 0.5).clamp(0, BINS - 1)
    below = place.long().clamp(max=BINS - 2)
    low, high = (table.gather(2, index.flatten(2)).view_as(clean) for index in (below, below + 1))
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
    """noisy = clean + σ(clean) · field: σ by intensity, the field correlated as the profile says.

    The noise model of Foi et al. ("Practical Poissonian-Gaussian Noise Modeling and Fitting", IEEE TIP 2008) without
    its line: the variance at each intensity is what was measured. The field is Gaussian.

    Args:
        file: of profiles.
        channels: 1 or 3, as the profiles have.
        groups: those that samples draw from, by their pixels; None: all.
        strength: factor on the noise; a number, or a range [a, b], from which each sample draws its own.
    """

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
        return interpolated(table, clean) * per_sample(params["strength"], clean).square()


def stacked(tables: Iterable[Any]) -> Tensor:
    """Nested lists of numbers → one tensor."""
    return torch.stack([torch.tensor(table) for table in tables])
