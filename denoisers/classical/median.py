"""The median filter."""

from collections.abc import Mapping

import numpy as np
import torch
from kornia.filters import median_blur
from torch import Tensor
from torch.nn.functional import pad

from denoisers.classical.base import Classical, Sigma, Tuned
from denoisers.layers import require_odd
from denoisers.tiles import tiled

TILE = 832  # side of what is filtered at once


class Median(Classical):
    """The median of each k×k window, channel by channel; borders repeat the edge pixel. Nothing to train.

    With one k for all images in the input's own type and on its device, unlike the other classical methods.

    Args:
        kernel_size: side k, odd; or by noise level, of which the nearest counts.
        sigma: see :class:`Classical`; matters where k depends on it.
    """

    def __init__(self, *, kernel_size: int | Mapping[float, int] = 3, sigma: Sigma = "given") -> None:
        super().__init__(sigma=sigma)
        self.kernel_size = Tuned("kernel_size", kernel_size)
        for size in self.kernel_size.table.values():
            require_odd(kernel_size=int(size))
        self.whole = self.kernel_size.varies  # one size for all tiles

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """[B, C, H, W] and its noise level → the filtered image, [B, C, H, W]."""
        if self.whole:
            return super().forward(noisy, level)
        return median(noisy, int(self.kernel_size.nearest(0)))

    def clean(self, image: np.ndarray, sigma: float) -> np.ndarray:
        sample = torch.from_numpy(image)
        size = int(self.kernel_size.nearest(sigma))
        planes = sample.view(*sample.shape[:2], -1).permute(2, 0, 1)[None]  # [1, C, H, W]
        # kornia's takes k² times the picture's memory
        filtered = tiled(lambda cut, _: median(cut, size), planes, tile=TILE, halo=size // 2)
        return filtered[0].permute(1, 2, 0).reshape(image.shape).numpy()


def median(noisy: Tensor, kernel_size: int) -> Tensor:
    """[B, C, H, W] → the median of each window, same shape."""
    border = kernel_size // 2
    height, width = noisy.shape[-2:]
    filtered = median_blur(pad(noisy, [border] * 4, mode="replicate"), kernel_size)
    return filtered[..., border : border + height, border : border + width]
