"""Triton kernels of xUnits, see :mod:`denoisers.fused`: what PyTorch does in many passes over memory, in one or two.

Tensors are [B, C, H, W] in float32, bfloat16 or float16, all of a call stored in one order, contiguous or channels
last; what is computed in between is float32, summed in a fixed order. Needs Triton, which PyTorch's builds for CUDA
bring.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# gain, shift, mean, variance: float32 [C]; ε. (x − mean) / √(variance + ε) · gain + shift
Norm = tuple[Tensor, Tensor, Tensor, Tensor, float]
ROWS = 4  # of outputs that a program makes of each input it reads
TILE = 512  # elements of one of these rows; of what a program of a kernel without neighbours has in hand
STEPS = 16  # how often it takes them where it sums

# --- in kernels: channels c along the last axis, ``fits`` where there are such


@triton.jit
def normal(value, norm, c, fits):  # type: ignore[no-untyped-def]
    """Of mean 0 and variance 1."""
    return (value - tl.load(norm[2] + c, fits, 0.0)) * tl.rsqrt(tl.load(norm[3] + c, fits, 1.0) + norm[4])


@triton.jit
def affine(value, norm, c, fits):  # type: ignore[no-untyped-def]
    return value * tl.load(norm[0] + c, fits, 0.0) + tl.load(norm[1] + c, fits, 0.0)


@triton.jit
def gate(u, GAUSSIAN: tl.constexpr):  # type: ignore[no-untyped-def]
    return tl.exp(-u * u) if GAUSSIAN else tl.sigmoid(u)


@triton.jit
def slope(u, gated, GAUSSIAN: tl.constexpr):  # type: ignore[no-untyped-def]
    """The gate's derivative."""
    return -2 * u * gated if GAUSSIAN else gated * (1 - gated)


