"""Blocks and rules that two or more networks share."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activate = Callable[[int], nn.Module]  # channels → a new activation
Layers = TypeVar("Layers", bound=nn.Module)


def require_positive(**sizes: int) -> None:
    """Raises ValueError naming the first of ``sizes`` that is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size}: must be at least 1")


def require_odd(**kernels: int) -> None:
    """Raises ValueError naming the first of ``kernels`` that has no centre pixel: allowed are 1, 3, 5, …"""
    for name, kernel in kernels.items():
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"{name}={kernel}: must be odd and at least 1 (1, 3, 5, …)")


def same_conv(in_channels: int, out_channels: int, kernel_size: int, bias: bool = True, dilation: int = 1) -> nn.Conv2d:
    """A convolution that keeps height and width (zero padding), He-initialised (He et al., ICCV 2015)."""
    padding = dilation * (kernel_size // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=bias)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def conv_stack(
    widths: Sequence[int], kernel_size: int, activate: Activate, dilations: Sequence[int] | None = None
) -> nn.Sequential:
    """Convolutions from each of ``widths`` to the next, an activation between them and none after the last.

    Args:
        widths: channels before, between and after the convolutions, at least two numbers.
        kernel_size: side of the convolutions, odd.
        activate: channels → activation.
        dilations: one for each convolution, or None: none is dilated.
    """
    layers: list[nn.Module] = []
    for (into, out), dilation in zip(pairwise(widths), dilations or [1] * (len(widths) - 1), strict=True):
        layers += [same_conv(into, out, kernel_size, dilation=dilation), activate(out)]
    return nn.Sequential(*layers[:-1])


def conv_norm(in_channels: int, out_channels: int, kernel_size: int, activate: Activate) -> list[nn.Module]:
    """Convolution, batch norm, activation."""
    conv = same_conv(in_channels, out_channels, kernel_size)
    return [conv, nn.BatchNorm2d(out_channels), activate(out_channels)]


def double_conv(in_channels: int, out_channels: int, kernel_size: int, activate: Activate) -> nn.Sequential:
    """Twice convolution, batch norm, activation: a level of U-Nets."""
    first = conv_norm(in_channels, out_channels, kernel_size, activate)
    return nn.Sequential(*first, *conv_norm(out_channels, out_channels, kernel_size, activate))


class ResidualBlock(nn.Module):
    """x + conv(activation(conv(x))), 3×3, no norm; the second convolution begins at zero.

    Args:
        num_features: channels.
        activate: channels → activation.
        bias: whether the convolutions have biases.
    """

    def __init__(self, num_features: int, activate: Activate, bias: bool) -> None:
        super().__init__()
        first, second = (same_conv(num_features, num_features, 3, bias=bias) for _ in range(2))
        self.res = nn.Sequential(first, activate(num_features), zero_init(second))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.res(x)


def zero_init(layers: Layers) -> Layers:
    """Sets the last weight and its bias to zero, so that a residual network begins as the identity."""
    last = [module for module in layers.modules() if isinstance(module, nn.Conv2d)][-1]
    nn.init.zeros_(last.weight)
    if last.bias is not None:
        nn.init.zeros_(last.bias)
    return layers


class LevelError(ValueError):
    """A network that has to be told how strong the noise is was not told."""


def require_level(level: Tensor | None, network: str) -> Tensor:
    """The level; raises LevelError, which names the network and what to give, if there is none."""
    if level is None:
        raise LevelError(
            f"{network} has to be told how strong the noise is: give level, the noise's standard deviation on the "
            "[0, 1] scale (σ/255), as [B, 1, 1, 1] or as a map [B, 1, H, W]"
        )
    return level


def level_map(level: Tensor | None, noisy: Tensor, network: str) -> Tensor:
    """The level of the noise as a map [B, 1, H, W] beside ``noisy`` [B, C, H, W].

    Raises:
        LevelError: there is none.
    """
    level = require_level(level, network).to(noisy)
    return level.expand(noisy.shape[0], 1, *noisy.shape[-2:])  # len() would fix the batch of exported networks


