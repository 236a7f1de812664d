"""What is refused before any pixel is read: splits whose headers do not fit what is asked of them."""

import logging
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from datamodules.catalog import Item, Splits
from datamodules.images import DataError, Header, listing, read_headers

log = logging.getLogger(__name__)
SMALLEST_SCORED = 11  # SSIM's window

Headers = dict[Path, Header]


def check_headers(splits: Splits, channels: int, patch_size: int) -> Headers:
    """The header of every file of the splits.

    Args:
        splits: the images.
        channels: colour files are taken for grey ones (by their luma, which is logged), grey ones never for colour.
        patch_size: side of the training crops.

    Raises:
        DataError: an empty split, files that cannot be read, unequal pairs, grey files for ``channels=3``, images
            smaller than a training crop or than SSIM's window. The message names the files.
    """
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    for name, items in parts.items():
        if not items:
            raise DataError(f"there is no {name} image with channels={channels}")
    everything = [item for items in parts.values() for item in items]
    paths = list(dict.fromkeys(path for item in everything for path in item.files))
    headers = dict(zip(paths, read_headers(paths), strict=True))
    refuse_uneven_pairs(everything, headers)
    refuse_grey_as_colour(headers, channels)
    refuse_small(splits.train, headers, "train", patch_size, "lower data.patch_size or leave them out")
    for name in ("val", "test"):
        refuse_small(
            parts[name], headers, name, SMALLEST_SCORED, "leave them out (SSIM is not defined below its window)"
        )
    return headers


def refuse_uneven_pairs(items: Sequence[Item], headers: Headers) -> None:
    """Raises DataError naming the pairs whose two images differ in size or channels."""
    uneven = [
        " but ".join(f"{path} is {headers[path]}" for path in item.files)
        for item in items
        if len({str(headers[path]) for path in item.files}) > 1
    ]
    if uneven:
        raise DataError("the two images of a pair must agree in size and channels:\n" + listing(uneven))


def refuse_grey_as_colour(headers: Headers, channels: int) -> None:
    """Raises DataError naming the grey files where colour is asked for; logs the rule where grey is asked for."""
    grey = [str(path) for path, header in headers.items() if header.channels < channels]
    if grey:
        raise DataError(
            f"channels=3 was asked for, but {len(grey)} of {len(headers)} images are grey (1 channel); "
            "use channels=1 or leave them out:\n" + listing(grey)
        )
    if colour := sum(header.channels > channels for header in headers.values()):
        rule = f"channels=1: {colour} of {len(headers)} images are colour and become grey by their BT.601 luma"
        rank_zero_only(log.info)(rule)


def refuse_small(items: Sequence[Item], headers: Headers, split: str, side: int, remedy: str) -> None:
    """Raises DataError naming the images below side × side pixels."""
    sizes = [(item.clean, headers[item.clean]) for item in items]
    small = [f"{path} is {header}" for path, header in sizes if min(header.height, header.width) < side]
    if small:
        raise DataError(
            f"{len(small)} {split} images are smaller than {side}×{side} pixels; images too small are refused, "
            f"neither padded nor skipped: {remedy}:\n" + listing(small)
        )