@triton.jit
def unit_kernel(  # type: ignore[no-untyped-def]
    source, x, out, weight, bias, first, last, C, H, W, step_b, step_c, step_h, step_w,
    K: tl.constexpr, RELU: tl.constexpr, GAUSSIAN: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    across = tl.cdiv(W, COLUMNS)
    top = tl.program_id(0) // across * ROWS
    rows = top + tl.arange(0, ROWS)
    columns = tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    fits = c < C
    image = tl.program_id(2).to(tl.int64) * step_b
    total = tl.zeros((ROWS, COLUMNS, CHANNELS), tl.float32)
    for y in range(ROWS + K - 1):
        row = top + y - K // 2
        i = y - tl.arange(0, ROWS)  # with which row of the kernel it counts for each row of outputs
        counts = (i >= 0) & (i < K)
        for j in range(K):
            column = columns + (j - K // 2)
            inside = (row >= 0) & (row < H) & (column >= 0) & (column < W)
            place = image + row * step_h + column[:, None] * step_w + c[None, :] * step_c
            value = tl.load(source + place, inside[:, None] & fits[None, :], 0.0).to(tl.float32)
            if first is not None:
                value = affine(normal(value, first, c, fits), first, c, fits)
            if RELU:
                value = tl.where(value <= 0, 0.0, value)  # what is not a number stays so
            value = tl.where(inside[:, None], value, 0.0)  # it is what is convolved that is padded with zeros
            there = counts[:, None] & fits[None, :]
            tap = tl.load(weight + c[None, :] * (K * K) + i[:, None] * K + j, there, 0.0).to(tl.float32)
            total += tl.where(counts[:, None, None], value[None, :, :] * tap[:, None, :], 0.0)
    total += tl.load(bias + c, fits, 0.0).to(tl.float32)
    if last is not None:
        total = affine(normal(total, last, c, fits), last, c, fits)
    within = (rows < H)[:, None, None] & (columns < W)[None, :, None] & fits[None, None, :]
    place = image + rows[:, None, None] * step_h + columns[None, :, None] * step_w + c[None, None, :] * step_c
    value = tl.load(x + place, within, 0.0).to(tl.float32)
    tl.store(out + place, value * gate(total, GAUSSIAN), within)


@triton.jit
def product_kernel(  # type: ignore[no-untyped-def]
    x, z, out, norm, C, PIXELS, step_b, step_c, step_p, GAUSSIAN: tl.constexpr, P: tl.constexpr, CHANNELS: tl.constexpr
):
    p, c = tl.program_id(0) * P + tl.arange(0, P), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    fits, within = c < C, (p < PIXELS)[:, None] & (c < C)[None, :]
    place = tl.program_id(2).to(tl.int64) * step_b + p[:, None] * step_p + c[None, :] * step_c
    u = affine(normal(tl.load(z + place, within, 0.0).to(tl.float32), norm, c, fits), norm, c, fits)
    tl.store(out + place, tl.load(x + place, within, 0.0).to(tl.float32) * gate(u, GAUSSIAN), within)


@triton.jit
def sums_kernel(  # type: ignore[no-untyped-def]
    grad, x, z, grad_x, sums, norm, C, PIXELS, step_b, step_c, step_p,
    GAUSSIAN: tl.constexpr, P: tl.constexpr, CHANNELS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Also the gradient of x; ``sums`` [2, programs, C] of the gradients of shift and gain."""
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    fits = c < C
    of_shift, of_gain = tl.zeros((CHANNELS,), tl.float32), tl.zeros((CHANNELS,), tl.float32)
    for step in range(STEPS):
        p = (tl.program_id(0) * STEPS + step) * P + tl.arange(0, P)
        within = (p < PIXELS)[:, None] & fits[None, :]
        place = tl.program_id(2).to(tl.int64) * step_b + p[:, None] * step_p + c[None, :] * step_c
        back = tl.load(grad + place, within, 0.0).to(tl.float32)
        plain = normal(tl.load(z + place, within, 0.0).to(tl.float32), norm, c, fits)
        u = affine(plain, norm, c, fits)
        gated = gate(u, GAUSSIAN)
        tl.store(grad_x + place, back * gated, within)
        grad_u = back * tl.load(x + place, within, 0.0).to(tl.float32) * slope(u, gated, GAUSSIAN)
        of_shift += tl.sum(grad_u, 0)
        of_gain += tl.sum(grad_u * plain, 0)
    program = tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
    tl.store(sums + program * C + c, of_shift, fits)
    tl.store(sums + (tl.num_programs(2) * tl.num_programs(0) + program) * C + c, of_gain, fits)


@triton.jit
def back_kernel(  # type: ignore[no-untyped-def]
    grad, x, z, grad_z, norm, of_shift, of_gain, C, PIXELS, COUNT, step_b, step_c, step_p,
    GAUSSIAN: tl.constexpr, P: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    p, c = tl.program_id(0) * P + tl.arange(0, P), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    fits, within = c < C, (p < PIXELS)[:, None] & (c < C)[None, :]
    place = tl.program_id(2).to(tl.int64) * step_b + p[:, None] * step_p + c[None, :] * step_c
    back = tl.load(grad + place, within, 0.0).to(tl.float32)
    plain = normal(tl.load(z + place, within, 0.0).to(tl.float32), norm, c, fits)
    u = affine(plain, norm, c, fits)
    grad_u = back * tl.load(x + place, within, 0.0).to(tl.float32) * slope(u, gate(u, GAUSSIAN), GAUSSIAN)
    mean_u, mean_plain = tl.load(of_shift + c, fits, 0.0) / COUNT, tl.load(of_gain + c, fits, 0.0) / COUNT
    scale = tl.load(norm[0] + c, fits, 0.0) * tl.rsqrt(tl.load(norm[3] + c, fits, 1.0) + norm[4])
    tl.store(grad_z + place, (grad_u - mean_u - plain * mean_plain) * scale, within)


# --- what calls them


def ordered(*tensors: Tensor) -> list[Tensor]:
    """All stored in the order of the first: contiguous if it is, else channels last."""
    order = torch.contiguous_format if tensors[0].is_contiguous() else torch.channels_last
    return [tensor.contiguous(memory_format=order) for tensor in tensors]


class Layout:
    """How a tensor lies, and how it is parted among programs.

    Attributes:
        steps: from image to image, channel to channel, row to row and pixel to pixel.
        pixels, channels: of the piece, of about so many elements, that a program has in hand.
    """

    def __init__(self, x: Tensor, elements: int) -> None:
        _, depth, height, width = x.shape
        last = not x.is_contiguous()
        self.steps = (depth * height * width, *((1, width * depth, depth) if last else (height * width, width, 1)))
        self.channels = min(64, triton.next_power_of_2(depth)) if last else 1
        self.pixels = elements // self.channels
        self.deep = triton.cdiv(depth, self.channels)

    @property
    def flat(self) -> tuple[int, int, int]:
        """The steps where rows need not be told apart."""
        return *self.steps[:2], self.steps[3]


def unit(
    source: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    first: Norm | None,
    relu: bool,
    last: Norm | None,
    gaussian: bool,
) -> Tensor:
    """x · gate(last(depthwise convolution(ReLU(first(source))))); weight [C, 1, K, K]."""
    x, source = ordered(x, source)
    (batch, depth, height, width), layout, out = x.shape, Layout(x, TILE), torch.empty_like(x)
    grid = (triton.cdiv(height, ROWS) * triton.cdiv(width, layout.pixels), layout.deep, batch)
    given = (source, x, out, weight.contiguous(), bias, first, last, depth, height, width, *layout.steps)
    unit_kernel[grid](*given, weight.shape[-1], relu, gaussian, ROWS, layout.pixels, layout.channels)
    return out


def product(x: Tensor, z: Tensor, norm: Norm, gaussian: bool) -> Tensor:
    """x · gate(norm(z))."""
    x, z = ordered(x, z)
    layout, out = Layout(x, 2 * TILE), torch.empty_like(x, dtype=torch.promote_types(x.dtype, z.dtype))
    pixels = x.shape[2] * x.shape[3]
    grid = (triton.cdiv(pixels, layout.pixels), layout.deep, len(x))
    product_kernel[grid](x, z, out, norm, x.shape[1], pixels, *layout.flat, gaussian, layout.pixels, layout.channels)
    return out


def product_gradients(
    grad: Tensor, x: Tensor, z: Tensor, norm: Norm, gaussian: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of x, of z, of the norm's gain and of its shift, where its mean and variance are those of z."""
    x, z, grad = ordered(x, z, grad)
    grad_x, grad_z, layout = torch.empty_like(x), torch.empty_like(z), Layout(x, 2 * TILE)
    depth, pixels = x.shape[1], x.shape[2] * x.shape[3]
    tiles = triton.cdiv(pixels, layout.pixels)
    some = triton.cdiv(tiles, STEPS)
    sums = x.new_empty(2, len(x) * some, depth, dtype=torch.float32)
    how = (*layout.flat, gaussian, layout.pixels, layout.channels)
    sums_kernel[some, layout.deep, len(x)](grad, x, z, grad_x, sums, norm, depth, pixels, *how, STEPS)
    of_shift, of_gain = sums.sum(1)
    counts = (depth, pixels, len(x) * pixels)
    back_kernel[tiles, layout.deep, len(x)](grad, x, z, grad_z, norm, of_shift, of_gain, *counts, *how)
    return grad_x, grad_z, of_gain, of_shift
