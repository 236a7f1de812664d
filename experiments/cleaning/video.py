"""Videos through a network, frame by frame or in windows; sound and everything else beside the pictures is copied."""

import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig

from experiments.cleaning.pictures import tiled
from experiments.cleaning.places import Item
from experiments.cli import NO_ROOM, UserError

if TYPE_CHECKING:
    from denoisers.inference import Denoiser

log = logging.getLogger(__name__)
# decoder → encoder of the same format, with options that lose next to nothing
ENCODERS = {
    "h264": ("libx264", {"crf": "10"}),
    "hevc": ("libx265", {"crf": "10", "x265-params": "log-level=error"}),
    "vp8": ("libvpx", {"crf": "4", "b": "50M"}),
    "vp9": ("libvpx-vp9", {"crf": "10", "b": "0"}),
    "av1": ("libsvtav1", {"crf": "15"}),
    "mpeg4": ("mpeg4", {"qmin": "1", "qmax": "2"}),
    "mjpeg": ("mjpeg", {"qmin": "1", "qmax": "2"}),
    "ffv1": ("ffv1", {}),
    "prores": ("prores_ks", {}),
}
OTHERWISE = "h264"  # where there is no encoder of the same format


def clean(item: Item, denoiser: "Denoiser", cfg: DictConfig) -> dict[str, Any]:
    """Cleans a video into a file of the same kind, holding a window of frames at a time.

    Count, order, times and rotation of the frames stay, and so do size and pixel format. Frames are cleaned as RGB, in
    16 bits if they have more than 8.

    Returns:
        What there is to say of it.

    Raises:
        UserError: PyAV is not installed.
        DataError: the file holds no video, or cannot be read.
        OSError: it cannot be written.
    """
    try:
        import av
    except ImportError:
        raise UserError('videos need PyAV: pip install -e ".[video]"') from None
    from datamodules.errors import DataError
    from datamodules.files import replacing
    from denoisers.clips import reach_of

    started, count, sigma = time.monotonic(), 0, None
    try:
        with ExitStack() as stack:
            source: Any = stack.enter_context(av.open(str(item.source)))
            if not source.streams.video:
                raise DataError(f"{item.source}: holds no video")
            video, sound = source.streams.video[0], source.streams.audio
            nothing = DataError(f"{item.source}: holds no frame that can be decoded")
            if video.codec_context is None or video.codec_context.pix_fmt is None:
                raise nothing
            target: Any = stack.enter_context(av.open(str(stack.enter_context(replacing(item.target))), "w"))
            target.metadata.update(source.metadata)
            encoder, codec = encoding(target, video, cfg.crf)
            turn(encoder, item)
            copies = {stream.index: target.add_stream_from_template(stream) for stream in sound}
            for stream in sound:
                copies[stream.index].metadata.update(stream.metadata)
            kind = "rgb48le" if max(part.bits for part in video.format.components) > 8 else "rgb24"
            times: deque[Any] = deque()  # of the frames that are on their way

            def shown() -> Iterator[np.ndarray]:
                for packet in source.demux(video, *sound):
                    if packet.stream.index == video.index:
                        for frame in packet.decode():
                            times.append((frame.pts, frame.time_base, frame.duration))
                            yield frame.to_ndarray(format=kind)
                    elif packet.dts is not None:
                        packet.stream = copies[packet.stream.index]
                        target.mux(packet)

            for pixels, level in cleaned(shown(), denoiser, cfg.sigma, cfg.window, step(video.format)):
                sigma, frame = level, av.VideoFrame.from_ndarray(pixels, format=kind)
                frame.pts, frame.time_base, frame.duration = times.popleft()
                target.mux(encoder.encode(frame))
                count += 1
            if not count:
                raise nothing
            target.mux(encoder.encode())
            target.close()
    except av.error.FFmpegError as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        raise DataError(f"{item.source}: {error.strerror or error}") from error
    seconds = time.monotonic() - started
    height, width = video.height, video.width
    entry = {"size": [height, width, 3], "pages": count, "megapixels": height * width * count / 1e6, "codec": codec}
    log.info(f"{item.name}: {count} frames as {codec}, {count / seconds:.2f} frames/s")
    if not reach_of(denoiser.network):
        entry |= tiled(item.name, denoiser.plan)
    return entry | {"seconds": round(seconds, 3), **({} if sigma is None else {"sigma": [round(sigma, 2)]})}


