"""How an estimate is scored. One value per image; means are taken over images, never over pooled pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from kornia.metrics import ssim as ssim_map
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torchmetrics.functional.image import peak_signal_noise_ratio


def psnr(estimate: Tensor, clean: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, 10·log₁₀(1 / MSE) dB: [B, C, H, W] twice, in [0, 1] → [B]; inf for equal images."""
    return peak_signal_noise_ratio(estimate, clean, data_range=1.0, reduction="none", dim=(1, 2, 3))


def ssim(estimate: Tensor, clean: Tensor) -> Tensor:
    """Structural similarity (Wang et al., IEEE TIP 2004) as papers report it: [B, C, H, W] twice, in [0, 1] → [B].

    Gaussian window 11×11 with σ = 1.5, K = (0.01, 0.03), valid region only, per channel, then the mean.

    Raises:
        ValueError: images below 11×11 pixels, for which the index is not defined.
    """
    require_window(clean, 11)
    return ssim_map(estimate, clean, 11, eps=0.0, padding="valid").mean(dim=(1, 2, 3))


def ssim_uniform(estimate: Tensor, clean: Tensor) -> Tensor:
    """Structural similarity as scikit-image has it by default: [B, C, H, W] twice, in [0, 1] → [B].

    Uniform window 7×7 with sample covariances (n − 1), K = (0.01, 0.03), valid region only, per channel, then the mean.

    Raises:
        ValueError: images below 7×7 pixels.
    """
    require_window(clean, 7)
    x, y = estimate, clean
    mean_x, mean_y, xx, yy, xy = (avg_pool2d(image, 7, stride=1) for image in (x, y, x * x, y * y, x * y))
    unbiased = 49 / 48
    var_x, var_y, cov = (
        unbiased * (second - first)
        for second, first in ((xx, mean_x * mean_x), (yy, mean_y * mean_y), (xy, mean_x * mean_y))
    )
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    return (numerator / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean(dim=(1, 2, 3))


def require_window(image: Tensor, window: int) -> None:
    """Raises ValueError unless SSIM's window fits into the image."""
    height, width = image.shape[-2:]
    if min(height, width) < window:
        raise ValueError(f"SSIM needs at least {window}×{window} pixels, this image has {height}×{width}")


SSIMS = {"gaussian": (ssim, 11), "uniform": (ssim_uniform, 7)}  # definition → function, side of its window


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
        ssim_window: :func:`ssim` (``gaussian``) or :func:`ssim_uniform` (``uniform``).
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
        metric, window = SSIMS[self.ssim_window]
        return self._mean(metric, estimate, clean, overlap=window - 1)

    def _precise(self, estimate: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        # rounded in float32, in which a clean 8-bit image is: an equal estimate is then equal to the last bit
        pair = saved(estimate.float(), self.quantize).cpu().double(), clean.cpu().double()
        return (luma(pair[0]), luma(pair[1])) if self.luma and clean.shape[1] == 3 else pair

    def _mean(
        self, metric: Callable[[Tensor, Tensor], Tensor], estimate: Tensor, clean: Tensor, overlap: int = 0
    ) -> Tensor:
        """The mean over rows of a metric, [B], from strips; each overlaps the next, as the metric's window asks."""
        if self.border:
            inner = slice(self.border, -self.border)
            estimate, clean = estimate[..., inner, inner], clean[..., inner, inner]
        rows, height = max(1, self.pixels // max(1, clean.shape[-1])), clean.shape[-2] - overlap
        total = torch.zeros(len(clean), dtype=torch.float64)
        for top in range(0, max(1, height), rows):
            count = min(rows, height - top)
            strip = slice(top, top + count + overlap)
            total += count * metric(*self._precise(estimate[..., strip, :], clean[..., strip, :]))
        return total / height
