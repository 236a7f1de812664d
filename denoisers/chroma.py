"""Noise whose colours a video or JPEG stores with fewer pixels, made again what networks have learnt.

Where colour differences have half the pixels, the noise of red, green and blue is one and the same from pixel to pixel:
that of the brightness. A network that learnt independent noise takes it for texture and leaves it.
"""

import numpy as np
import torch
import torch.nn.functional as F

from denoisers.sigma import estimate_sigma

LUMA = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)  # ITU-R BT.601
# times what is estimated of the brightness, which encoders smooth: on carphone, 4:2:0, σ = 25, 1.1 to 1.5 cost < 0.8 dB
SMOOTHED = 1.25


def sigma_of(frame: np.ndarray) -> float:
    """σ of the noise of each colour, on the [0, 1] scale, from the brightness of [H, W, 3], uint8 or uint16."""
    weights = LUMA.flatten().numpy()
    found = estimate_sigma(frame @ weights[:, None], (0, float(np.iinfo(frame.dtype).max)))
    return SMOOTHED * found / float(np.linalg.norm(weights))


def independent(frame: np.ndarray, sigma: float, step: tuple[int, int], seed: int) -> np.ndarray:
    """[H, W, 3], uint8 or uint16 → the same with the noise between neighbours in its colour differences that it lacks.

    What is added has no brightness, and next to nothing of what the stored colour differences tell.

    Args:
        sigma: of the noise of each colour, on the [0, 1] scale.
        step: rows and columns of the picture to one of its colour differences.
        seed: of what is drawn.
    """
    white = np.iinfo(frame.dtype).max
    height, width, _ = frame.shape
    drawn = torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed)) * sigma
    colour = (drawn - (drawn * LUMA).sum(0))[None]
    stored = F.avg_pool2d(colour, step, ceil_mode=True)
    missing = colour - F.interpolate(stored, size=(height, width), mode="bilinear", align_corners=False)
    noisy = frame + missing[0].permute(1, 2, 0).numpy() * white
    return noisy.round().clip(0, white).astype(frame.dtype)
