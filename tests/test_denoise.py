"""Pictures and folders of them through experiments.denoise: what is written, what is left, and how mistakes end."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import odd_files
import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch import nn

import denoisers
from datamodules.files import replacing
from datamodules.pictures import open_picture
from denoisers.inference import Denoiser
from denoisers.sigma import estimate_sigma
from experiments.cleaning import journal

IDENTITY = {"_target_": "denoisers.networks.identity.Identity"}
FFDNET = {"_target_": "denoisers.networks.ffdnet.FFDNet", "channels": 1, "num_layers": 3, "num_features": 4}


def saved(path, model, channels=1, network=None):
    """A checkpoint of ours."""
    state = {f"network.{key}": value for key, value in network.state_dict().items()} if network else {}
    torch.save({"state_dict": state, "record": {"config": {"model": model, "channels": channels}}}, path)
    return path


@pytest.fixture
def identity(tmp_path):
    """The checkpoint of a network that changes nothing."""
    return saved(tmp_path / "identity.ckpt", IDENTITY)


def noise(path, size=(20, 13), mode="RGB", seed=0):
    """A picture file of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)
    return np.asarray(Image.open(path))


def contents(folder):
    """Name → bytes of the files below a folder that are to be seen."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.name != "report.json"}


def report(folder):
    return json.loads((folder / "report.json").read_text())


# --- one picture ------------------------------------------------------------------------------------------------------


def test_a_picture_becomes_one_of_the_same_kind(teacher, tmp_path, denoise):
    checkpoint, _ = teacher
    for name, mode, size in [("g.png", "L", (13, 17)), ("c.jpg", "RGB", (31, 9)), ("one.png", "L", (1, 1))]:
        noise(tmp_path / name, size, mode)
        target = tmp_path / "out" / name
        code, printed = denoise(checkpoint, tmp_path / name, target)
        assert code == 0, printed
        assert (Image.open(target).size, Image.open(target).mode) == (size, mode)
    given, cleaned = (np.asarray(Image.open(p)) for p in (tmp_path / "g.png", tmp_path / "out" / "g.png"))
    assert np.array_equal(denoisers.load(checkpoint)(given), cleaned)
    assert not np.array_equal(given, cleaned)
    # an existing output and the input itself stay as they are
    for target, said in [("out/g.png", "overwrite=true"), ("g.png", "never overwritten"), ("x.xyz", "not a picture")]:
        code, printed = denoise(checkpoint, tmp_path / "g.png", tmp_path / target)
        assert code == 2
        assert said in printed
    assert denoise(checkpoint, tmp_path / "g.png", tmp_path / "out" / "g.png", "overwrite=true")[0] == 0


def test_a_picture_may_become_another_kind_if_that_holds_as_much(identity, tmp_path, denoise):
    pixels = noise(tmp_path / "a.jpg", (31, 9))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.webp", lossless=True, exif=exif)
    for name in ("a.jpg", "turned.webp"):
        code, printed = denoise(identity, tmp_path / name, tmp_path / "out" / f"{name}.png")
        assert code == 0, printed
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / f"{name}.png")), pixels)
    assert Image.open(tmp_path / "out" / "turned.webp.png").getexif()[0x0112] == 6
    Image.fromarray(np.zeros((4, 5), np.uint16)).save(tmp_path / "deep.png")
    code, printed = denoise(identity, tmp_path / "deep.png", tmp_path / "deep.jpg")
    assert code == 2
    assert "only an 8-bit picture" in printed
    assert not (tmp_path / "deep.jpg").exists()


def test_mistakes_are_named_before_anything_is_done(identity, tmp_path, denoise):
    noise(tmp_path / "in" / "a.png")
    told = saved(tmp_path / "told.ckpt", FFDNET, network=denoisers.checkpoint.build(FFDNET))
    (tmp_path / "not.ckpt").write_bytes(b"no checkpoint")
    source, target = tmp_path / "in", tmp_path / "out"
    for arguments, said in [
        ((identity, source, source / "clean"), "lies inside"),
        ((identity, source, source), "lies inside"),
        ((identity, source / "a.png", source / "."), "never overwritten"),
        ((identity, tmp_path / "in" / "**" / "*.png", source / "clean"), "lies inside"),
        ((identity, source, source / "a.png"), "is a file"),
        ((identity, tmp_path / "nothing", target), "no such file or folder"),
        ((identity, source / "*.tif", target), "no pictures or videos"),
        ((tmp_path / "not.ckpt", source, target), "not.ckpt"),
        ((tmp_path / "absent.ckpt", source, target), "no checkpoint at"),
        ((told, source, target), "sigma=auto"),
        ((identity, source, target, "strength=1.5"), "between 0"),
        ((identity, source, target, "sigma=-1"), "from 0"),
        ((identity, source, target, "sigma=strong"), "or auto"),
        ((identity, source, target, "colour=blue"), "luminance"),
        ((identity, source, target, "tile=10"), "from 64"),
    ]:
        code, printed = denoise(*arguments)
        assert code == 2, (arguments, printed)
        assert said in printed, (said, printed)
        assert not target.exists()
    assert [path.name for path in source.iterdir()] == ["a.png"]


# --- what is done to a picture ----------------------------------------------------------------------------------------


class Darker(nn.Module):
    """Takes the level away, and notes the channels that it is shown."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, noisy, level=None):
        self.seen.append(noisy.shape[1])
        return noisy - 0.1


