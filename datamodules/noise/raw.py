"""Noise as a camera has it: on the raw, linear signal, before a picture is developed from it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules.noise.base import Noise, Params, as_positive_range, draw, per_sample

GAMMA = 2.2
DARKEST = 1e-8  # below it a power has no gradient


class RawNoise(Noise):
    """The picture is taken back to what the sensor saw, meets shot and read noise there, and is developed again.

    Back: the tone curve 3x² − 2x³ inverted, then gamma 2.2, then white balance and exposure divided out. Noise:
    N(0, shot · signal + read). Developed: the same steps forward, clipped to [0, 1] as pictures are. Without noise the
    picture comes back as it was. The level is measured.

    Brooks, Mildenhall, Xue, Chen, Sharlet and Barron, "Unprocessing Images for Learned Raw Denoising", CVPR 2019;
    section 3.1 has the line of read noise against shot noise that is drawn here: log read = 2.18 log shot + 1.2, with a
    standard deviation of 0.26. Deviations: no colour matrix, no mosaic, highlights are divided like all else; grey
    pictures have no white balance.

    Args:
        shot: variance per signal, on the [0, 1] scale, above 0; a number, or a range [a, b], from which each sample
            draws its own with all orders of magnitude alike.
        red, blue: factors of white balance, above 0; a number or a range.
        exposure: factor on all channels, above 0; a number or a range.
    """

    properties = frozenset({"independent"})  # the tone curve and the cut at 0 and 1 move the mean

    def __init__(
        self,
        *,
        shot: float | Sequence[float],
        red: float | Sequence[float] = (1.9, 2.4),
        blue: float | Sequence[float] = (1.5, 1.9),
        exposure: float | Sequence[float] = (1.0, 1.5),
    ) -> None:
        super().__init__()
        self.shot = as_positive_range("shot", shot, "there would be no noise")
        self.red, self.blue, self.exposure = (
            as_positive_range(name, value, "it is divided by")
            for name, value in (("red", red), ("blue", blue), ("exposure", exposure))
        )

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        batch, channels = batch_shape[:2]
        shot, exposure = draw(batch, self.shot, "log"), draw(batch, self.exposure)
        read = (2.18 * shot.log() + 1.2 + 0.26 * torch.randn(batch)).exp()
        gains = torch.ones(batch, channels)
        if channels == 3:
            gains[:, 0], gains[:, 2] = draw(batch, self.red), draw(batch, self.blue)
        return {"shot": shot, "read": read, "gains": gains * exposure[:, None]}

    def apply_transform(
        self, input: Tensor, params: Params, flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        shot, read, gains = (per_sample(params[name], input) for name in ("shot", "read", "gains"))
        linear = (0.5 - torch.sin(torch.asin(1 - 2 * input.clamp(0, 1)) / 3)).clamp(min=0).pow(GAMMA) / gains
        noisy = torch.addcmul(linear, torch.randn_like(linear), (shot * linear + read).sqrt())
        developed = (noisy * gains).clamp(DARKEST, 1).pow(1 / GAMMA)
        return developed.square() * (3 - 2 * developed)
