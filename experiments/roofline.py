"""How fast a machine can be at best, and how long a network would take there (Williams et al., "Roofline", CACM 2009).

What counts of a network are its convolutions and matrix products alone: their multiplications and additions, and the
tensors that each reads and writes, once. All else could be computed along with them, and is taken to cost nothing.
"""

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, flop_registry

WARM_UP = 3  # steps that are not measured
SIDE = {"cuda": 8192, "cpu": 1024}  # of the square matrices whose product is timed
FEATURES = {"cuda": (64, 256, 128, 128), "cpu": (8, 128, 64, 64)}  # [B, C, H, W], of which as many are convolved, 3×3
BYTES = {"cuda": 2**30, "cpu": 2**28}  # that are copied: more than caches hold


class Work(NamedTuple):
    """What a step asks for: floating-point operations, and elements of tensors that are read or written."""

    flops: float
    elements: float


class Ceilings(NamedTuple):
    """What a machine can do in a second: operations of a product or convolution, bytes that a copy reads or writes."""

    flops: float
    bytes: float


class Least(NamedTuple):
    """The seconds that a step takes at least, and what makes it so: ``matrix`` or ``copy``."""

    seconds: float
    bound: str


def seconds_of(
    step: Callable[[], Any], at_least: float, of: Callable[[list[float]], float] = statistics.median
) -> float:
    """The time of a step, over that many seconds and three steps at least: the median, or what ``of`` makes of all."""
    times: list[float] = []
    while len(times) < WARM_UP + 3 or sum(times[WARM_UP:]) < at_least:
        started = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return of(times[WARM_UP:])


def ceilings(device: str, half: bool, seconds: float) -> Ceilings:
    """Measured: the faster of the best product and the best convolution, and copies, of so many seconds each.

    In bfloat16, or float32 as convolutions: on a GPU both use TensorFloat-32 if ``torch.backends.cudnn.allow_tf32``
    says so. One of the two is slow on some machines: what libraries do with a precision differs.
    """
    dtype, matrices = torch.bfloat16 if half else torch.float32, torch.backends.cuda.matmul
    left, right = (torch.rand(SIDE[device], SIDE[device], device=device, dtype=dtype) for _ in "ab")
    shape, channels = FEATURES[device], FEATURES[device][1]
    features, kernel = (
        torch.rand(size, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        for size in (shape, (channels, channels, 3, 3))
    )
    source = torch.rand(BYTES[device] // 4, device=device)
    target, kept = torch.empty_like(source), matrices.allow_tf32

    def rate(operation: Callable[[], Tensor]) -> float:
        with FlopCounterMode(display=False) as counter:
            operation()
        return counter.get_total_flops() / seconds_of(operation, seconds, min)

    matrices.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        best = max(rate(lambda: torch.mm(left, right)), rate(lambda: F.conv2d(features, kernel, padding=1)))
    finally:
        matrices.allow_tf32 = kept
    return Ceilings(best, 2 * BYTES[device] / seconds_of(lambda: target.copy_(source), seconds, min))


class Traffic(TorchDispatchMode):
    """Counts the elements of all that goes into convolutions and matrix products, and comes out."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        if func.overloadpacket in flop_registry:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            self.elements += sum(tensor.numel() for tensor in tensors)
        return result


def gradients_of_convolution(
    grad: Sequence[int], x: Sequence[int], weight: Sequence[int], *rest: Any, **unused: Any
) -> int:
    """Each takes as many operations as the convolution; PyTorch's count is too large where channels are grouped."""
    *_, transposed, _, _, wanted = rest
    return conv_flop_count([*x], [*weight], [*grad], transposed) * sum(wanted[:2])


def work_of(network: nn.Module, shape: Sequence[int]) -> dict[str, Work]:
    """``training`` (estimate, squared error and gradients) and ``estimating`` of a batch [B, C, H, W].

    Counted on the meta device, where nothing is computed.
    """
    network = copy.deepcopy(network).to("meta").train()
    noisy, level = torch.empty(*shape, device="meta"), torch.empty(shape[0], 1, 1, 1, device="meta")

    def counted(step: Callable[[], Any]) -> Work:
        gradients = {torch.ops.aten.convolution_backward: gradients_of_convolution}
        with FlopCounterMode(display=False, custom_mapping=gradients) as counter, Traffic() as traffic:
            step()
        return Work(counter.get_total_flops(), traffic.elements)

    training = counted(lambda: network(noisy, level).square().mean().backward())
    with torch.no_grad():  # not inference_mode, in which composite operators would stay hidden
        return {"training": training, "estimating": counted(lambda: network.eval()(noisy, level))}


def least(work: Work, ceiling: Ceilings, size: int) -> Least:
    """The time of a step whose elements take ``size`` bytes each: what takes longer, the products or the memory."""
    product, copied = work.flops / ceiling.flops, work.elements * size / ceiling.bytes
    return Least(max(product, copied), "matrix" if product > copied else "copy")
