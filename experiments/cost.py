"""What a denoiser costs: multiplications, time and memory for an image, measured in a process of its own."""

import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

SIZE = 256  # pixels at each side, unless another is asked for
REPEATS, LIMIT = 7, 10.0  # runs, of which the median is taken; seconds after which no other is begun
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measure_apart(checkpoint: str | None, model: Mapping[str, Any], channels: int, size: int = SIZE) -> dict[str, Any]:
    """:func:`measure` of a checkpoint or of a model's configuration, in a fresh process whose memory is its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_measure, checkpoint, dict(model), channels, size).result()


def _measure(checkpoint: str | None, model: dict[str, Any], channels: int, size: int) -> dict[str, Any]:
    from hydra.utils import instantiate

    from denoisers.weights import open_network

    return measure(open_network(checkpoint).network if checkpoint else instantiate(model), channels, size)


def measure(network: nn.Module, channels: int, size: int = SIZE) -> dict[str, Any]:
    """``parameters``; ``size_mb`` of them in float32; ``macs``; ``cpu_ms``, ``gpu_ms``; ``peak_mb`` (10⁶ bytes).

    Of one image of ``size``² pixels in float32, whole. ``macs`` are multiply–accumulates of convolutions and matrix
    products, None for methods that make none. Memory is what the process takes beyond what it had before, on the CPU,
    None where the system does not tell; ``gpu_ms`` is None without a GPU.
    """
    from denoisers.layers import channels_last

    network = channels_last(network.eval())
    parameters = sum(p.numel() for p in network.parameters())
    noisy, level = torch.rand(1, channels, size, size), torch.full((1, 1, 1, 1), 0.1)
    with torch.inference_mode():
        network(noisy[..., :32, :32].contiguous(), level)  # loads libraries
        started = time.perf_counter()
        with FlopCounterMode(display=False) as counter:
            peak = peak_memory(network, noisy, level)
        cpu_ms = (time.perf_counter() - started) * 1e3
        if cpu_ms < LIMIT * 1e3:  # what takes longer is not warmer, nor timed better, by the second run
            cpu_ms = milliseconds(network, noisy, level)
        gpu_ms = None
        if torch.cuda.is_available() and parameters:
            gpu_ms = milliseconds(network.cuda(), noisy.cuda(), level.cuda())
    return {
        "parameters": parameters,
        "size_mb": parameters * 4 / 1e6,
        "macs": counter.get_total_flops() // 2 or None,
        "cpu_ms": cpu_ms,
        "gpu_ms": gpu_ms,
        "peak_mb": peak,
    }


def milliseconds(network: nn.Module, noisy: Tensor, level: Tensor) -> float:
    """The median time of an estimate; that of the first one if it takes very long."""
    times: list[float] = []
    while len(times) <= REPEATS and sum(times) < LIMIT:
        started = time.perf_counter()
        network(noisy, level)
        if noisy.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:] or times) * 1e3  # the first one warms up


def turns_apart(files: Mapping[str, str], channels: int, height: int, width: int) -> dict[str, float]:
    """:func:`turns` of files of networks, and of the first as PyTorch comes, ``eager``; in a fresh process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_turns, dict(files), channels, height, width).result()


def _turns(files: dict[str, str], channels: int, height: int, width: int) -> dict[str, float]:
    from denoisers.layers import channels_last
    from denoisers.weights import open_network

    networks = {"eager": open_network(next(iter(files.values()))).network}
    networks |= {name: channels_last(open_network(path).network) for name, path in files.items()}
    return turns(networks, torch.rand(1, channels, height, width), torch.full((1, 1, 1, 1), 0.1))


@torch.inference_mode()
def turns(networks: Mapping[str, nn.Module], noisy: Tensor, level: Tensor) -> dict[str, float]:
    """Name → the median milliseconds of an estimate. They take turns, because a machine's speed drifts."""
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(1 + REPEATS):  # the first one warms up
        for name, network in networks.items():
            started = time.perf_counter()
            network(noisy, level)
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds[1:]) * 1e3 for name, seconds in times.items()}


def peak_memory(network: nn.Module, noisy: Tensor, level: Tensor) -> float | None:
    """By how many megabytes an estimate raises the process's resident memory at most; None where nobody tells."""
    try:
        CLEAR.write_text("5")  # the peak begins anew
        before = resident("VmRSS")
    except (OSError, StopIteration):
        before = None
    network(noisy, level)
    return None if before is None else (resident("VmHWM") - before) / 1e6


def resident(field: str) -> int:
    """A field of the process's status, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
