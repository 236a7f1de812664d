"""How an estimate is scored. One value per image; means are taken over images, never over pooled pixels."""

from dataclasses import dataclass

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


def saved(image: Tensor, quantize: bool = True) -> Tensor:
    """What a file would hold: clamped to [0, 1] and, where asked, rounded to 8 bit; any shape."""
    image = image.clamp(0, 1)
    return (image * 255).round() / 255 if quantize else image


@dataclass(frozen=True)
class Score:
    """The scoring half of a protocol.

    Args:
        quantize: round the clamped estimate to 8 bit before scoring.
    """

    quantize: bool = True

    def __call__(self, estimate: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """Unclamped estimate and clean image, [B, C, H, W] → ``psnr`` and ``ssim``, each [B].

        Measured in float64 on the CPU, so that neither device nor threads show in the digits that are kept.
        """
        # rounded in float32, in which a clean 8-bit image is: an equal estimate is then equal to the last bit
        estimate, clean = saved(estimate.float(), self.quantize).cpu().double(), clean.cpu().double()
        return {"psnr": psnr(estimate, clean), "ssim": ssim(estimate, clean)}
