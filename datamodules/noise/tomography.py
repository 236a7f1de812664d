"""The noise of computed tomography: grainy, as filtered back-projection makes it of the noise of its measurements."""

from typing import Any

import torch
from torch import Tensor

from datamodules.noise.base import Params, SigmaNoise, per_sample


class TomographyNoise(SigmaNoise):
    """noisy = clean + N(0, (σ / 255)²) with the power spectrum f · cos⁴(πf) up to half a cycle per pixel, 0 beyond.

    Riederer, Pelc and Chesler, "The noise power spectrum in computed X-ray tomography", Physics in Medicine and Biology
    1978: white noise in the projections, filtered by f · A(f) and back-projected, has the spectrum f · A(f)². A is
    Hann's window here. σ is as strong everywhere, which holds near the middle of the body; it grows with 1 / √dose.

    Args:
        sigma: standard deviation σ on the 0–255 scale; or a range [a, b], from which each sample draws its own.
    """

    properties = frozenset({"unbiased"})

    def apply_transform(
        self, input: Tensor, params: Params, flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        height, width = (max(side, 8) for side in input.shape[-2:])  # below that there is no frequency but 0
        down = torch.fft.fftfreq(height, device=input.device)[:, None]
        across = torch.fft.rfftfreq(width, device=input.device)
        frequency = torch.hypot(down, across).clamp(max=0.5)
        root = frequency.sqrt() * torch.cos(torch.pi * frequency).square()
        # each frequency but those of the first and the last column stands for its mirror image, too
        twice = torch.full_like(across, 2)
        twice[0] = 1
        if width % 2 == 0:
            twice[-1] = 1
        root = root / ((root.square() * twice).sum() / (height * width)).sqrt()
        white = torch.randn(*input.shape[:2], height, width, device=input.device)
        field = torch.fft.irfft2(torch.fft.rfft2(white) * root, s=(height, width))
        field = field[..., : input.shape[-2], : input.shape[-1]]
        return torch.addcmul(input, field.to(input), per_sample(params["sigma"], input))