def channels_last(network: nn.Module) -> nn.Module:
    """The network with its 4-D weights stored channels last, in which convolutions are fastest on CPU and GPU."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def replicate_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """[B, C, H, W] → the same with H and W raised to a multiple, by repeating the last row and column.

    For networks whose weights are published with it. Repeated noise looks like lines, which a good network keeps: the
    more it has learned, the more it loses to :func:`mirror_to_multiple`, Swift 0.04 to 0.11 dB in BSD's 481×321.
    """
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def mirror_to_multiple(image: Tensor, multiple: int, repeat_edge: bool = False) -> Tensor:
    """[B, C, H, W] → the same with H and W raised to a multiple by mirroring, back and forth where that is needed.

    Args:
        image: of any size.
        multiple: of which height and width will be.
        repeat_edge: ``a b c`` goes on with ``c b a``; otherwise with ``b a``. One pixel is repeated either way.
    """
    for dim in (-2, -1):  # whether or not it is a multiple: an exported graph holds the branch of one size alone
        size = image.shape[dim]
        place = mirrored(size, 0, -size % multiple, image.device, repeat_edge)
        image = image.index_select(dim, place)
    return image


def mirrored(size: int, before: int, after: int, device: torch.device, repeat_edge: bool = False) -> Tensor:
    """The places 0 … size − 1 and so many before and after them, which are mirrored back and forth."""
    # a tensor, because ONNX knows no remainder by the size of another
    period = torch.full((), 2 * size if repeat_edge else torch.sym_max(1, 2 * size - 2), device=device)
    place = torch.arange(-before, size + after, device=device) % period
    return torch.where(place < size, place, period - int(repeat_edge) - place)


class _DepthwiseConv(torch.autograd.Function):
    """A depthwise convolution (stride 1, same size) whose gradients are convolutions too.

    PyTorch's own kernel for the weight's gradient is many times slower on CPU than the forward pass. Here it is one
    grouped convolution of the input with the output's gradient, each image and channel a group, in float32.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=x.shape[1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (x, weight), (grad,) = ctx.saved_tensors, gradients
        batch, channels, size = x.shape[0], x.shape[1], weight.shape[-1]
        grad_x = F.conv2d(grad, weight.flip(2, 3), padding=size // 2, groups=channels)
        accurate = torch.promote_types(x.dtype, torch.float32)
        planes, kernels = (t.to(accurate, memory_format=torch.contiguous_format).flatten(0, 1) for t in (x, grad))
        grad_weight = F.conv2d(planes[None], kernels[:, None], padding=size // 2, groups=batch * channels)
        grad_weight = grad_weight.view(batch, channels, 1, size, size).sum(0)
        return grad_x, grad_weight.to(weight.dtype), grad.sum((0, 2, 3))


class DepthwiseConv2d(nn.Conv2d):
    """``nn.Conv2d(features, features, kernel_size, padding="same", groups=features)``, fast to train on CPU too."""

    def __init__(self, num_features: int, kernel_size: int) -> None:
        super().__init__(num_features, num_features, kernel_size, padding=kernel_size // 2, groups=num_features)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling() or self.bias is None:
            return super().forward(x)
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        return _DepthwiseConv.apply(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class SqueezeExcite(nn.Module):
    """x · gate(W₂ ReLU(W₁ mean(x))), the mean over all pixels: one factor for each image and channel.

    Hu, Shen and Sun, "Squeeze-and-Excitation Networks", CVPR 2018.

    Args:
        num_features: channels.
        squeezed: channels between W₁ and W₂.
        gate: what makes factors of W₂'s output.
    """

    def __init__(self, num_features: int, squeezed: int, gate: Callable[[], nn.Module] = nn.Sigmoid) -> None:
        super().__init__()
        self.factors = nn.Sequential(
            nn.Conv2d(num_features, squeezed, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(squeezed, num_features, 1),
            gate(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors(x.mean((2, 3), keepdim=True))