def test_strength_is_the_share_of_the_residual_that_goes():
    image = np.random.default_rng(0).random((7, 9, 3), dtype=np.float32) * 0.5 + 0.3
    for strength in (0, 0.25, 1):
        found = Denoiser(Darker(), channels=3, strength=strength)(image)
        np.testing.assert_allclose(found, image - 0.1 * strength, atol=1e-6)
    assert np.array_equal(Denoiser(Darker(), channels=3, strength=0)(image), image)
    for strength in (-0.1, 1.01):
        with pytest.raises(ValueError, match="strength"):
            Denoiser(Darker(), channels=3, strength=strength)


def test_a_grey_network_cleans_channels_or_luminance():
    class Flat(Darker):
        """Puts out the mean."""

        def forward(self, noisy, level=None):
            super().forward(noisy)
            return noisy.mean((2, 3), keepdim=True).expand_as(noisy)

    image = np.random.default_rng(0).random((40, 50, 3), dtype=np.float32) * 0.2 + 0.4
    each, luma = Denoiser(Flat(), channels=1), Denoiser(Flat(), channels=1, colour="luminance")
    np.testing.assert_allclose(each(image), np.broadcast_to(image.mean((0, 1)), image.shape), atol=1e-5)
    found = luma(image)
    assert (each.network.seen, luma.network.seen) == ([1, 1, 1], [1])
    ycbcr = [np.array(Image.fromarray((a * 255).astype(np.uint8)).convert("YCbCr")).astype(int) for a in (image, found)]
    assert np.abs(ycbcr[0][..., 1:] - ycbcr[1][..., 1:]).max() <= 2  # Pillow's own, of 8 bits
    assert ycbcr[1][..., 0].std() < 0.7 < ycbcr[0][..., 0].std()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_types_keep_every_value(identity, dtype):
    if dtype == np.float32:
        image = np.random.default_rng(0).random((300, 217, 3), dtype=np.float32)
    else:
        image = np.resize(np.arange(np.iinfo(dtype).max + 1).astype(dtype), (300, 217, 3))
    for options in ({}, {"tile": 128}, {"tile": 128, "ensemble": True}):
        found = denoisers.load(identity, **options)(image)
        assert found.dtype == dtype
        if "ensemble" in options and dtype == np.float32:
            np.testing.assert_allclose(found, image, atol=1e-6)
        else:
            assert np.array_equal(found, image)


def test_numbers_beyond_black_and_white_have_their_own_limits(identity):
    image = np.linspace(-3, 5000, 600, dtype=np.float32).reshape(20, 30, 1)
    found = denoisers.load(identity).clean(image, limits=(-3, 5000))
    np.testing.assert_allclose(found, image, rtol=1e-5, atol=1e-3)


def test_sigma_is_estimated_of_parts_of_large_pictures():
    rng = np.random.default_rng(0)
    for shape in [(300, 200, 1), (1700, 1100, 3)]:
        plain = np.linspace(60, 180, shape[1])[None, :, None]
        noisy = np.clip(plain + rng.normal(0, 20, shape), 0, 255).round().astype(np.uint8)
        assert 255 * estimate_sigma(noisy, (0, 255)) == pytest.approx(20, rel=0.05)
        assert 255 * estimate_sigma(noisy.astype(np.float32) * 10 - 7, (-7, 2543)) == pytest.approx(20, rel=0.05)


