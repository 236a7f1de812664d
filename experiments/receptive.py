"""How far a network sees: the input pixels that an output pixel depends on, found by its gradient."""

import torch
from torch import nn

HEIGHT, WIDTH = 32, 512  # of the strip on which it is tried
POSITIONS = 16  # neighbouring columns: networks that halve the resolution do not see equally far from each


def receptive_field(network: nn.Module, channels: int) -> int | None:
    """The side of the square of input pixels that an output pixel can depend on; None if it is the whole image.

    Measured along a strip; a network that sees one of its ends counts as seeing the whole image. The network's weights
    are replaced by random positive ones, in double precision: one that begins as the identity would see nothing, a unit
    that puts out zero would hide what is before it, and in single precision what comes from far would drown.
    """
    random = torch.Generator().manual_seed(0)
    network = network.double().eval().requires_grad_(False)
    for weight in network.parameters():
        weight.uniform_(0.5, 1.5, generator=random).div_(weight[0].numel())
    noisy = torch.rand(1, channels, HEIGHT, WIDTH, dtype=torch.float64, generator=random).requires_grad_()
    estimate = network(noisy, torch.full((1, 1, 1, 1), 0.1, dtype=torch.float64))
    side = 0
    for column in range(WIDTH // 2, WIDTH // 2 + POSITIONS):
        (gradient,) = torch.autograd.grad(estimate[..., column].sum(), noisy, retain_graph=True)
        seen = gradient.any(dim=(0, 1, 2)).nonzero()
        first, last = int(seen.min()), int(seen.max())
        if first == 0 or last == WIDTH - 1:
            return None
        side = max(side, last - first + 1)
    return side
