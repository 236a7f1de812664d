"""Malformed, odd and large picture files: named or gone through, within bounds of memory."""

import contextlib
from multiprocessing import get_context

import numpy as np
import odd_files
import pytest
from odd_files import pixels, png
from PIL import Image
from test_pictures import read_png

from datamodules.errors import DataError
from datamodules.images import decode, named_as_images, read_header
from datamodules.pictures import open_picture, picture
from experiments.bench_pictures import measure


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


@pytest.mark.skipif(not picture.MEMORY.exists(), reason="measured on Linux")
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TIFF, Deflate"])
@pytest.mark.parametrize("size", [(2000, 3000), pytest.param((9000, 12000), marks=pytest.mark.slow)], ids=str)
def test_large_pictures_need_little_more_memory_than_their_pixels(tmp_path, size, kind):
    with get_context("spawn").Pool(1) as pool:
        reading, _, _, writing, *_ = pool.apply(measure, (kind, *size, tmp_path))
    assert reading < 12, "MiB beyond the array, which has 17"
    assert writing < 30, "MiB beyond the array"


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
