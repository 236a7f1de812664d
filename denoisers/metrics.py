"""How an estimate is scored. One value per image; means are taken over images, never over pooled pixels."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio


def psnr(estimate: Tensor, clean: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, 10·log₁₀(1 / MSE) dB: [B, C, H, W] twice, in [0, 1] → [B]; inf for equal images."""
    return peak_signal_noise_ratio(estimate, clean, data_range=1.0, reduction="none", dim=(1, 2, 3))


@dataclass(frozen=True)
class Window:
    """How structural similarity sees a neighbourhood: weights along each axis, and the factor of its (co)variances."""

    taps: tuple[float, ...]
    correction: float = 1.0

    @property
    def side(self) -> int:
        """Pixels along each axis."""
        return len(self.taps)


def gaussian(side: int, sigma: float) -> tuple[float, ...]:
    """Weights of a Gaussian, which add up to 1."""
    weights = [math.exp(-((i - (side - 1) / 2) ** 2) / (2 * sigma**2)) for i in range(side)]
    return tuple(weight / sum(weights) for weight in weights)


WINDOWS = {
    "gaussian": Window(gaussian(11, 1.5)),  # the authors', which papers report
    "uniform": Window((1 / 7,) * 7, correction=49 / 48),  # scikit-image's default, with sample covariances
}


def ssim(estimate: Tensor, clean: Tensor, window: Window = WINDOWS["gaussian"]) -> Tensor:
    """Structural similarity (Wang et al., IEEE TIP 2004): [B, C, H, W] twice, in [0, 1] → [B].

    K = (0.01, 0.03); the valid region only, where the window fits in; per channel, then the mean.

    Raises:
        ValueError: images below the window's size, for which the index is not defined.
    """
    luminance, structure = ssim_factors(estimate, clean, window)
    return (luminance * structure).mean(dim=(1, 2, 3))


def ssim_factors(estimate: Tensor, clean: Tensor, window: Window = WINDOWS["gaussian"]) -> tuple[Tensor, Tensor]:
    """The factors of :func:`ssim` at each pixel where the window fits in: of means; of contrast and structure."""
    height, width = clean.shape[-2:]
    if min(height, width) < window.side:
        side = window.side
        raise ValueError(f"SSIM needs at least {side}×{side} pixels, this image has {height}×{width}")
    products = torch.cat([estimate, clean, estimate * estimate, clean * clean, estimate * clean], dim=1)
    mean_x, mean_y, xx, yy, xy = smooth(products, window.taps).chunk(5, dim=1)
    var_x, var_y, cov = (
        window.correction * moment for moment in (xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y)
    )
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * cov + c2) / (var_x + var_y + c2)


def smooth(image: Tensor, taps: Sequence[float]) -> Tensor:
    """[…, H, W] → […, H − n + 1, W − n + 1], weighted by n taps along both axes.

    Sums of shifted images: in float64 on the CPU, twice as fast as a convolution.
    """
    for axis in (-2, -1):
        length = image.shape[axis] - len(taps) + 1
        total = image.narrow(axis, 0, length) * taps[0]
        for shift, weight in enumerate(taps[1:], start=1):
            total = total.add_(image.narrow(axis, shift, length), alpha=weight)
        image = total
    return image


def luma(image: Tensor) -> Tensor:
    """[B, 3, H, W] in [0, 1] → Y [B, 1, H, W] in [16, 235] / 255 (ITU-R BT.601), as MATLAB's ``rgb2ycbcr`` has it."""
    weights = image.new_tensor([65.481, 128.553, 24.966]).view(1, 3, 1, 1)
    return ((image * weights).sum(dim=1, keepdim=True) + 16) / 255


def mse(estimate: Tensor, clean: Tensor) -> Tensor:
    """Mean squared error: [B, C, H, W] twice → [B]."""
    return (estimate - clean).square().mean(dim=(1, 2, 3))


def saved(image: Tensor, quantize: bool = True) -> Tensor:
    """What a file would hold: clamped to [0, 1] and, where asked, rounded to 8 bit; any shape."""
    image = image.clamp(0, 1)
    return (image * 255).round() / 255 if quantize else image


@dataclass(frozen=True)
class Score:
    """The scoring half of a protocol: unclamped estimate and clean image, [B, C, H, W], are measured as saved.

    In float64 on the CPU, so that neither device nor threads show in the digits that are kept.

    Args:
        quantize: round the clamped estimate to 8 bit before scoring.
        luma: score colour images by their :func:`luma` alone.
        border: rows and columns that are left out at each side.
        ssim_window: ``gaussian`` (11×11, σ = 1.5) or ``uniform`` (7×7, sample covariances).
        pixels: larger images are measured in strips of so many pixels, each of which takes 0.4 KB in RGB; the values
            are those of the whole image up to rounding in float64.
    """

    quantize: bool = True
    luma: bool = False
    border: int = 0
    ssim_window: Literal["gaussian", "uniform"] = "gaussian"
    pixels: int = 400_000

    def __call__(self, estimate: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """``psnr`` and ``ssim``, each [B]."""
        return {"psnr": self.psnr(estimate, clean), "ssim": self.ssim(estimate, clean)}

    def psnr(self, estimate: Tensor, clean: Tensor) -> Tensor:
        """PSNR of what a file would hold, [B]; inf for equal images."""
        return -10 * self._mean(mse, estimate, clean).log10()

    def ssim(self, estimate: Tensor, clean: Tensor) -> Tensor:
        """SSIM of what a file would hold, [B]."""
        window = WINDOWS[self.ssim_window]
        return self._mean(partial(ssim, window=window), estimate, clean, overlap=window.side - 1)

    def flicker(self, estimate: Tensor, clean: Tensor) -> Tensor:
        """How the error changes from frame to frame: root mean square of (x̂ₜ − xₜ) − (x̂ₜ₋₁ − xₜ₋₁), of 255.

        Clips [T, C, H, W] → [T], of what files would hold; not-a-number at the first frame, which has none before it.
        """
        found, before = [math.nan] * len(clean), None
        for number in range(len(clean)):
            pair = self._precise(*self._inner(estimate[number, None], clean[number, None]))
            error = pair[0] - pair[1]
            if before is not None:
                found[number] = 255 * (error - before).square().mean().sqrt().item()
            before = error
        return torch.tensor(found, dtype=torch.float64)

    def _inner(self, estimate: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        if not self.border:
            return estimate, clean
        inner = slice(self.border, -self.border)
        return estimate[..., inner, inner], clean[..., inner, inner]

    def _precise(self, estimate: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        # rounded in float32, in which a clean 8-bit image is: an equal estimate is then equal to the last bit
        pair = saved(estimate.float(), self.quantize).cpu().double(), clean.cpu().double()
        return (luma(pair[0]), luma(pair[1])) if self.luma and clean.shape[1] == 3 else pair

    def _mean(
        self, metric: Callable[[Tensor, Tensor], Tensor], estimate: Tensor, clean: Tensor, overlap: int = 0
    ) -> Tensor:
        """The mean over rows of a metric, [B], from strips; each overlaps the next, as the metric's window asks."""
        estimate, clean = self._inner(estimate, clean)
        rows, height = max(1, self.pixels // max(1, clean.shape[-1])), clean.shape[-2] - overlap
        total = torch.zeros(len(clean), dtype=torch.float64)
        for top in range(0, max(1, height), rows):
            count = min(rows, height - top)
            strip = slice(top, top + count + overlap)
            total += count * metric(*self._precise(estimate[..., strip, :], clean[..., strip, :]))
        return total / height
