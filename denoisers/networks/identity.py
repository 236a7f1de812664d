"""The noisy baseline: what every denoiser has to beat."""

from torch import Tensor, nn


class Identity(nn.Module):
    """Returns its input. Nothing to train."""

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """[B, C, H, W] → itself."""
        return noisy