def encoding(target: Any, video: Any, crf: float | None) -> tuple[Any, str]:
    """A stream of ``target`` that encodes as ``video`` is encoded, and its encoder's name."""
    import av

    from datamodules.errors import DataError

    name, options = ENCODERS.get(video.codec_context.codec.canonical_name, ENCODERS[OTHERWISE])
    try:
        av.codec.Codec(name, "w")
    except av.codec.codec.UnknownCodecError:
        name, options = ENCODERS[OTHERWISE]
    if crf is not None:
        options = options | ({"crf": f"{crf:g}"} if "crf" in options else {"qmin": f"{crf:g}", "qmax": f"{crf:g}"})
    given = video.codec_context
    known = [pixel.name for pixel in av.codec.Codec(name, "w").video_formats or []]
    if given.pix_fmt.startswith(("gbr", "rgb")) and name == "libx264":
        name, known = "libx264rgb", ["rgb24"]
    if target.format.name == "avi":  # in which frames have no times, but stand in their order
        options = options | {"bf": "0"}
    try:
        stream = target.add_stream(name, rate=video.average_rate, options=options)
    except ValueError as error:
        raise DataError(f"{error}: name the output as the input's kind") from error
    stream.width, stream.height, context = video.width, video.height, stream.codec_context
    context.time_base = video.time_base
    facts = ["sample_aspect_ratio"]
    if not known or given.pix_fmt in known:
        stream.pix_fmt = given.pix_fmt
        facts += ["color_range", "color_primaries", "color_trc", "colorspace"]
    else:
        best: Any = av.codec.codec.find_best_pix_fmt_of_list(known, given.pix_fmt)[0]
        stream.pix_fmt = best.name
    for fact in facts:
        if (value := getattr(given, fact)) is not None:
            setattr(context, fact, value)
    stream.metadata.update(video.metadata)
    return stream, name


def turn(encoder: Any, item: Item) -> None:
    """Says in the file how it is to be turned for showing, as the first frame of the source says it."""
    import av

    with av.open(str(item.source)) as source:
        first = next(source.decode(video=0), None)
    if first is None or not first.rotation:
        return
    if hasattr(encoder, "set_display_rotation"):
        encoder.set_display_rotation(first.rotation)
    else:
        log.warning(f"{item.name}: to be shown turned by {first.rotation}°, which this PyAV cannot write: update it")


def step(pixels: Any) -> tuple[int, int] | None:
    """Rows and columns of a picture to one of its colour differences; None: these have as many."""
    if pixels.is_rgb or len(pixels.components) < 3:
        return None
    colour = pixels.components[1]
    found = round(pixels.height / colour.height), round(pixels.width / colour.width)
    return found if max(found) > 1 else None


def cleaned(
    frames: Iterator[np.ndarray],
    denoiser: "Denoiser",
    sigma: Any,
    window: int,
    step: tuple[int, int] | None = None,
) -> Iterator[tuple[np.ndarray, float | None]]:
    """Each frame [H, W, 3] clean, of the same type, and σ of its noise on the 0–255 scale.

    A network that sees time is given windows of frames, see :func:`denoisers.tiles.windows`; of these, and no others,
    are there more than one at a time. To a colour network frames whose colours are stored at every ``step`` are shown
    as :func:`denoisers.chroma.independent` makes them. Where σ is not given, and needed, it is that of the first frame.
    """
    from denoisers import chroma
    from denoisers.clips import reach_of
    from denoisers.sigma import estimate_sigma

    reach = reach_of(denoiser.network)
    beyond, window = (reach[0], window) if reach else (0, 1)
    held: list[tuple[np.ndarray, np.ndarray]] = []  # frames, and what is shown of them: before the window, in it, after
    before, ended, count = 0, False, 0
    while True:
        while not ended and len(held) < before + window + beyond:
            if (frame := next(frames, None)) is None:
                ended = True
                break
            shown = frame
            if step and denoiser.channels == 3:
                sigma = 255 * chroma.sigma_of(frame) if sigma in (None, "auto") else sigma
                shown = chroma.independent(frame, sigma / 255, step, count)
            elif sigma == "auto":
                sigma = 255 * estimate_sigma(frame, (0, float(np.iinfo(frame.dtype).max)), denoiser.luminance)
            held.append((frame, shown))
            count += 1
        if len(held) == before:
            return
        level = None if sigma is None else sigma / 255
        stop = min(before + window, len(held))
        if reach:
            estimates = denoiser.clip(np.stack([shown for _, shown in held]), level)[before:stop]
        else:
            estimates = denoiser.clean(held[0][1], level)[None]
        for (frame, shown), estimate in zip(held[before:stop], estimates, strict=True):
            if shown is not frame and denoiser.strength < 1:  # what was added goes altogether
                estimate = blended(frame, shown, estimate, denoiser.strength)
            yield estimate, sigma
        first = max(0, stop - beyond)
        held, before = held[first:], stop - first


def blended(frame: np.ndarray, shown: np.ndarray, estimate: np.ndarray, strength: float) -> np.ndarray:
    """What the estimate would be if its share of what was ``shown`` were of the frame itself."""
    added = shown.astype(np.float32) - frame
    return (estimate - (1 - strength) * added).round().clip(0, np.iinfo(frame.dtype).max).astype(frame.dtype)
