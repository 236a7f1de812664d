"""Decoded pixels in a memory-mapped file: the same pixels, decoded once, whatever happens to files and builders."""

import io
import multiprocessing
import os
import shutil
import signal
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image
from rich.console import Console

from datamodules import cache
from datamodules.cache import decoded
from datamodules.images import DataError, decode, decode_as, read_header, to_channels
from experiments.cli import UserError, check_targets

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def pictures(tmp_path):
    """Eight files of different sizes: grey and colour, of 8 and of 16 bits."""
    from kornia_rs.io import write_image_png_u16

    random, folder = np.random.default_rng(0), tmp_path / "pictures"
    folder.mkdir()
    for index in range(8):
        shape, file = (21 + 2 * index, 31 - 2 * index), folder / f"{index}.png"
        if index == 5:
            write_image_png_u16(str(file), random.integers(0, 65536, (*shape, 3), dtype=np.uint16), "rgb")
        elif index == 6:
            Image.fromarray(random.integers(0, 65536, shape, dtype=np.uint16)).save(file)
        else:
            Image.fromarray(random.integers(0, 256, shape if index == 7 else (*shape, 3), dtype=np.uint8)).save(file)
    return sorted(folder.iterdir())


@pytest.fixture
def decodes(monkeypatch):
    """The names of the files that are decoded from now on, as they are."""
    names = []

    def counted(path, header, channels):
        names.append(path.name)
        return decode_as(path, header, channels)

    monkeypatch.setattr(cache, "decode_as", counted)
    return names


def cached(paths, channels=1, directory=None):
    directory = directory or paths[0].parent.parent / "cache"
    return decoded({path: read_header(path) for path in paths}, channels, cache=True, cache_dir=str(directory))


def right(pixels, channels=1):
    """Whether these are the pixels of their files."""
    wanted = {path: to_channels(decode(path), channels) for path in pixels}
    return all(
        pixels[path].dtype == wanted[path].dtype and np.array_equal(pixels[path], wanted[path]) for path in pixels
    )


def files(paths):
    """The names below the cache's folder, but for the lock."""
    return sorted(p.name for p in (paths[0].parent.parent / "cache").glob("*/*") if p.name != ".lock")


def repaint(path, value=7):
    size = read_header(path)
    Image.new("RGB", (size.width, size.height), (value, value, value)).save(path)


# --- the same pixels -----------------------------------------------------------------------------------------------


def test_mapped_pixels_are_the_decoded_ones(pictures):
    for channels, paths in ((1, pictures), (3, pictures[:6])):
        pixels = cached(paths, channels)
        assert list(pixels) == paths
        assert right(pixels, channels)
        assert {pixels[path].dtype for path in paths} == {np.dtype("uint8"), np.dtype("uint16")}
        for array in pixels.values():
            assert not array.flags.writeable
            assert array.flags.aligned
            while isinstance(array, np.ndarray):
                array = array.base
            assert type(array).__name__ == "mmap"
    assert len(list((pictures[0].parent.parent / "cache").iterdir())) == 2  # one folder for each set and channels


def test_a_second_start_decodes_and_reads_nothing(pictures, decodes, monkeypatch):
    assert right(cached(pictures))
    assert sorted(decodes) == [path.name for path in pictures]
    for work in ("sha256", "exclusive"):  # nor does it wait for somebody else's lock
        monkeypatch.setattr(cache, work, lambda *_: pytest.fail("did more than to map"))
    assert right(cached(pictures[::-1]))
    assert len(decodes) == len(pictures)
    assert len(files(pictures)) == 2


def test_auto_maps_what_is_large(pictures, tmp_path, monkeypatch):
    headers = {path: read_header(path) for path in pictures}
    size = sum(decode_as(path, headers[path], 1).nbytes for path in pictures)
    for limit, mapped in ((size, False), (size - 1, True)):
        monkeypatch.setattr(cache, "IN_MEMORY", limit)
        assert right(decoded(headers, 1, cache="auto", cache_dir=str(tmp_path / "cache")))
        assert (tmp_path / "cache").exists() == mapped
    assert right(decoded(headers, 1, cache=False, cache_dir="/dev/null/x"))


def test_the_data_module_gives_the_same_batches(compose, pictures, tmp_path):
    def batches(*overrides):
        place = [f"data.path={pictures[0].parent}", f"data.cache_dir={tmp_path / 'cache'}", "channels=1"]
        data = instantiate(
            compose("data=folder", "data.patch_size=8", "data.batch_size=4", *place, *overrides).datamodule
        )
        data.setup("fit")
        training = iter(data.train_dataloader())
        return [next(training) for _ in range(20)], [*data.val_dataloader(), *data.test_dataloader()]

    memory, mapped, worker = batches(), batches("data.cache=true"), batches("data.cache=true", "data.num_workers=1")
    assert (tmp_path / "cache").exists()
    for other in (mapped, worker):
        for ours, theirs in zip(memory, other, strict=True):
            assert all(torch.equal(a["clean"], b["clean"]) for a, b in zip(ours, theirs, strict=True))


