"""Learning pixels from what is around them."""

from torch import nn

from denoisers.objectives.base import Batch, Learnt, Network, Objective, generator
from denoisers.objectives.blindspots import Fill, hide, require_fill, scattered


class Noise2Void(Objective):
    """Some pixels are replaced by what their neighbourhood says; the network is to find what stood there.

    Krull, Buchholz and Jug, "Noise2Void: Learning Denoising from Single Noisy Images", CVPR 2019: by a pixel of the
    neighbourhood, drawn at random, never the pixel itself. With ``fill=median`` Höck, Buchholz, Brachmann, Jug and
    Freytag, "N2V2: Fixing Noise2Void Checkerboard Artifacts with Modified Sampling Strategies and a Tweaked Network
    Architecture", ECCV Workshops 2022: by the neighbourhood's median; it wants their network, too, which is no residual
    one, see :func:`denoisers.objectives.blindspots.hide`. The loss is taken at the replaced pixels alone, one of each
    cell.

    Assumes noise that is independent from pixel to pixel and whose mean is the clean image. Needs noisy images alone:
    views 1, realisation fixed.

    Args:
        cell: side of the cells in pixels, of which each has one replaced pixel; 16 would be the 0.4 % of papers.
        window: side of the neighbourhood, odd, and less than twice the cell's. No replaced pixel lies in another's.
        fill: what replaces: ``uniform``, ``median`` or ``interpolated``.

    Raises:
        ValueError: an even window or one below 3, a cell that is too small for it, another fill.
    """

    assumes = frozenset({"independent", "unbiased"})

    def __init__(self, *, cell: int = 4, window: int = 5, fill: Fill = "uniform") -> None:
        super().__init__()
        if window < 3 or window % 2 == 0:
            raise ValueError(f"window={window}: must be odd and at least 3")
        if cell <= window // 2:
            raise ValueError(f"cell={cell}: must be above window // 2 = {window // 2}, so that windows keep clear")
        require_fill(fill)
        self.cell, self.window, self.fill = cell, window, fill

    def forward(self, network: Network, batch: Batch, loss: nn.Module, progress: float) -> Learnt:
        noisy, random = batch["noisy"], generator(batch)
        hidden = scattered(noisy.shape, self.cell, self.window // 2, random)
        estimate = network(hide(noisy, hidden, self.fill, self.window, random), batch["level"]).float()
        hidden = hidden.expand_as(noisy)
        return Learnt(loss(estimate[hidden], noisy[hidden]), estimate)
