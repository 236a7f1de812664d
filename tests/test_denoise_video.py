"""Videos through experiments.denoise: count, order, times, rotation and sound stay; windows for what sees time."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from cleaned import report, saved
from conftest import randomize
from hydra.utils import instantiate

import denoisers
from denoisers import chroma
from denoisers.inference import Denoiser
from denoisers.tiles import tiled
from experiments.cleaning.video import cleaned

av = pytest.importorskip("av", reason="the optional package av is missing")
WIDTH, HEIGHT = 64, 48
IDENTITY = {"_target_": "denoisers.networks.identity.Identity"}
FASTDVD = {"_target_": "denoisers.networks.fastdvd.FastDVDnet", "channels": 3, "num_features": 4, "frame_features": 3}


@pytest.fixture
def identity(tmp_path):
    """The checkpoint of a network that changes nothing."""
    torch.save({"state_dict": {}, "record": {"config": {"model": IDENTITY, "channels": 3}}}, tmp_path / "i.ckpt")
    return tmp_path / "i.ckpt"


def scenes(count):
    """Smooth frames, each told from the others by its brightness, [H, W, 3]."""
    ramp = np.linspace(0, 80, WIDTH)[None, :, None] + np.linspace(0, 40, HEIGHT)[:, None, None] * [1, 0.5, 0]
    return [(ramp + 120 * number / count).astype(np.uint8) for number in range(count)]


def film(path, count=14, codec="libx264", rate=25, sound=False, times=None, rotation=None, pix_fmt="yuv420p"):
    """A video file with B-frames."""
    with av.open(str(path), "w") as target:
        stream = target.add_stream(codec, rate=rate, options={"bf": "3", "crf": "5"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        if rotation:
            stream.set_display_rotation(rotation)
        audio = target.add_stream("aac", rate=44100) if sound else None
        if audio:
            audio.metadata["language"] = "deu"
        for number, pixels in enumerate(scenes(count)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times:
                frame.pts = times[number]
            target.mux(stream.encode(frame))
        target.mux(stream.encode())
        for number in range(20 if audio else 0):
            tone = np.sin(np.arange(1024) * 0.1 + number).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate = 44100
            target.mux(audio.encode(frame))
        if audio:
            target.mux(audio.encode())
    return path


def frames(path):
    """Times, pixels and rotations of the frames in their order."""
    with av.open(str(path)) as source:
        found = [(f.pts * f.time_base, f.to_ndarray(format="rgb24"), f.rotation) for f in source.decode(video=0)]
    return [list(part) for part in zip(*found, strict=True)]


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((np.stack(a).astype(float) - np.stack(b)) ** 2))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"sound": True}),
        ("a.mp4", {"rotation": 90}),
        ("a.mp4", {"times": [0, 1, 2, 5, 6, 7, 20, 21, 22, 23, 30, 31, 32, 33]}),
        ("a.mp4", {"rate": 30}),
        ("a.mkv", {}),
        ("a.mov", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
        ("a.avi", {"codec": "mpeg4"}),
        ("a.mkv", {"codec": "ffv1", "pix_fmt": "yuv444p"}),
    ],
)
def test_frames_stay_what_they_are(identity, tmp_path, denoise, name, options):
    source, target = film(tmp_path / name, **options), tmp_path / "out" / name
    code, printed = denoise(identity, source, target)
    assert code == 0, printed
    before, after = frames(source), frames(target)
    assert after[0] == before[0]
    assert len(after[0]) == 14
    assert after[2] == before[2] == [options.get("rotation", 0)] * 14
    assert psnr(after[1], before[1]) > 42
    brightness = [pixels.mean() for pixels in after[1]]
    assert brightness == sorted(brightness)
    with av.open(str(source)) as one, av.open(str(target)) as other:
        streams = [container.streams.video[0] for container in (one, other)]
        if "times" not in options:  # or it depends on how long the last frame is taken to last
            assert len({stream.average_rate for stream in streams}) == 1
        assert len({stream.codec_context.codec.canonical_name for stream in streams}) == 1
        assert len({stream.codec_context.pix_fmt for stream in streams}) == 1
        if options.get("sound"):
            packets = [[bytes(p) for p in c.demux(c.streams.audio[0]) if p.size] for c in (one, other)]
            assert packets[0] == packets[1]
            assert len(packets[0]) > 10
            assert other.streams.audio[0].metadata["language"] == "deu"


def test_folders_hold_videos_too(identity, tmp_path, denoise):
    (tmp_path / "in").mkdir()
    film(tmp_path / "in" / "good.mp4", count=5)
    whole = film(tmp_path / "in" / "cut.mp4", count=5).read_bytes()
    (tmp_path / "in" / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "in" / "text.mkv").write_text("no video")
    code, printed = denoise(identity, tmp_path / "in", tmp_path / "out")
    assert code == 3, printed
    files = json.loads((tmp_path / "out" / "report.json").read_text())["files"]
    assert {name: entry["status"] for name, entry in files.items()} == {
        "good.mp4": "done",
        "cut.mp4": "failed",
        "text.mkv": "failed",
    }
    assert files["good.mp4"]["pages"] == 5
    assert "text.mkv: " in printed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".lock", "good.mp4", "report.json"]
    assert "1 already clean" in denoise(identity, tmp_path / "in", tmp_path / "out")[1]


def test_frames_in_avi_stay_in_order_though_they_are_encoded_otherwise(identity, tmp_path, denoise):
    source, target = film(tmp_path / "a.avi", codec="huffyuv", pix_fmt="rgb24"), tmp_path / "b.avi"
    code, printed = denoise(identity, source, target)
    assert code == 0, printed
    before, after = frames(source), frames(target)
    assert [time - after[0][0] for time in after[0]] == before[0]
    assert psnr(after[1], before[1]) > 38


def test_videos_without_frames_are_named(identity, tmp_path, denoise):
    source = tmp_path / "in" / "a.mp4"
    source.parent.mkdir()
    with av.open(str(source), "w", options={"movflags": "frag_keyframe+empty_moov"}) as target:
        stream = target.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        target.mux(stream.encode(av.VideoFrame.from_ndarray(scenes(1)[0], format="rgb24")))
        target.mux(stream.encode())
    source.write_bytes(source.read_bytes().partition(b"moof")[0][:-4])  # the recorder was switched off
    code, printed = denoise(identity, source.parent, tmp_path / "out")
    assert code == 3, printed
    assert "a.mp4: holds no frame" in printed
    assert not (tmp_path / "out" / "a.mp4").exists()
    for name in ("b.png", "b.webm"):
        code, printed = denoise(identity, film(tmp_path / "c.mp4", count=2), tmp_path / name)
        assert code == 2, printed
        assert not (tmp_path / name).exists()


def test_frames_that_are_blended_are_said_to_be(tmp_path, denoise):
    model = {"_target_": "denoisers.networks.cbam_unet.CBAMUNet", "num_layers": 2, "num_features": 4, "channels": 3}
    checkpoint = saved(tmp_path / "c.ckpt", model, channels=3, network=denoisers.checkpoint.build(model))
    (tmp_path / "in").mkdir()
    with av.open(str(tmp_path / "in" / "a.mkv"), "w") as target:
        stream = target.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 400, 300, "yuv444p"
        target.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((300, 400, 3), np.uint8), format="rgb24")))
        target.mux(stream.encode())
    code, printed = denoise(checkpoint, tmp_path / "in", tmp_path / "out", "tile=256")
    assert code == 0, printed
    assert "tiles are blended" in printed
    found = report(tmp_path / "out")
    assert (found["tile"], found["files"]["a.mkv"]["blended"]) == (256, True)


@pytest.mark.parametrize(("count", "window"), [(11, 3), (4, 8), (1, 2), (8, 2)])
def test_networks_that_see_time_get_windows_and_no_more(count, window):
    network = randomize(instantiate(FASTDVD)).eval()
    denoiser, given = Denoiser(network, channels=3), scenes(count)
    taken, put, lengths = [0], [0], []
    hook = network.register_forward_pre_hook(lambda module, shown: lengths.append(shown[0].shape[1]))

    def coming():
        for frame in given:
            taken[0] += 1
            assert taken[0] - put[0] <= window + 2 * network.reach[0]
            yield frame

    found = []
    for frame, sigma in cleaned(coming(), denoiser, 25, window):
        found.append(frame)
        put[0] += 1
        assert sigma == 25
    hook.remove()
    assert max(lengths) <= window + 2 * network.reach[0]
    clip = torch.from_numpy(np.stack(given)).permute(0, 3, 1, 2)[None] / 255
    with torch.inference_mode():
        whole = tiled(network, clip, torch.full((1, count, 1, 1, 1), 25 / 255))
    expected = (whole[0].clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
    assert np.abs(np.stack(found).astype(int) - expected).max() <= 1
    assert (np.stack(found) != expected).mean() < 1e-3


def test_sigma_of_a_video_is_that_of_its_first_frame():
    random = np.random.default_rng(0)
    noisy = [np.clip(random.normal(128, sigma, (90, 80, 3)), 0, 255).astype(np.uint8) for sigma in (20, 50)]
    found = [sigma for _, sigma in cleaned(iter(noisy), Denoiser(instantiate(IDENTITY), channels=3), "auto", 8)]
    assert found == [pytest.approx(20, rel=0.1)] * 2


def test_missing_pyav_is_named(identity, tmp_path, denoise, monkeypatch):
    source = film(tmp_path / "a.mp4", count=2)
    monkeypatch.setitem(sys.modules, "av", None)
    code, printed = denoise(identity, source, tmp_path / "b.mp4")
    assert code == 2
    assert '".[video]"' in printed
    assert not (tmp_path / "b.mp4").exists()


def test_pictures_need_no_pyav():
    code = "import sys; sys.modules['av'] = None; import experiments.denoise, experiments.cleaning.run"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("step", [(2, 2), (1, 2)])
def test_noise_between_the_stored_colours_is_made_independent(step):
    down, across = step
    random = np.random.default_rng(0)
    noise = random.normal(0, 20, (96, 128, 3))
    luma = noise @ [0.299, 0.587, 0.114]
    colour = (noise - luma[..., None]).reshape(96 // down, down, 128 // across, across, 3).mean((1, 3))
    stored = 128 + luma[..., None] + colour.repeat(down, 0).repeat(across, 1)
    frame = stored.round().clip(0, 255).astype(np.uint8)
    assert 255 * chroma.sigma_of(frame) == pytest.approx(20 * chroma.SMOOTHED, rel=0.1)
    found = chroma.independent(frame, 20 / 255, step, 0)
    assert found.dtype == np.uint8
    assert np.array_equal(found, chroma.independent(frame, 20 / 255, step, 0))
    assert not np.array_equal(found, chroma.independent(frame, 20 / 255, step, 1))
    correlations = [np.corrcoef(part.reshape(-1, 3).astype(float).T)[np.triu_indices(3, 1)] for part in (frame, found)]
    assert np.abs(correlations[1]).mean() < 0.5 * np.abs(correlations[0]).mean()
    weights = [0.299, 0.587, 0.114]
    assert np.abs((found.astype(float) - frame) @ weights).mean() < 1  # the brightness stays, but for rounding


def test_frames_are_made_so_for_colour_networks_alone(identity, tmp_path, denoise):
    for pix_fmt, changed in [("yuv420p", True), ("yuv444p", False)]:
        source = film(tmp_path / f"{pix_fmt}.mp4", count=3, pix_fmt=pix_fmt)
        assert denoise(identity, source, tmp_path / f"out_{pix_fmt}.mp4", "sigma=25")[0] == 0
        difference = psnr(frames(tmp_path / f"out_{pix_fmt}.mp4")[1], frames(source)[1])
        assert (difference < 42) == changed
        if changed:
            found = [
                frame for frame, _ in cleaned(iter(scenes(3)), denoisers.load(identity, strength=0), 25, 1, (2, 2))
            ]
            assert np.array_equal(found, scenes(3))


@pytest.mark.slow
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
def test_carphone_is_cleaned_better_than_by_the_median(real_data, tmp_path, denoise, pix_fmt):
    from PIL import Image
    from scipy.ndimage import median_filter

    clean = [np.asarray(Image.open(path)) for path in sorted((real_data / "video" / "carphone").glob("*.png"))][:20]
    random = np.random.default_rng(0)
    noisy = [np.clip(image + random.normal(0, 25, image.shape), 0, 255).round().astype(np.uint8) for image in clean]
    with av.open(str(tmp_path / "noisy.mp4"), "w") as target:
        stream = target.add_stream("libx264", rate=30, options={"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = *clean[0].shape[:2], pix_fmt
        for image in noisy:
            target.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        target.mux(stream.encode())
    weights = real_data / "weights" / "kair" / "dncnn_color_blind.pth"
    code, printed = denoise(weights, tmp_path / "noisy.mp4", tmp_path / "clean.mp4")
    assert code == 0, printed
    times, found, _ = frames(tmp_path / "clean.mp4")
    assert len(times) == len(clean)
    median = [median_filter(image, (3, 3, 1)) for image in frames(tmp_path / "noisy.mp4")[1]]
    assert psnr(found, clean) > psnr(median, clean) + 2
    assert denoisers.load(weights).channels == 3
