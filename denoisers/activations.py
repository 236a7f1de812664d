"""Spatial activations for any network.

xUnit and its variants: Kligvasser, Rott Shaham and Michaeli, "xUnit: Learning a Spatial Activation Function for
Efficient Image Restoration", CVPR 2018. An xUnit multiplies its input by a map that it computes from the input's
neighbourhood, where ReLU multiplies by a map of zeros and ones computed pixel by pixel.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from denoisers import fused
from denoisers.layers import Activate, DepthwiseConv2d, require_odd, require_positive


class SigmoidGate(nn.Module):
    """1 / (1 + exp(−x)), of the authors' published code, in place of x."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sigmoid_()


class GaussianGate(nn.Module):
    """exp(−x²), the gate of the paper's equation (2)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.square().neg_().exp_()


GateName = Literal["sigmoid", "gaussian"]
GATES: dict[GateName, Callable[[], nn.Module]] = {"sigmoid": SigmoidGate, "gaussian": GaussianGate}


class XUnit(nn.Module):
    """x · gate(BN(depthwise k×k(ReLU(BN(x))))); [B, C, H, W] → the same shape.

    Args:
        num_features: channels C.
        kernel_size: side k of the depthwise convolution, odd.
        gate: ``sigmoid`` (the authors' published code) or ``gaussian`` (the paper's text).
    """

    def __init__(self, num_features: int, kernel_size: int = 9, gate: GateName = "sigmoid") -> None:
        super().__init__()
        require_positive(num_features=num_features)
        require_odd(activation_kernel_size=kernel_size)
        if gate not in GATES:
            raise ValueError(f"activation_gate={gate!r}: must be one of {', '.join(GATES)}")
        self.mask = nn.Sequential(
            *self.front(num_features),
            DepthwiseConv2d(num_features, kernel_size),
            nn.BatchNorm2d(num_features),
            GATES[gate](),
        )

    def front(self, num_features: int) -> list[nn.Module]:
        """What stands before the depthwise convolution."""
        return [nn.BatchNorm2d(num_features), nn.ReLU(inplace=True)]

    def forward(self, x: Tensor) -> Tensor:
        compiling = torch.compiler.is_compiling()  # which fuses by itself; and graphs that are exported know no kernels
        if x.is_cuda and not compiling:
            gaussian = isinstance(self.mask[-1], GaussianGate)
            if (found := fused.xunit(self.mask, x, gaussian)) is not None:
                return found
        mask = self.mask(x)
        if compiling or torch.is_grad_enabled() or mask.dtype != x.dtype:
            return x * mask
        return mask.mul_(x)


class XUnitS(XUnit):
    """The slim variant: x · gate(BN(depthwise k×k(x)))."""

    def front(self, num_features: int) -> list[nn.Module]:
        return []


class XUnitD(XUnit):
    """The dense variant: x · gate(BN(depthwise k×k(ReLU(BN(1×1(x))))))."""

    def front(self, num_features: int) -> list[nn.Module]:
        return [nn.Conv2d(num_features, num_features, 1), *super().front(num_features)]


ActivationName = Literal["relu", "gelu", "hardswish", "xunit", "xunit_s", "xunit_d"]
PLAIN: dict[ActivationName, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
}
SPATIAL: dict[ActivationName, type[XUnit]] = {"xunit": XUnit, "xunit_s": XUnitS, "xunit_d": XUnitD}
ACTIVATIONS = [*PLAIN, *SPATIAL]


def activation_factory(name: ActivationName, kernel_size: int = 9, gate: GateName = "sigmoid") -> Activate:
    """A function from a number of channels to a new activation.

    Args:
        name: ``relu``, ``gelu``, ``hardswish``, ``xunit``, ``xunit_s`` or ``xunit_d``.
        kernel_size, gate: for the xUnits, see :class:`XUnit`; the others have neither.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation={name!r}: must be one of {', '.join(ACTIVATIONS)}")
    if name in PLAIN:
        return lambda num_features: PLAIN[name]()
    return lambda num_features: SPATIAL[name](num_features, kernel_size, gate)
