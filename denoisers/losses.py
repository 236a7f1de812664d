"""Training losses that PyTorch does not have: estimate and clean image, both [B, C, H, W] → a scalar."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from denoisers.metrics import ssim_factors


def charbonnier(estimate: Tensor, clean: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Mean of √(d² + ε²): L1 with a smooth foot (Charbonnier et al., ICIP 1994)."""
    return ((estimate - clean).square() + epsilon**2).sqrt().mean()


class Charbonnier(nn.Module):
    """:func:`charbonnier` with its ε, which must be positive."""

    def __init__(self, *, epsilon: float = 1e-3) -> None:
        super().__init__()
        if epsilon <= 0:
            raise ValueError(f"epsilon={epsilon}: must be positive")
        self.epsilon = epsilon

    def forward(self, estimate: Tensor, clean: Tensor) -> Tensor:
        return charbonnier(estimate, clean, self.epsilon)


class PSNR(nn.Module):
    """−PSNR in dB of each image of unit range, their mean; ``epsilon``, which must be positive, keeps it finite."""

    def __init__(self, *, epsilon: float = 1e-8) -> None:
        super().__init__()
        if epsilon <= 0:
            raise ValueError(f"epsilon={epsilon}: must be positive")
        self.epsilon = epsilon

    def forward(self, estimate: Tensor, clean: Tensor) -> Tensor:
        return 10 * ((estimate - clean).square().mean(dim=(-3, -2, -1)) + self.epsilon).log10().mean()


class SSIM(nn.Module):
    """1 − mean SSIM, on the unclamped estimate; crops of at least 11×11 pixels.

    Where an estimate is negative and runs against the clean image, both factors of the index are negative and their
    product is high, up to 1 for the negative of the image, which untrained networks do find. There the product counts
    as negative here. Estimates in [0, 1] have the index of Wang et al., 2004.
    """

    def forward(self, estimate: Tensor, clean: Tensor) -> Tensor:
        luminance, structure = ssim_factors(estimate, clean)
        index = luminance * structure
        return 1 - torch.where((luminance < 0) & (structure < 0), -index, index).mean()


class WeightedSum(nn.Module):
    """Σ weightᵢ · lossᵢ, itself a loss.

    Args:
        losses: name → loss.
        weights: name → weight; the same names.
    """

    def __init__(self, *, losses: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        if set(losses) != set(weights):
            raise ValueError(
                f"weights are given for {sorted(weights)}, losses for {sorted(losses)}: name the same ones"
            )
        self.losses = nn.ModuleDict(losses)
        self.weights = dict(weights)

    def forward(self, estimate: Tensor, clean: Tensor) -> Tensor:
        terms = [weight * self.losses[name](estimate, clean) for name, weight in self.weights.items()]
        return sum(terms[1:], start=terms[0])
