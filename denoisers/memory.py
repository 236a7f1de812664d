"""How much of a picture a network can be given at once: the memory it takes for a pixel, and the memory there is."""

import math
import weakref
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from denoisers.receptive import Network, evaluating

PROBE = 128  # side of the picture on which a network's memory is counted
SCRATCH = 1.25  # times that: what convolutions take for themselves while they compute
LEAST = 1024  # bytes a pixel, also of a network that computes outside PyTorch, whose memory is not counted
BUDGET = 2.2e9  # bytes that a tile takes on a CPU, unless it would be mostly overlap: larger are hardly faster
UNKNOWN = 4e9  # bytes that are taken to be available where the system does not tell
LARGEST = 8192  # side of a tile on a GPU

_costs: "WeakKeyDictionary[Network, float]" = WeakKeyDictionary()


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive at once, those that were made before it left out."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.add(tensor.untyped_storage())
        return result

    def add(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if address and address not in self.known:
            self.known.add(address)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.forget, address, size)

    def forget(self, address: int, size: int) -> None:
        self.known.discard(address)
        self.now -= size


@torch.inference_mode()
def bytes_per_pixel(network: Network, channels: int) -> float:
    """The memory that an estimate takes for each pixel of a picture, its input and scratch included.

    Counted once; a network that computes outside PyTorch may say it itself, by ``bytes_per_pixel``.
    """
    if said := getattr(network, "bytes_per_pixel", None):
        return max(LEAST, said)
    if network not in _costs:
        weight = next(network.parameters(), None) if isinstance(network, nn.Module) else None
        noisy = torch.rand(1, channels, PROBE, PROBE, generator=torch.Generator().manual_seed(0))
        noisy = noisy.to(None if weight is None else weight.device)
        with evaluating(network), Live() as live:
            network(noisy, torch.full((1, 1, 1, 1), 0.1, device=noisy.device))
        _costs[network] = max(LEAST, SCRATCH * live.peak / PROBE**2)
    return _costs[network]


def available(device: torch.device) -> float:
    """The bytes that could be taken on a device now."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    found = [UNKNOWN]
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        found = [int(lines["MemAvailable"].split()[0]) * 1024]
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text() for name in ("max", "current"))
        found.append(int(limit) - int(used))
    except (OSError, KeyError, ValueError):  # another system; no limit, or none that is named there
        pass
    return max(0.0, min(found))


def side_that_fits(network: Network, channels: int, device: torch.device, least: int, frames: int = 1) -> int:
    """The side of the largest square of pixels that a network is to be given at once.

    On a CPU it is held to ``BUDGET``, because larger tiles are hardly faster, unless it would be smaller than ``least``
    for which half of the memory that there is may be taken.

    Args:
        least: the side below which tiles overlap by more than they give.
        frames: how many of them a tile holds.
    """
    cost = bytes_per_pixel(network, channels) * frames
    most = math.isqrt(int(available(device) / 2 / cost))
    if device.type == "cuda":
        return min(most, LARGEST)
    return min(most, max(math.isqrt(int(BUDGET / cost)), least))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory, of a CPU or a GPU."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in said for words in ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc"))
    )
