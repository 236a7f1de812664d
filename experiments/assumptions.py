"""Whether a way of learning fits the noise, the data and the loss; where it does not, what does."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from datamodules.noise.none import NoNoise
from denoisers.losses import Charbonnier

MEANS_OVER_VALUES = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, Charbonnier)
WHY = {
    "independent": "it tells noise from image by the noise being independent from pixel to pixel; learn with "
    "objective=noise2noise or objective=supervised",
    "unbiased": "it learns the mean of what noisy pictures show, which is not the clean one; learn with "
    "objective=supervised",
    "stein": "Stein's identity is one of Gaussian and Poisson–Gaussian noise; learn with "
    "objective=neighbor2neighbor or another that asks for less",
    "gaussian": "it adds normal noise, which normal noise alone balances; learn with "
    "objective=neighbor2neighbor or another that asks for less",
}


def require(objective: Any, datamodule: Any, loss: nn.Module, axes: Mapping[str, Any]) -> None:
    """Raises ValueError, with the reason and a remedy, unless an objective can learn from this noise with this loss.

    Args:
        objective: see :class:`denoisers.objectives.base.Objective`.
        datamodule: of the run.
        loss: of the run.
        axes: what they are called on the command line.
    """
    name, noise = f"objective={axes['objective']}", datamodule.noise
    for trait in sorted(objective.assumes - noise.properties):
        raise ValueError(f"{name} does not fit noise={axes['noise']}: {WHY[trait]}")
    if objective.line and isinstance(noise, NoNoise):
        raise ValueError(
            f"{name} has to know the variance of the noise that the pictures bring: give objective.gain and "
            "objective.read, which python -m experiments.estimate image=PICTURE finds"
        )
    if objective.pixelwise and not isinstance(loss, MEANS_OVER_VALUES):
        raise ValueError(
            f"{name} takes the loss at single pixels, where loss={axes['loss']} is not defined: use loss=mse, l1 or "
            "charbonnier"
        )
    if objective.squared and not isinstance(loss, nn.MSELoss):
        raise ValueError(f"{name} estimates the squared error and no other: use loss=mse")
    if datamodule.frames and not objective.clips:
        raise ValueError(f"{name} learns from single images, not from clips: data.frames=null")