def test_sigma_auto_is_that_of_each_picture(tmp_path, denoise):
    told = saved(tmp_path / "told.ckpt", FFDNET, network=denoisers.checkpoint.build(FFDNET))
    for sigma in (10, 30):
        pixels = np.clip(np.random.default_rng(0).normal(128, sigma, (90, 80)), 0, 255).astype(np.uint8)
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{sigma}.png")
    code, printed = denoise(told, tmp_path / "in", tmp_path / "out", "sigma=auto")
    assert code == 0, printed
    for sigma in (10, 30):
        entry = report(tmp_path / "out")["files"][f"{sigma}.png"]
        assert entry["sigma"] == [pytest.approx(sigma, rel=0.1)]
        assert f"{sigma}.png: sigma {entry['sigma'][0]:.1f}" in printed
        given = np.asarray(Image.open(tmp_path / "in" / f"{sigma}.png"))
        expected = denoisers.load(told)(given, 255 * estimate_sigma(given[..., None], (0, 255)) / 255)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / f"{sigma}.png")), expected)


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A folder of pictures and other things."""
    source = tmp_path / "in"
    for index, name in enumerate(["b.png", "a.png", "a.tif", "a.jpg", "deep/er/ä b.png", "deep/c.webp"]):
        noise(source / name, (20 + index, 13), seed=index)
    noise(source / ".hidden" / "x.png")
    noise(source / ".x.png")
    (source / "notes.txt").write_text("not a picture")
    return source


def test_a_folder_keeps_its_structure_and_a_rerun_does_what_is_missing(identity, folder, tmp_path, denoise):
    out = tmp_path / "out"
    code, printed = denoise(identity, folder, out)
    assert code == 0, printed
    names = ["a.jpg", "a.png", "a.tif", "b.png", "deep/c.webp", "deep/er/ä b.png"]
    assert list(contents(out)) == names
    for name in ("a.png", "a.tif", "b.png", "deep/er/ä b.png"):
        assert np.array_equal(np.asarray(Image.open(out / name)), np.asarray(Image.open(folder / name)))
    found = report(out)
    assert list(found["files"]) == names
    assert {entry["status"] for entry in found["files"].values()} == {"done"}
    assert found["files"]["a.tif"]["size"] == [13, 22, 3]
    assert found["counts"]["done"] == 6
    assert "MP/s" in printed

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.suffix in (".png", ".tif", ".webp")}
    (out / "b.png").unlink()
    noise(folder / "new.png", seed=9)
    code, printed = denoise(identity, folder, out)
    assert code == 0, printed
    assert "2 cleaned, 5 already clean" in printed
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path.name != "b.png")
    assert report(out)["files"]["a.png"]["status"] == "skipped"
    assert (out / "b.png").exists()

    # what has changed, and what is not ours, is not overwritten unless that is asked for
    noise(folder / "a.png", seed=10)
    noise(folder / "mine.png", seed=11)
    mine = noise(out / "mine.png", seed=12)
    code, printed = denoise(identity, folder, out)
    assert code == 3
    assert all(f"{name}: {out / name} exists" in printed for name in ("a.png", "mine.png"))
    assert np.array_equal(np.asarray(Image.open(out / "mine.png")), mine)
    assert report(out)["files"]["mine.png"]["status"] == "failed"
    code, printed = denoise(identity, folder, out, "overwrite=true")
    assert code == 0, printed
    assert "2 cleaned" in printed
    assert np.array_equal(np.asarray(Image.open(out / "mine.png")), np.asarray(Image.open(folder / "mine.png")))


def test_other_options_want_another_folder(identity, folder, tmp_path, denoise):
    out = tmp_path / "out"
    assert denoise(identity, folder, out)[0] == 0
    before = (out / "report.json").read_bytes()
    code, printed = denoise(identity, folder, out, "strength=0.5")
    assert code == 2
    assert "strength=1.0" in printed
    assert (out / "report.json").read_bytes() == before
    code, printed = denoise(identity, folder, out, "strength=0.5", "overwrite=true")
    assert code == 0, printed
    assert "6 cleaned" in printed
    (out / "report.json").write_text("[]")
    code, printed = denoise(identity, folder, out)
    assert code == 2
    assert "not a report" in printed


@pytest.mark.parametrize(
    ("pattern", "names"), [("*.png", ["a.png", "b.png"]), ("**/*.png", ["a.png", "b.png", "deep/er/ä b.png"])]
)
def test_patterns(identity, folder, tmp_path, denoise, pattern, names):
    code, printed = denoise(identity, folder / pattern, tmp_path / "out")
    assert code == 0, printed
    assert list(contents(tmp_path / "out")) == names


def test_one_file_into_a_folder_and_pages(identity, tmp_path, denoise):
    pages = [Image.effect_noise((31, 17), 50) for _ in range(3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    code, printed = denoise(identity, tmp_path / "stack.tif", f"{tmp_path / 'out'}/")
    assert code == 0, printed
    with Image.open(tmp_path / "out" / "stack.tif") as found:
        assert found.n_frames == 3
        for number, page in enumerate(pages):
            found.seek(number)
            assert np.array_equal(np.asarray(found), np.asarray(page))
    assert report(tmp_path / "out")["files"]["stack.tif"]["pages"] == 3


def test_files_that_cannot_be_cleaned_are_named_and_the_others_written(identity, folder, tmp_path, denoise):
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "b.png").read_bytes()[:200])
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "text.tif").write_text("no picture")
    (folder / "folder.png").mkdir()
    stack = [Image.effect_noise((31, 17), 50) for _ in range(5)]
    stack[0].save(folder / "stack.tif", save_all=True, append_images=stack[1:])
    (folder / "stack.tif").write_bytes((folder / "stack.tif").read_bytes()[:-300])
    code, printed = denoise(identity, folder, tmp_path / "out")
    assert code == 3, printed
    assert len(contents(tmp_path / "out")) == 6
    files = report(tmp_path / "out")["files"]
    for name in ("empty.png", "cut.png", "loop.png", "text.tif", "stack.tif"):
        assert files[name]["status"] == "failed"
        assert files[name]["reason"]
        assert f"{name}: {files[name]['reason']}" in printed
    assert "folder.png" not in files
    assert not [path for path in (tmp_path / "out").rglob(".*") if path.name != journal.LOCK]


def test_tiles_are_reported_and_kept_by_a_rerun(teacher, tmp_path, denoise, monkeypatch):
    checkpoint, _ = teacher
    monkeypatch.setattr("denoisers.tiles.side_that_fits", lambda *args, **kwargs: 200)
    monkeypatch.setattr("denoisers.tiles.WHOLE", 64)
    monkeypatch.setattr("denoisers.inference.WHOLE", 64)
    for name in ("a.png", "b.png"):
        noise(tmp_path / "in" / name, (300, 210), "L")
    assert denoise(checkpoint, tmp_path / "in", tmp_path / "out")[0] == 0
    first, files = contents(tmp_path / "out"), report(tmp_path / "out")["files"]
    assert (files["a.png"]["tile"], files["a.png"]["blended"]) == (200, False)
    (tmp_path / "out" / "a.png").unlink()
    monkeypatch.setattr("denoisers.tiles.side_that_fits", lambda *args, **kwargs: 128)
    assert denoise(checkpoint, tmp_path / "in", tmp_path / "out")[0] == 0
    assert report(tmp_path / "out")["files"]["a.png"]["tile"] == 200
    assert contents(tmp_path / "out") == first


def test_a_network_that_sees_all_is_blended_and_that_is_said(tmp_path, denoise):
    model = {"_target_": "denoisers.networks.cbam_unet.CBAMUNet", "num_layers": 2, "num_features": 4, "channels": 1}
    checkpoint = saved(tmp_path / "c.ckpt", model, network=denoisers.checkpoint.build(model))
    noise(tmp_path / "in" / "a.png", (400, 300), "L")
    code, printed = denoise(checkpoint, tmp_path / "in", tmp_path / "out", "tile=256")
    assert code == 0, printed
    assert "blended" in printed
    assert report(tmp_path / "out")["files"]["a.png"]["blended"] is True


# --- interruptions ----------------------------------------------------------------------------------------------------


def test_no_room_ends_with_the_remedy_and_nothing_is_lost(identity, folder, tmp_path, denoise, monkeypatch):
    left = [3]

    def full(path):
        left[0] -= not path.name.startswith("report")
        if left[0] < 0 and not path.name.startswith("report"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return replacing(path)

    monkeypatch.setattr("datamodules.pictures.picture.replacing", full)
    code, printed = denoise(identity, folder, tmp_path / "out")
    assert code == 2, printed
    assert "make room" in printed
    kept = contents(tmp_path / "out")
    assert len(kept) == 3
    monkeypatch.undo()
    code, printed = denoise(identity, folder, tmp_path / "out")
    assert code == 0, printed
    assert "3 cleaned, 3 already clean" in printed
    assert kept.items() <= contents(tmp_path / "out").items()


def test_two_commands_do_not_write_into_one_folder(identity, folder, tmp_path, denoise):
    with journal.opened(tmp_path / "out", {}, overwrite=False):
        code, printed = denoise(identity, folder, tmp_path / "out")
    assert code == 2
    assert "another process" in printed


def start(checkpoint, source, output):
    """The command as a process of its own."""
    arguments = [f"checkpoint={checkpoint}", f"input={source}", f"output={output}"]
    command = [sys.executable, "-m", "experiments.denoise", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for(output, count, process):
    """Returns when so many files are there, or the process has ended."""
    while process.poll() is None and len(contents(output)) < count:
        time.sleep(0.005)


def torture(tmp_path, teacher, count, kills):
    """Cleans many pictures undisturbed, and again with kills in between; returns both folders' contents."""
    checkpoint, _ = teacher
    for index in range(count):
        noise(tmp_path / "in" / f"{index % 7}" / f"{index}.png", (120, 90), "L", seed=index)
    assert start(checkpoint, tmp_path / "in", tmp_path / "calm").wait() == 0
    disturbed = tmp_path / "disturbed"
    for kill in range(1, kills + 1):
        process = start(checkpoint, tmp_path / "in", disturbed)
        wait_for(disturbed, kill * count // (kills + 1), process)
        process.kill()
        process.wait()
        process.stderr.close()
        for path in disturbed.rglob("*.png"):  # whatever is to be seen is whole
            if not path.name.startswith("."):
                Image.open(path).load()
    last = start(checkpoint, tmp_path / "in", disturbed)
    assert last.wait() == 0, last.stderr.read()
    assert not [path for path in disturbed.rglob(".*") if path.name != journal.LOCK]
    assert report(disturbed)["counts"]["done"] + report(disturbed)["counts"]["skipped"] == count
    assert report(disturbed)["counts"]["skipped"] > 0
    return contents(tmp_path / "calm"), contents(disturbed)


def test_killed_runs_complete_to_the_same_bytes(tmp_path, teacher):
    calm, disturbed = torture(tmp_path, teacher, count=40, kills=3)
    assert len(calm) == 40
    assert calm == disturbed


@pytest.mark.slow
def test_five_hundred_files_killed_many_times(tmp_path, teacher):
    calm, disturbed = torture(tmp_path, teacher, count=500, kills=12)
    assert len(calm) == 500
    assert calm == disturbed


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_in_good_order(tmp_path, teacher, number, code):
    checkpoint, _ = teacher
    for index in range(300):
        noise(tmp_path / "in" / f"{index}.png", (120, 90), "L", seed=index)
    process = start(checkpoint, tmp_path / "in", tmp_path / "out")
    wait_for(tmp_path / "out", 5, process)
    process.send_signal(number)
    assert process.wait() == code, process.stderr.read()
    process.stderr.close()
    found = report(tmp_path / "out")["files"]
    done = {name for name, entry in found.items() if entry["status"] == "done"}
    assert done == set(contents(tmp_path / "out"))
    assert 5 <= len(done) < 300


def test_no_odd_file_stops_the_others(identity, tmp_path, denoise):
    expected = {path.name: word for path, word in odd_files.make(tmp_path / "in").items()}
    for name in ("missing.png", "folder.png", "animated.gif"):  # nothing, a folder, and what is said to be left out
        del expected[name]
    code, printed = denoise(identity, tmp_path / "in", tmp_path / "out")
    assert code == 3
    assert "1 files that are no pictures or videos are left out (.gif)" in printed
    files = report(tmp_path / "out")["files"]
    assert set(files) == set(expected)
    assert len(files) >= 60
    refused = {name for name, word in expected.items() if word is not None}
    assert {name for name, entry in files.items() if entry["status"] == "failed"} == refused
    for name in refused:
        assert expected[name] in files[name]["reason"]
        assert f"{name}: {files[name]['reason']}" in printed
    assert set(contents(tmp_path / "out")) == set(expected) - refused
    for name in contents(tmp_path / "out"):
        before, after = (open_picture(tmp_path / place / name) for place in ("in", "out"))
        if before.format != "JPEG" and not (before.format == "WEBP" and "lossless" not in name):
            np.testing.assert_allclose(after.pixels(), before.pixels(), atol=0 if before.dtype.kind == "u" else 1e-3)
