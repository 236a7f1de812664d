"""What is refused before any pixel is read: splits whose headers do not fit what is asked of them."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from datamodules.images import BACKDROPS, Alpha, DataError, Header, listing, read_headers
from datamodules.noise.base import Noise
from datamodules.noise.none import NoNoise
from datamodules.parting import Item, Splits

log = logging.getLogger(__name__)
SMALLEST_SCORED = 11  # SSIM's window

Headers = dict[Path, Header]


def check_headers(
    splits: Splits,
    channels: int,
    patch_size: int | None = None,
    *,
    resize: int | Sequence[int] | None = None,
    alpha: Alpha = "drop",
) -> Headers:
    """The header of every file of the splits.

    Args:
        splits: the images.
        channels: colour files are taken for grey ones (by their luma, which is logged), grey ones never for colour.
        patch_size: side of the training crops; None where nothing is trained, and the test images alone are looked at.
        resize: the shorter side, or height and width, that every image gets; None: each its own.
        alpha: transparent parts are as if they were not (``drop``), show ``black`` or ``white``, or are refused.

    Raises:
        DataError: an empty split, files that cannot be read, unequal pairs, grey files for ``channels=3``, images
            smaller than a training crop or than SSIM's window. The message names the files.
    """
    parts = {"test": splits.test}
    if patch_size is not None:
        parts = {"train": splits.train, "val": splits.val, **parts}
    for name, items in parts.items():
        if not items:
            only = "; these are test images, for experiments.evaluate" if splits.test and not splits.train else ""
            raise DataError(f"there is no {name} image with channels={channels}{only}")
    everything = [item for items in parts.values() for item in items]
    paths = list(dict.fromkeys(path for item in everything for path in item.files))
    headers = ruled(dict(zip(paths, read_headers(paths), strict=True)), alpha)
    if resize is not None:
        if own := [str(item.noisy) for item in everything if item.noisy]:
            raise DataError(
                f"data.resize={resize} would change the noise of images that bring their own:\n{listing(own)}"
            )
        headers = {path: header.resized(resize) for path, header in headers.items()}
    refuse_uneven_pairs(everything, headers)
    refuse_grey_as_colour(headers, channels)
    for name, items in parts.items():
        if name == "train" and patch_size is not None:
            refuse_small(items, headers, name, patch_size, "lower data.patch_size or leave them out")
        else:
            scored = [item for item in items if item.clean]
            refuse_small(
                scored, headers, name, SMALLEST_SCORED, "leave them out (SSIM is not defined below its window)"
            )
    return headers


def ruled(headers: Headers, alpha: Alpha) -> Headers:
    """The headers, each with what is seen through transparent parts.

    Raises:
        DataError: there are transparent parts, which the rule refuses, or no such rule.
    """
    if alpha not in (*BACKDROPS, "refuse"):
        raise DataError(f"data.alpha={alpha}: must be drop, black, white or refuse")
    transparent = [path for path, header in headers.items() if header.alpha]
    if transparent and alpha == "refuse":
        raise DataError(
            f"data.alpha=refuse: {len(transparent)} of {len(headers)} images have transparent parts; leave them out, "
            "or say what is seen there with data.alpha=black, white or drop:\n" + listing(list(map(str, transparent)))
        )
    if transparent and alpha == "drop":
        rank_zero_only(log.info)(
            f"data.alpha=drop: {len(transparent)} of {len(headers)} images have transparent parts, "
            "which are as if they were not"
        )
    return headers | {path: replace(headers[path], backdrop=BACKDROPS[alpha]) for path in transparent}


def refuse_doubled_noise(items: Sequence[Item], noise: Noise) -> None:
    """Raises DataError where noise would be added to images that have noisy files already."""
    if any(item.noisy for item in items) and not isinstance(noise, NoNoise):
        raise DataError("this data brings its own noise: add noise=none to the command")


def refuse_uneven_pairs(items: Sequence[Item], headers: Headers) -> None:
    """Raises DataError naming the pairs whose two images differ in size or channels."""
    uneven = [
        " but ".join(f"{path} is {headers[path]}" for path in item.files)
        for item in items
        if len({str(headers[path]) for path in item.files}) > 1
    ]
    if uneven:
        raise DataError("the two images of a pair must agree in size and channels:\n" + listing(uneven))


def refuse_uneven_videos(items: Sequence[Item], headers: Headers) -> None:
    """Raises DataError naming the videos whose frames differ in size."""
    sizes: dict[tuple[str, str | None], dict[str, Path]] = {}
    for item in (item for item in items if item.video is not None):
        header = headers[item.files[0]]
        sizes.setdefault((item.set, item.video), {}).setdefault(f"{header.height}×{header.width}", item.files[0])
    uneven = [" but ".join(f"{path} is {size}" for size, path in s.items()) for s in sizes.values() if len(s) > 1]
    if uneven:
        raise DataError("the frames of a video must agree in size:\n" + listing(uneven))


def refuse_motion(items: Sequence[Item], headers: Headers, motion: float, frames: int | None, patch_size: int) -> None:
    """Raises DataError where clips of ``frames`` crops, each up to ``motion`` pixels from the last, cannot be cut."""
    if not isinstance(motion, int | float) or isinstance(motion, bool) or not 0 <= motion < math.inf:
        raise DataError(f"data.motion={motion}: must be a number of pixels a frame from 0, or null")
    if frames is None:
        raise DataError(f"data.motion={motion} moves crops from frame to frame: say how many, such as data.frames=5")
    if videos := sorted({item.video or item.set for item in items if item.video is not None}):
        raise DataError(
            f"data.motion={motion} is for single images, but these are frames of videos, which move by themselves: "
            f"leave data.motion out:\n{listing(videos)}"
        )
    travel = math.ceil((frames - 1) * motion)
    remedy = (
        f"{frames} frames that move by up to {motion:g} pixels each take {travel} more than a crop's {patch_size}: "
    )
    remedy += "lower data.motion, data.frames or data.patch_size, or leave the images out"
    refuse_small(items, headers, "training", patch_size + travel, remedy)


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
    sizes = [(item.files[0], headers[item.files[0]]) for item in items]
    small = [f"{path} is {header}" for path, header in sizes if min(header.height, header.width) < side]
    if small:
        raise DataError(
            f"{len(small)} {split} images are smaller than {side}×{side} pixels; images too small are refused, "
            f"neither padded nor skipped: {remedy}:\n" + listing(small)
        )
