"""Total variation."""

from collections.abc import Mapping

import numpy as np
from skimage.restoration import denoise_tv_chambolle

from denoisers.classical.base import Classical, Sigma, Tuned, channel_axis
from denoisers.layers import require_positive


class TotalVariation(Classical):
    """The image that is near the noisy one and of small total variation (Rudin, Osher and Fatemi, Physica D 1992).

    Found by Chambolle's iteration (J. Math. Imaging Vis. 2004), by scikit-image, which takes each channel of a colour
    image by itself.

    Args:
        weight: of the total variation, in units of σ; or by noise level, in between which it is interpolated.
        sigma: see :class:`Classical`.
        max_steps: the iteration ends here, or where a step lowers the cost by less than 0.02 % of its first value.
    """

    def __init__(self, *, weight: float | Mapping[float, float], sigma: Sigma = "given", max_steps: int = 200) -> None:
        super().__init__(sigma=sigma)
        require_positive(max_steps=max_steps)
        self.weight = Tuned("weight", weight)
        self.max_steps = max_steps

    def clean(self, image: np.ndarray, sigma: float) -> np.ndarray:
        weight = self.weight.at(sigma) * sigma
        return denoise_tv_chambolle(image, weight, max_num_iter=self.max_steps, channel_axis=channel_axis(image))
