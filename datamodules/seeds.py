"""Everything random is a function of its names: a seed and what is being drawn."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def derive(*parts: int) -> int:
    """A 64-bit seed from non-negative integers; other parts give an unrelated seed (NumPy's ``SeedSequence``)."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


def content(image: Tensor) -> int:
    """A 64-bit number that depends on nothing but an image's shape and values; [C, H, W]."""
    array = np.ascontiguousarray(image.cpu().numpy())
    digest = hashlib.sha256(str(array.shape).encode())
    digest.update(array.data)
    return int.from_bytes(digest.digest()[:8], "little")


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """PyTorch's global generators (kornia knows no others) start from ``seed`` within and are as they were after it."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would write a stack trace for CUDA each time
        for device in devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
