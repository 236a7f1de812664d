"""Training crops where the images themselves live on the device: no loader, no workers, the same crops."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.filesize import decimal
from torch import Tensor

from datamodules.datasets import Crops, Stream
from datamodules.images import DataError, white

# (row, column) of one step down and of one to the right in a crop, by the quarter turns of np.rot90
DOWN = torch.tensor([[1, 0], [0, -1], [-1, 0], [0, 1]])
RIGHT = torch.tensor([[0, 1], [1, 0], [0, -1], [-1, 0]])


class DeviceCrops:
    """The batches of a stream, cut out of images on the device; without end, as the stream. Its length is an epoch's.

    Args:
        crops: the images, and what is drawn of them.
        stream: which crops make a batch.
        device: where the images live from now on.

    Raises:
        DataError: the images do not fit there.
    """

    def __init__(self, crops: Crops, stream: Stream, device: torch.device) -> None:
        self.crops, self.stream, self.device = crops, stream, device
        arrays = [array for views in crops.images for array in views]
        types = {array.dtype.name for array in arrays}
        kind = types.pop() if types in ({"uint8"}, {"float32"}) else "int32"  # CUDA does not index uint16
        sizes = [array.size for array in arrays]
        refuse_too_large(sum(sizes) * np.dtype(kind).itemsize, device)
        #: every view of every image one after the other, each [H, W, C]
        self.pixels = torch.empty(sum(sizes), dtype=getattr(torch, kind), device=device)
        for part, array in zip(self.pixels.split(sizes), arrays, strict=True):
            part.copy_(torch.from_numpy(array.astype(kind).reshape(-1)))
        self.channels = arrays[0].shape[2]
        per_image = (len(crops.images), len(crops.views))
        self.starts = torch.tensor([0, *np.cumsum(sizes)[:-1]]).view(per_image)
        self.peaks = torch.tensor([white(array) for array in arrays]).view(per_image)
        # how many elements a row and a column are apart
        self.pitches = torch.tensor([(array.shape[1] * array.shape[2], array.shape[2]) for array, *_ in crops.images])

    def __len__(self) -> int:
        return len(self.stream)

    def __iter__(self) -> Iterator[dict[str, Tensor | list[str]]]:
        return map(self.batch, self.stream)

    def batch(self, keys: Sequence[tuple[int, int]]) -> dict[str, Tensor | list[str]]:
        """(epoch, index) of B crops → ``clean`` [B, C, P, P] in [0, 1], or [B, T, C, P, P]; ``noisy``; and ``name``."""
        frames = self.crops.frames or 1
        number, top, left, turn, flip = torch.from_numpy(np.concatenate([self.crops.draw(key) for key in keys])).T
        last = self.crops.patch_size - 1
        down, right = DOWN[turn], RIGHT[turn] * (1 - 2 * flip)[:, None]  # [B, 2]
        corner = torch.stack([top, left], 1) + last * (down + right < 0)  # where in the image the crop's first pixel is
        # one dot product each: from rows and columns to elements
        start, down, right = ((place * self.pitches[number]).sum(1) for place in (corner, down, right))  # [B]
        views = {
            view: self.cut(self.starts[number, position] + start, down, right, self.peaks[number, position])
            for position, view in enumerate(self.crops.views)
        }
        if self.crops.frames:
            views = {view: images.unflatten(0, (len(keys), frames)) for view, images in views.items()}
        numbers = number[::frames].tolist()
        about = [self.crops.facts[n] for n in numbers] if self.crops.facts else [{}]
        facts = {key: torch.stack([of_one[key] for of_one in about]).to(self.device) for key in about[0]}
        return {**views, **facts, "name": [self.crops.items[n].name for n in numbers]}

    def cut(self, start: Tensor, down: Tensor, right: Tensor, peak: Tensor) -> Tensor:
        """Arguments [B] → crops [B, C, P, P]; element (c, i, j) is ``pixels[start + c + i·down + j·right] / peak``."""
        start, down, right = torch.stack([start, down, right]).to(self.device)[..., None, None, None]
        steps = torch.arange(self.crops.patch_size, device=self.device)
        channels = torch.arange(self.channels, device=self.device)[:, None, None]
        index = (start + channels + down * steps[:, None]) + right * steps  # [B, C, P, 1] + [B, 1, 1, P]
        values = self.pixels.index_select(0, index.flatten()).view(index.shape)
        # by a tensor: where the divisor is a number, CUDA multiplies by its inverse
        return values / peak.to(self.device)[:, None, None, None]


def refuse_too_large(size: int, device: torch.device) -> None:
    """Raises DataError if that many bytes are not free in the device's memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = available_memory()
    if size > free:
        raise DataError(
            f"data.on_device=true: the decoded training images take {size:,} bytes ({decimal(size)}), but {free:,} "
            f"({decimal(free)}) are free on {device}; use data.on_device=false"
        )


def available_memory() -> int:
    """Bytes of main memory that can be had without swapping; where the system does not say, all that is built in."""
    try:
        return int(re.findall(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[0]) * 1024
    except (OSError, IndexError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