# --- files that change ---------------------------------------------------------------------------------------------


def test_only_what_has_changed_is_decoded_again(pictures, decodes):
    before = cached(pictures)
    copies, [old_data] = {path: array.copy() for path, array in before.items()}, files(pictures)[:1]
    decodes.clear()
    Image.new("RGB", (50, 40), (1, 2, 3)).save(pictures[2])  # all the others move
    assert right(cached(pictures))
    assert decodes == ["2.png"]
    assert old_data not in files(pictures)
    assert len(files(pictures)) == 2
    assert all(np.array_equal(before[path], copies[path]) for path in pictures)  # who maps the old file keeps it


def test_a_file_that_is_touched_only_is_read_once_and_not_decoded(pictures, decodes, monkeypatch):
    cached(pictures)
    decodes.clear()
    [data] = (pictures[0].parent.parent / "cache").glob("*/*.pixels")
    written = data.stat().st_mtime_ns
    read, original = [], cache.sha256
    monkeypatch.setattr(cache, "sha256", lambda path: read.append(Path(path).name) or original(path))
    os.utime(pictures[3])
    for _ in range(2):
        assert right(cached(pictures))
    assert read == ["3.png"]
    assert decodes == []
    assert data.stat().st_mtime_ns == written


def test_a_change_that_hides_behind_size_and_time_is_seen(pictures, decodes):
    for value in (10, 11):
        repaint(pictures[0], value)
        size, times = pictures[0].stat().st_size, pictures[0].stat()
        cached(pictures)
    decodes.clear()
    repaint(pictures[0], 12)
    assert pictures[0].stat().st_size == size
    os.utime(pictures[0], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert right(cached(pictures))
    assert decodes == ["0.png"]


def test_a_file_that_is_written_while_it_is_read_is_refused(pictures, monkeypatch):
    def meddling(path, header, channels):
        pixels = decode_as(path, header, channels)
        if path == pictures[4]:
            repaint(path)
        return pixels

    monkeypatch.setattr(cache, "decode_as", meddling)
    with pytest.raises(DataError, match=r"(?s)1 of 8 files.*4\.png: was written while it was read"):
        cached(pictures)
    assert files(pictures) == []
    monkeypatch.undo()
    assert right(cached(pictures))


# --- damage --------------------------------------------------------------------------------------------------------


def truncate(folder):
    [data] = folder.glob("*.pixels")
    os.truncate(data, data.stat().st_size - 1)


def remove(folder):
    [data] = folder.glob("*.pixels")
    data.unlink()


def garble(folder):
    (folder / "index.json").write_text('{"sources": [{"place":')


def deceive(folder):
    text = (folder / "index.json").read_text()
    (folder / "index.json").write_text(text.replace('"offset": 0', '"offset": 64'))


def empty(folder):
    (folder / "index.json").write_text('{"sources": []}')


def forget(folder):
    (folder / "index.json").unlink()


@pytest.mark.parametrize("damage", [truncate, remove, garble, deceive, empty, forget])
def test_a_damaged_cache_is_never_trusted(pictures, decodes, damage):
    cached(pictures)
    [folder] = (pictures[0].parent.parent / "cache").iterdir()
    damage(folder)
    decodes.clear()
    assert right(cached(pictures))
    assert sorted(decodes) == [path.name for path in pictures]
    assert len(files(pictures)) == 2


def test_another_layout_is_not_taken_for_this_one(pictures, decodes, monkeypatch):
    cached(pictures)
    decodes.clear()
    monkeypatch.setattr(cache, "ALIGNMENT", 4096)
    assert right(cached(pictures))
    assert decodes == []


def test_another_version_or_another_decoder_has_a_cache_of_its_own(pictures, decodes, monkeypatch):
    cached(pictures)
    for module, name, value in ((cache, "VERSION", 0), (cache.PIL, "__version__", "0")):
        monkeypatch.setattr(module, name, value)
        decodes.clear()
        assert right(cached(pictures))
        assert len(decodes) == len(pictures)


# --- builders ------------------------------------------------------------------------------------------------------


def slow_decode(monkeypatch, log, seconds):
    """Decoding takes time and writes a line, in this process and in those that it forks."""

    def slow(path, header, channels):
        with log.open("a") as file:
            file.write(f"{path.name}\n")
        time.sleep(seconds)
        return decode_as(path, header, channels)

    monkeypatch.setattr(cache, "decode_as", slow)


def child(function):
    process = FORK.Process(target=function)
    process.start()
    return process


def test_two_at_once_build_once(pictures, tmp_path, monkeypatch):
    slow_decode(monkeypatch, tmp_path / "log", 0.05)

    def work():
        os._exit(0 if right(cached(pictures)) else 1)

    processes = [child(work) for _ in range(2)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted((tmp_path / "log").read_text().split()) == [path.name for path in pictures]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_builder_that_is_ended_harms_nobody(pictures, tmp_path, monkeypatch, end):
    log = tmp_path / "log"
    slow_decode(monkeypatch, log, 0.5)
    monkeypatch.setattr(cache, "THREADS", 2)
    process = child(lambda: cached(pictures))
    deadline = time.monotonic() + 60
    while not log.exists() or len(log.read_text().split()) < 3:  # two are written by then
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, end)
    process.join(60)
    assert process.exitcode != 0
    assert len(log.read_text().split()) < len(pictures)
    left = files(pictures)
    assert all(name.startswith(".") for name in left)
    assert len(left) == (end == signal.SIGKILL)
    monkeypatch.undo()
    usage = shutil.disk_usage
    # what is left takes no room when space is counted
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path) if files(pictures) == [] else None)
    assert right(cached(pictures))
    assert [Path(name).suffix for name in files(pictures)] == [".pixels", ".json"]


