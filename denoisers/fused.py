"""xUnits on CUDA in fewer passes over memory than PyTorch's operators make, by the kernels of :mod:`denoisers.kernels`.

An estimate takes one kernel: norm, ReLU, depthwise convolution, norm, gate and product, of which only the result is
written. In training the convolution is PyTorch's; norm, gate and product behind it are one pass, keep their two inputs
and nothing else for the gradients, and compute the gate again from them.
"""

import functools
import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Backend = Any  # the module denoisers.kernels, or Plain
log = logging.getLogger(__name__)
Norm = tuple[Tensor, Tensor, Tensor, Tensor, float]  # gain, shift, mean, variance, each [C]; ε
TYPES = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}  # with kernels → how exact they have to be


class Plain:
    """The same by PyTorch's operators, with which the kernels are compared."""

    def unit(
        self,
        source: Tensor,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        first: Norm | None,
        relu: bool,
        last: Norm | None,
        gaussian: bool,
    ) -> Tensor:
        source = source if first is None else affine(normal(source, first), first)
        source = source.relu() if relu else source
        u = F.conv2d(source, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))
        return x * gate(u if last is None else affine(normal(u, last), last), gaussian)

    def product(self, x: Tensor, z: Tensor, norm: Norm, gaussian: bool) -> Tensor:
        return x * gate(affine(normal(z, norm), norm), gaussian)

    def product_gradients(
        self, grad: Tensor, x: Tensor, z: Tensor, norm: Norm, gaussian: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        plain = normal(z, norm)
        u = affine(plain, norm)
        gated = gate(u, gaussian)
        grad_u = grad * x * (-2 * u * gated if gaussian else gated * (1 - gated))
        of_shift, of_gain = grad_u.sum((0, 2, 3)), (grad_u * plain).sum((0, 2, 3))
        count = z.numel() // z.shape[1]
        centred = grad_u - across(of_shift / count) - plain * across(of_gain / count)
        return grad * gated, centred * across(norm[0] * (norm[3] + norm[4]).rsqrt()), of_gain, of_shift


def across(channels: Tensor) -> Tensor:
    """[C] → [C, 1, 1]."""
    return channels[:, None, None]


def normal(x: Tensor, norm: Norm) -> Tensor:
    """(x − mean) / √(variance + ε)."""
    return (x - across(norm[2])) * across((norm[3] + norm[4]).rsqrt())


def affine(x: Tensor, norm: Norm) -> Tensor:
    """x · gain + shift."""
    return x * across(norm[0]) + across(norm[1])


def gate(u: Tensor, gaussian: bool) -> Tensor:
    """exp(−u²) or the sigmoid."""
    return torch.exp(-u.square()) if gaussian else u.sigmoid()


class NormGate(torch.autograd.Function):
    """x · gate(norm(z)), the norm's mean and variance being those of z; nothing else is kept for the gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        z: Tensor,
        gain: Tensor,
        shift: Tensor,
        mean: Tensor,
        variance: Tensor,
        eps: float,
        gaussian: bool,
        backend: Backend,
    ) -> Tensor:
        ctx.save_for_backward(x, z, gain, shift, mean, variance)
        ctx.rest = eps, gaussian, backend
        return backend.product(x, z, (gain, shift, mean, variance, eps), gaussian)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, z, gain, shift, mean, variance = ctx.saved_tensors
        eps, gaussian, backend = ctx.rest
        if not torch.is_grad_enabled():
            gradients = backend.product_gradients(grad, x, z, (gain, shift, mean, variance, eps), gaussian)
            return *gradients, None, None, None, None, None
        # these gradients are to have gradients themselves
        variance, mean = torch.var_mean(z.to(torch.promote_types(z.dtype, torch.float32)), (0, 2, 3), correction=0)
        y = Plain().product(x, z, (gain, shift, mean, variance, eps), gaussian)
        inputs = (x, z, gain, shift)
        wanted = [each for each in inputs if each.requires_grad]
        found = iter(torch.autograd.grad(y, wanted, grad.to(y.dtype), create_graph=True))
        return *(next(found) if each.requires_grad else None for each in inputs), None, None, None, None, None


def xunit(mask: nn.Sequential, x: Tensor, gaussian: bool) -> Tensor | None:
    """x · mask(x) on CUDA, where the last module of ``mask`` is the gate; None where no kernel is for that.

    There is none for norms that are not PyTorch's batch norm, or not in the mode that goes with gradients being wanted
    or not, nor for modules with hooks, which would not be called.
    """
    modules: list[Any] = list(mask)
    *front, conv, norm, _ = modules
    learning = torch.is_grad_enabled()
    norms = [norm] if learning else [m for m in (*front, norm) if not isinstance(m, nn.Conv2d | nn.ReLU | nn.Identity)]
    if any(m._forward_hooks or m._forward_pre_hooks for m in modules) or not all(stock(m, learning) for m in norms):
        return None
    if not fits(x) or (backend := working(x.dtype, x.is_contiguous())) is None:
        return None
    if learning:
        z = conv(nn.Sequential(*front)(x))
        mean, variance = torch.batch_norm_update_stats(z.detach(), norm.running_mean, norm.running_var, norm.momentum)
        norm.num_batches_tracked += 1
        return NormGate.apply(x, z, norm.weight, norm.bias, mean, variance, norm.eps, gaussian, backend)
    source = front.pop(0)(x) if front and isinstance(front[0], nn.Conv2d) else x
    first = numbers(front[0]) if front else None
    return backend.unit(source, x, conv.weight, conv.bias, first, bool(front), numbers(norm), gaussian)


def fits(x: Tensor) -> bool:
    """Whether kernels take it: by its type, its size, of which they count with 32 bits, and the GPU that it is on."""
    here = not x.is_cuda or x.device.index == torch.cuda.current_device()
    return x.dtype in TYPES and 0 < x[:1].numel() < 2**31 and here


def stock(norm: nn.Module, training: bool) -> bool:
    """Whether it is PyTorch's batch norm, as it comes, and in that mode."""
    if type(norm) is not nn.BatchNorm2d or not norm.affine or norm.running_mean is None or norm.momentum is None:
        return False
    return norm.training == training and norm.running_mean.dtype == torch.float32


def numbers(norm: nn.Module) -> Norm | None:
    """A batch norm's; None of the identity that is left where one was folded."""
    if isinstance(norm, nn.Identity):
        return None
    return norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps  # type: ignore[return-value]


@functools.cache
def working(kind: torch.dtype, contiguous: bool) -> Backend | None:
    """The kernels, if they are here and compute what PyTorch does, tried once for each type and order in memory."""
    try:
        from denoisers import kernels
    except ImportError:
        return None
    try:
        with torch.no_grad(), torch.autocast("cuda", enabled=False):
            check(kernels, kind, contiguous, "cuda")
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        log.warning(f"the kernels of xUnits do not work here, and PyTorch's operators take their place: {reason}")
        return None
    return kernels


def check(
    backend: Backend, kind: torch.dtype, contiguous: bool, device: str, shape: Sequence[int] = (2, 5, 9, 150)
) -> None:
    """Raises AssertionError if kernels compute something else than PyTorch's operators in float64.

    The shape [B, C, H, W] makes several tiles, not all of which are full.
    """
    generator, order = torch.Generator().manual_seed(0), torch.contiguous_format if contiguous else torch.channels_last
    depth, side, plain = shape[1], 5, Plain()

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    x, z, grad = (drawn(*shape).to(kind).contiguous(memory_format=order) for _ in range(3))
    mean, variance = torch.batch_norm_update_stats(z, drawn(depth), drawn(depth), 0.1)
    first, last = ((drawn(depth), drawn(depth), drawn(depth), drawn(depth).exp(), 1e-5) for _ in range(2))
    of_z = (*first[:2], mean, variance, 1e-5)
    exactly = (*first[:2], *reversed(torch.var_mean(z.double(), (0, 2, 3), correction=0)), 1e-5)
    weight, bias = drawn(depth, 1, side, side) / side, drawn(depth)
    for gaussian in (False, True):
        pairs = []
        for norms in ((first, True, last), (None, False, None)):
            given = (z, x, weight, bias, *norms, gaussian)
            pairs.append((backend.unit(*given), plain.unit(*in_float64(given))))
        pairs.append((backend.product(x, z, of_z, gaussian), plain.product(*in_float64((x, z, exactly, gaussian)))))
        expected = plain.product_gradients(*in_float64((grad, x, z, exactly, gaussian)))
        pairs += zip(backend.product_gradients(grad, x, z, of_z, gaussian), expected, strict=True)
        for found, exact in pairs:
            apart = TYPES[kind] * exact.abs().max().item()
            torch.testing.assert_close(found.double(), exact, atol=apart, rtol=0)


def in_float64(value: Any) -> Any:
    """A tensor, or those in a tuple."""
    if isinstance(value, tuple):
        return tuple(in_float64(one) for one in value)
    return value.double() if isinstance(value, Tensor) else value
