"""Folders of pictures through experiments.denoise: what is written, what a rerun does, and what is left of kills."""

import errno
import os
import signal
import subprocess
import sys
import time

import numpy as np
import odd_files
import pytest
from cleaned import contents, noise, report, saved
from command_line import call
from conftest import ROOT, randomize
from PIL import Image

import denoisers
import experiments.denoise
from datamodules.files import replacing
from datamodules.pictures import open_picture
from denoisers.exported import Facts
from denoisers.exporting import Exporter
from denoisers.networks.dncnn import DnCNN
from experiments.cleaning import journal


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


def test_names_need_not_be_utf_8(identity, tmp_path, denoise):
    source, names = tmp_path / "in", [os.fsdecode(name) for name in (b"gr\xfc\xdfe.png", b"sch\xf6n.png")]
    noise(source / "a.png")
    try:
        (source / names[0]).write_bytes((source / "a.png").read_bytes())
        (source / names[1]).write_bytes(b"no picture")
    except OSError:
        pytest.skip("this file system takes no such names")
    code, printed = denoise(identity, source, tmp_path / "out")
    assert code == 3, printed
    assert "sch\\udcf6n.png: not a picture" in printed
    assert {name: entry["status"] for name, entry in report(tmp_path / "out")["files"].items()} == {
        "a.png": "done",
        names[0]: "done",
        names[1]: "failed",
    }
    assert "2 already clean" in denoise(identity, source, tmp_path / "out")[1]


@pytest.mark.parametrize("name", ["a (1), b=c.png", "grüße 日本.png", "q'uote [2] {x} $y #z.png", "plain.png"])
def test_paths_are_typed_as_they_are(identity, tmp_path, monkeypatch, capfd, name):
    pixels = noise(tmp_path / name)
    arguments = [f"checkpoint={identity}", f"input={tmp_path / name}", f"output={tmp_path / 'ö (2)'}/"]
    code, printed = call(monkeypatch, capfd, experiments.denoise.main, *arguments)
    assert code == 0, printed
    assert np.array_equal(np.asarray(Image.open(tmp_path / "ö (2)" / name)), pixels)


def test_an_input_is_not_overwritten_through_a_link(identity, tmp_path, denoise):
    noise(tmp_path / "real" / "a.png")
    (tmp_path / "real" / "b.mp4").write_bytes(b"no video")
    before = contents(tmp_path / "real")
    (tmp_path / "in").mkdir()
    for name in before:
        (tmp_path / "in" / name).symlink_to(tmp_path / "real" / name)
    code, printed = denoise(identity, tmp_path / "in", tmp_path / "real", "overwrite=true")
    assert code == 3, printed
    assert printed.count("is the input itself") == 2
    assert contents(tmp_path / "real") == before


def test_openvino_weights_are_part_of_what_made_a_folder(tmp_path, denoise):
    pytest.importorskip("openvino", reason="the optional package openvino is missing")
    noise(tmp_path / "in" / "a.png", mode="L")
    graphs = []
    for seed, code in ((0, 0), (1, 2)):
        network = randomize(DnCNN(num_layers=2, num_features=3), seed).eval()
        Exporter(network, Facts("dncnn", 1, level=False)).openvino(tmp_path / "net.xml")
        # a fresh process gives its layers the same names whatever their weights
        graphs.append((tmp_path / "net.xml").read_bytes())
        (tmp_path / "net.xml").write_bytes(graphs[0])
        found, printed = denoise(tmp_path / "net.xml", tmp_path / "in", tmp_path / "out")
        assert found == code, printed
    assert "checkpoint=" in printed


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
