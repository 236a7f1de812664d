"""The median filter."""

from kornia.filters import median_blur
from torch import Tensor, nn
from torch.nn.functional import pad

from denoisers.layers import require_odd


class Median(nn.Module):
    """The median of each k×k window, channel by channel; borders repeat the edge pixel. Nothing to train.

    Args:
        kernel_size: side k, odd.
    """

    def __init__(self, *, kernel_size: int = 3) -> None:
        super().__init__()
        require_odd(kernel_size=kernel_size)
        self.kernel_size = kernel_size

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """[B, C, H, W] → the filtered image, same shape."""
        border = self.kernel_size // 2
        height, width = noisy.shape[-2:]
        filtered = median_blur(pad(noisy, [border] * 4, mode="replicate"), self.kernel_size)
        return filtered[..., border : border + height, border : border + width]
