"""What JPEG does to a picture: after noise, it makes blocks of it."""

from collections.abc import Sequence
from typing import Any

from kornia.enhance import jpeg_codec_differentiable
from torch import Tensor

from datamodules.noise.base import Noise, Params, as_range, draw


class Jpeg(Noise):
    """noisy = the picture after a JPEG file of that quality; in [0, 1]. The level is measured.

    kornia's codec (Reich, Debnath, Patel, Prangemeier, Cremers and Chakradhar, "Differentiable JPEG: The Devil is in
    the Details", WACV 2024), which rounds softly: close to a file, not the same. Grey pictures become files of three
    equal channels.

    Args:
        quality: from 1 to 100; a number, or a range [a, b] that each sample draws from.
    """

    properties: frozenset[str] = frozenset()

    def __init__(self, *, quality: float | Sequence[float]) -> None:
        super().__init__()
        self.quality = as_range("quality", quality, 1, 100)

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        return {"quality": draw(batch_shape[0], self.quality)}

    def apply_transform(
        self, input: Tensor, params: Params, flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        channels = input.shape[1]
        coloured = input.clamp(0, 1).expand(-1, 3, -1, -1)
        return jpeg_codec_differentiable(coloured, params["quality"].to(input))[:, :channels].clamp(0, 1)
