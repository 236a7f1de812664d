"""Malformed, odd and large picture files: named or gone through, within bounds of memory."""

import contextlib
import re

import numpy as np
import odd_files
import pytest
import tifffile
from command_line import command
from odd_files import pixels, png
from PIL import Image
from test_pictures import read_png

from datamodules.errors import DataError
from datamodules.images import decode, named_as_images, read_header
from datamodules.pictures import open_picture, picture


def test_odd_files_go_through_or_are_refused_by_name(tmp_path):
    expected = odd_files.make(tmp_path / "in")
    assert len(expected) >= 160
    wrong = []
    for path, word in expected.items():
        target = tmp_path / "out" / path.name
        try:
            opened = open_picture(path)
            pages = [opened.pixels(page) for page in range(opened.pages)]
            opened.write(target, pages)
            found = [open_picture(target).pixels(page) for page in range(opened.pages)]
        except DataError as error:
            if word is None or not str(error).startswith(f"{path}: ") or word not in str(error):
                wrong.append(f"{path.name}: {word} expected: {error}")
            assert not target.exists()
            continue
        lossless = opened.format != "JPEG" and "lossy" not in path.name
        if word is not None or (lossless and not all(map(np.array_equal, pages, found))):
            wrong.append(f"{path.name}: {word} expected, went through")
        with contextlib.suppress(DataError):
            read_header(path)
            decode(path)
    assert not wrong
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
    listed = set(named_as_images(tmp_path / "in"))
    assert len(listed) == len(
        [path for path in expected if path.name not in ("folder.png", "missing.png", "animated.gif")]
    )


def test_sizes_are_refused_before_memory_is_taken(tmp_path):
    (tmp_path / "bomb.png").write_bytes(odd_files.bomb(1, (30000, 30000)))
    with pytest.raises(
        DataError, match=r"bomb.png: its header says 2,700,000,000 bytes of pixels, which its 1,.* cannot"
    ):
        open_picture(tmp_path / "bomb.png")
    Image.new("L", (100, 50)).save(tmp_path / "x.png")
    assert open_picture(tmp_path / "x.png", max_pixels=5000).width == 100
    with pytest.raises(DataError, match=r"x.png: its header says 50×100 pixels, more than the 4,999 that are allowed"):
        open_picture(tmp_path / "x.png", max_pixels=4999)


MEASURE = """
import re, sys, threading, time
from pathlib import Path
from datamodules.pictures import open_picture

def held():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def watch():
    while True:
        most[0] = max(most[0], held())
        time.sleep(0.002)

picture = open_picture(Path(sys.argv[1]))
import numpy, PIL.Image, tifffile
most = [start := held()]
threading.Thread(target=watch, daemon=True).start()
pixels = picture.pixels()
reading, most[0] = most[0], 0
picture.write(Path(sys.argv[2]), [pixels])
print(*(peak - start - pixels.nbytes / 2**20 for peak in (reading, most[0])), pixels.nbytes / 2**20)
"""


@pytest.mark.skipif(not picture.MEMORY.exists(), reason="measured on Linux")
@pytest.mark.parametrize("name", ["x.png", "x.tif", "packed.tif"])
@pytest.mark.parametrize("size", [(3000, 4000), pytest.param((9000, 12000), marks=pytest.mark.slow)], ids=str)
def test_large_pictures_need_little_more_memory_than_their_pixels(tmp_path, size, name):
    path = tmp_path / name
    values = (np.add.outer(np.arange(size[0]) // 9, np.arange(size[1]) // 7)[..., None] % 200).astype(np.uint8)
    values = values + np.random.default_rng(0).integers(0, 20, (*size, 3), dtype=np.uint8)
    if name == "x.png":
        Image.fromarray(values).save(path, compress_level=1)
    else:
        tifffile.imwrite(path, values, photometric="rgb", compression="zlib" if name == "packed.tif" else None)
    done = command("-c", MEASURE, path, tmp_path / f"out{path.suffix}")
    reading, writing, array = map(float, re.findall(r"-?[\d.]+", done.stdout))
    assert array == pytest.approx(np.prod(size) * 3 / 2**20), done.stderr
    assert reading < 16, "MiB beyond the array"
    assert writing < 32, "MiB beyond the array"


def test_pixels_lie_in_a_file_where_memory_is_short(tmp_path, monkeypatch):
    values = pixels("uint16", 3)
    (tmp_path / "x.png").write_bytes(png(values, 2))
    monkeypatch.setattr(picture, "MEMORY_SHARE", 0)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    opened = open_picture(tmp_path / "x.png")
    found = opened.pixels()
    assert isinstance(found, np.memmap)
    assert np.array_equal(found, values)
    found += 1
    opened.write(tmp_path / "y.png", [found])
    assert np.array_equal(read_png(tmp_path / "y.png", 3, "uint16"), values + 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.png", "y.png"]