def test_few_decoded_images_are_held_at_once(pictures, tmp_path, monkeypatch):
    held, most = [0], [0]

    def watched(path, header, channels):
        pixels = np.array(decode_as(path, header, channels))
        held[0] += 1
        most[0] = max(most[0], held[0])
        weakref.finalize(pixels, lambda: held.__setitem__(0, held[0] - 1))
        return pixels

    monkeypatch.setattr(cache, "decode_as", watched)
    monkeypatch.setattr(cache, "THREADS", 2)
    assert right(cached(pictures))
    assert most[0] <= 2


def test_the_terminal_shows_images_and_bytes(pictures, monkeypatch):
    for rank, terminal, shown in ((0, True, True), (1, True, False), (0, False, False)):
        screen = io.StringIO()
        monkeypatch.setattr(cache.rank_zero_only, "rank", rank)
        monkeypatch.setattr(cache, "Console", lambda t=terminal, s=screen: Console(file=s, force_terminal=t, width=120))
        cached(pictures, directory=pictures[0].parent.parent / f"{rank}{terminal}")
        assert ("decoding" in screen.getvalue() and "8 of 8 images" in screen.getvalue()) == shown
        assert bool(screen.getvalue()) == shown


# --- what cannot work ----------------------------------------------------------------------------------------------


def test_every_file_that_fails_is_named_and_nothing_is_left(pictures):
    for path in pictures[1:3]:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(DataError, match=r"2 of 8 files.*\n.*1\.png.*\n.*2\.png"):
        cached(pictures)
    assert files(pictures) == []


def test_pixels_are_what_the_header_was(pictures):
    headers = {path: read_header(path) for path in pictures}
    with pytest.raises(DataError, match=r"0\.png: its header says 23×29×3 in 8 bits, its pixels are 21×31×3 uint8"):
        decode_as(pictures[0], headers[pictures[1]], 1)
    Image.new("RGB", (9, 9)).save(pictures[5])
    with pytest.raises(DataError, match=r"5\.png: its header says 31×21×3 in 16 bits, its pixels are 9×9×3 uint8"):
        decoded(headers, 1, cache=True, cache_dir=str(pictures[0].parent.parent / "cache"))


def test_too_little_space_is_said_before_anything_is_decoded(pictures, decodes, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=4000))
    with pytest.raises(
        DataError, match=r"(?s)take [\d,]+ bytes.*4,000 \(4\.0 kB\) are free in .*cache.*DENOISERS_CACHE"
    ):
        cached(pictures)
    assert decodes == []
    assert files(pictures) == []
    monkeypatch.undo()
    assert right(cached(pictures))


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(pictures, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        DataError,
        match=r"data\.cache_dir=.*file/x: .*Not a directory.*data\.cache_dir=DIR.*DENOISERS_CACHE.*cache=false",
    ):
        cached(pictures, directory=tmp_path / "file" / "x")


def test_a_full_disk_is_not_a_fault_of_ours(pictures, monkeypatch):
    def full(path, header, channels):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "decode_as", full)
    with pytest.raises(DataError, match=r"No space left on device.*DENOISERS_CACHE"):
        cached(pictures)
    assert files(pictures) == []


def test_other_values_are_refused(compose, monkeypatch):
    check_targets(compose("data.cache=auto", "data.cache_dir=/x"), typed=[])
    with pytest.raises(UserError, match=r"data\.cache=atuo: .*'auto', True or False; did you mean auto\?"):
        check_targets(compose("data.cache=atuo"), typed=[])
    monkeypatch.setenv("DENOISERS_CACHE", "/somewhere")
    assert compose().datamodule.cache_dir == "/somewhere"
    monkeypatch.delenv("DENOISERS_CACHE")
    assert compose().datamodule.cache_dir == "~/.cache/denoisers"
