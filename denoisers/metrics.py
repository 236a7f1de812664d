"""How an estimate is scored. One value per image; means are taken over images, never over pooled pixels."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from kornia.metrics import ssim as ssim_map
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

SSIM_WINDOW = 11


def psnr(estimate: Tensor, clean: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, 10·log₁₀(1 / MSE) dB: [B, C, H, W] twice, in [0, 1] → [B]; inf for equal images."""
    return peak_signal_noise_ratio(estimate, clean, data_range=1.0, reduction="none", dim=(1, 2, 3))


def ssim(estimate: Tensor, clean: Tensor) -> Tensor:
    """Structural similarity (Wang et al., IEEE TIP 2004) as papers report it: [B, C, H, W] twice, in [0, 1] → [B].

    Gaussian window 11×11 with σ = 1.5, K = (0.01, 0.03), valid region only, per channel, then the mean.

    Raises:
        ValueError: images below 11×11 pixels, for which the index is not defined.
    """
    if min(clean.shape[-2:]) < SSIM_WINDOW:
        height, width = clean.shape[-2:]
        raise ValueError(f"SSIM needs at least {SSIM_WINDOW}×{SSIM_WINDOW} pixels, this image has {height}×{width}")
    return ssim_map(estimate, clean, SSIM_WINDOW, eps=0.0, padding="valid").mean(dim=(1, 2, 3))


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
        pixels: larger images are measured in strips of so many pixels, each of which takes 0.4 KB in RGB; the values
            are those of the whole image up to rounding in float64.
    """

    quantize: bool = True
    pixels: int = 400_000

    def __call__(self, estimate: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """``psnr`` and ``ssim``, each [B]."""
        return {"psnr": self.psnr(estimate, clean), "ssim": self.ssim(estimate, clean)}

    def psnr(self, estimate: Tensor, clean: Tensor) -> Tensor:
        """:func:`psnr` of what a file would hold, [B]."""
        if self._rows(clean) >= clean.shape[-2]:
            return psnr(*self._precise(estimate, clean))
        error = self._mean(mse, estimate, clean).sqrt().view(-1, 1, 1, 1)
        return psnr(error, torch.zeros_like(error))  # of a constant error that is as large

    def ssim(self, estimate: Tensor, clean: Tensor) -> Tensor:
        """:func:`ssim` of what a file would hold, [B]."""
        if self._rows(clean) >= clean.shape[-2]:
            return ssim(*self._precise(estimate, clean))
        return self._mean(ssim, estimate, clean, overlap=SSIM_WINDOW - 1)

    def _precise(self, estimate: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        # rounded in float32, in which a clean 8-bit image is: an equal estimate is then equal to the last bit
        return saved(estimate.float(), self.quantize).cpu().double(), clean.cpu().double()

    def _rows(self, image: Tensor) -> int:
        """How many rows of an image are measured at a time."""
        return max(1, self.pixels // image.shape[-1])

    def _mean(
        self, metric: Callable[[Tensor, Tensor], Tensor], estimate: Tensor, clean: Tensor, overlap: int = 0
    ) -> Tensor:
        """The mean over rows of a metric, [B], from strips; each overlaps the next, as the metric's window asks."""
        rows, height = self._rows(clean), clean.shape[-2] - overlap
        total = torch.zeros(len(clean), dtype=torch.float64)
        for top in range(0, max(1, height), rows):
            count = min(rows, height - top)
            strip = slice(top, top + count + overlap)
            total += count * metric(*self._precise(estimate[..., strip, :], clean[..., strip, :]))
        return total / height
