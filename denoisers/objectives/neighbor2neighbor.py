"""Learning one half of a picture's pixels from their neighbours in the other."""

import torch
from torch import Tensor, nn

from denoisers.objectives.base import Batch, Learnt, Network, Objective, generator

# what is drawn in each cell of 2 × 2 pixels (0 1 / 2 3): two that are side by side, or one below the other
PAIRS = torch.tensor([[0, 1], [1, 0], [0, 2], [2, 0], [1, 3], [3, 1], [2, 3], [3, 2]])


class Neighbor2Neighbor(Objective):
    """loss(network(g₁), g₂) + γ · loss(network(g₁) − g₂, g₁(f) − g₂(f)), where f is the estimate of the whole picture.

    Huang, Li, Jia, Lu and Liu, "Neighbor2Neighbor: Self-Supervised Denoising from Single Noisy Images", CVPR 2021. Of
    each cell of 2 × 2 pixels one goes into the sub-image g₁ and one beside it into g₂, by chance: two noisy views of
    nearly the same scene, at half the resolution. The second term makes good for "nearly": what g₁ and g₂ differ by in
    a clean picture, as its estimate f says, whose gradient is not followed, may be left between them. Its weight grows
    with the run, for at its beginning f knows nothing.

    Deviation: several such pairs are drawn of each picture at a step. A pair has a quarter of the picture's pixels, so
    that four of them cost what the whole picture would.

    Assumes noise that is independent from pixel to pixel and whose mean is the clean image. Needs noisy images alone:
    views 1, realisation fixed.

    Args:
        gamma: the second term's weight at the end of the run; it grows from 0 in proportion to the steps.
        draws: how many pairs; 1 as published.

    Raises:
        ValueError: a negative weight, no draw.
    """

    assumes = frozenset({"independent", "unbiased"})

    def __init__(self, *, gamma: float = 2.0, draws: int = 4) -> None:
        super().__init__()
        if gamma < 0 or draws < 1:
            raise ValueError(f"gamma={gamma}, draws={draws}: must not be negative, and at least 1")
        self.gamma, self.draws = gamma, draws

    def forward(self, network: Network, batch: Batch, loss: nn.Module, progress: float) -> Learnt:
        noisy, level = even(batch["noisy"]), batch["level"]
        with torch.no_grad():
            whole = network(noisy, level).float()
        noisy, seen = (image.repeat(self.draws, 1, 1, 1) for image in (noisy, whole))
        pair = draw(noisy, generator(batch))
        first, second = sub_images(noisy, pair)
        estimate = network(first, None if level is None else level.repeat(self.draws, 1, 1, 1)).float()
        ours, theirs = sub_images(seen, pair)
        reconstruction = loss(estimate, second)
        regularisation = loss(estimate - second, ours - theirs)
        terms = {"reconstruction": reconstruction, "regularisation": regularisation}
        return Learnt(reconstruction + self.gamma * progress * regularisation, whole, terms)


def even(image: Tensor) -> Tensor:
    """[B, C, H, W] without the last row or column of an odd number."""
    height, width = image.shape[-2:]
    return image[..., : height - height % 2, : width - width % 2]


def draw(image: Tensor, random: torch.Generator) -> Tensor:
    """Which two pixels each cell gives, [2, B, 1, H/2, W/2], numbered 0 1 / 2 3."""
    batch, _, height, width = image.shape
    choice = torch.randint(len(PAIRS), (batch, 1, height // 2, width // 2), generator=random, device=image.device)
    return PAIRS.to(image.device)[choice].movedim(-1, 0)


def sub_images(image: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
    """[B, C, H, W] and what :func:`draw` drew → the two sub-images [B, C, H/2, W/2]."""
    cells = torch.stack([image[..., row::2, column::2] for row in (0, 1) for column in (0, 1)], dim=-1)
    first, second = (cells.gather(-1, chosen.expand(cells.shape[:-1])[..., None])[..., 0] for chosen in pair)
    return first, second
