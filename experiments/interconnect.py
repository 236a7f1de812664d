"""How long a DDP step takes on paper: its all-reduce over a link, and as much of it as the backward pass hides."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from omegaconf import DictConfig


class Link(NamedTuple):
    """What joins neighbours in a ring.

    Attributes:
        gb_s: 10⁹ bytes a second, in each direction.
        hop_us: microseconds of each message, beside its bytes.
        start_us: microseconds of an all-reduce, beside its messages.
    """

    gb_s: float
    hop_us: float
    start_us: float = 0.0


def all_reduce(size: float, count: int, link: Link) -> float:
    """Seconds that a ring of ``count`` takes to sum ``size`` bytes: 2 (n − 1) messages of a share of 1 / n each.

    No way to sum moves less (Patarasuk and Yuan, J. Parallel Distrib. Comput. 69, 2009); gloo does it so, NCCL may.
    """
    hops = 2 * (count - 1)
    return (link.start_us + hops * link.hop_us) / 1e6 + hops / count * size / link.gb_s / 1e9 if hops else 0.0


def step_of(alone: float, backward: float, buckets: Sequence[float], buffers: float, count: int, link: Link) -> float:
    """Seconds of a DDP step of ``count`` processes.

    Gradients travel in buckets while the backward pass goes on; the last one is ready when that has ended, and so is
    all that did not fit into it. Buffers are sent before the forward pass, and nothing hides them.

    Args:
        alone: seconds of a step of a process that shares nothing.
        backward: its share of backward passes, which hide what travels.
        buckets: bytes of each, in their order.
        buffers: bytes; counted as another all-reduce, which is not less than the broadcast that it is.
        count, link: see :func:`all_reduce`.
    """
    times = [all_reduce(size, count, link) for size in buckets]
    waits = max(times[-1], sum(times) - backward * alone)
    return alone + waits + (all_reduce(buffers, count, link) if buffers else 0.0)


def link_of(least: float, whole: float, size: float, count: int = 2) -> Link:
    """The link on which an all-reduce of nothing takes ``least`` seconds, and one of ``size`` bytes ``whole``."""
    hops = 2 * (count - 1)
    return Link(hops / count * size / max(whole - least, 1e-9) / 1e9, least / hops * 1e6)


def gpu_table(
    cfg: DictConfig, model: Mapping[str, Any], backward: float, buckets: Sequence[float], buffers: int
) -> Any:
    """Milliseconds and efficiency of each number of GPUs over each link: none of it measured."""
    from experiments.reproduction import BACKWARD, multiplications
    from experiments.tables import Table

    seconds, basis = cfg.gpu.step_ms, "given"
    if seconds is None:
        operations = cfg.gpu.batch_size * multiplications(model, cfg.channels, cfg.patch_size) * 2 * BACKWARD
        seconds, basis = operations / cfg.gpu.tflops / 1e9, f"assumed: its operations at {cfg.gpu.tflops:g} TFLOP/s"
    body = []
    for name, figures in cfg.gpu.links.items():
        link = Link(**figures)
        for shared, batch in ((False, "the same batch each"), (True, "the batch shared out")):
            cells = []
            for count in cfg.gpu.counts:
                alone = seconds / 1e3 / (count if shared else 1)
                step = step_of(alone, backward, buckets, buffers, count, link)
                cells.append(f"{step * 1e3:.3f} ({alone / step:.1%})")
            body.append([f"{name}, {batch}", *cells])
    note = (
        f"A model, not measured. A step of one GPU, {cfg.gpu.batch_size} crops {cfg.patch_size}×{cfg.patch_size}, is "
        f"{basis}; {backward:.0%} of it are backward passes, as measured on the CPU; a shared-out batch is taken to be "
        "as much faster as it is smaller. "
        + "; ".join(f"{n}: {f.gb_s:g} GB/s, {f.hop_us:g} µs a hop" for n, f in cfg.gpu.links.items())
        + "."
    )
    columns = ["over", *(f"{count} GPU{'s' * (count > 1)}" for count in cfg.gpu.counts)]
    return Table(f"{cfg.network} on several GPUs: ms a step (efficiency)", columns, body, note)
