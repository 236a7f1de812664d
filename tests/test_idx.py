"""Digits: idx files, and the folder of pictures that they become."""

import gzip

import numpy as np
import pytest
from hydra.utils import instantiate
from PIL import Image

from datamodules import idx
from datamodules.images import DataError

DIGITS = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)


def content(pictures=DIGITS, shape=None):
    header = b"\x00\x00\x08\x03" + b"".join(int(n).to_bytes(4, "big") for n in shape or pictures.shape)
    return header + pictures.tobytes()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "root" / "MNIST" / "t10k-images-idx3-ubyte.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(content()))
    return path


def test_pictures_are_read_gzipped_or_not(file, tmp_path):
    plain = tmp_path / "digits.idx"
    plain.write_bytes(content())
    for path in (file, plain):
        assert np.array_equal(idx.read_idx(path), DIGITS)


@pytest.mark.parametrize(
    ("damaged", "named"),
    [
        (b"PK\x03\x04" + content()[4:], "not an idx file"),
        (b"", "not an idx file"),
        (content()[:-1], "it holds 15,679"),
        (content() + b"x", "it holds more"),
        (content(shape=(10**9, 28, 28)), "its header says"),
    ],
)
def test_damaged_files_are_named(tmp_path, damaged, named):
    path = tmp_path / "digits.gz"
    path.write_bytes(gzip.compress(damaged))
    with pytest.raises(DataError, match=named):
        idx.unpacked(path, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))


@pytest.mark.parametrize("cut", [10, 500, 5000])
def test_half_a_file_is_named(file, tmp_path, cut):
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"cannot be read|it holds"):
        idx.read_idx(file)


def test_the_folder_is_made_once_and_is_complete_when_it_is_seen(file, tmp_path, monkeypatch):
    cache = tmp_path / "cache"

    def broken(image, path, **options):
        if path.stem == "00007":
            raise OSError("no space")
        return save(image, path, **options)

    save = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", broken)
    with pytest.raises(OSError, match="no space"):
        idx.unpacked(file, cache)
    assert list(cache.iterdir()) == []
    monkeypatch.undo()
    folder = idx.unpacked(file, cache)
    assert [np.array_equal(np.asarray(Image.open(p)), d) for p, d in zip(sorted(folder.iterdir()), DIGITS, strict=True)]
    before = folder.stat().st_mtime_ns
    assert idx.unpacked(file, cache) == folder
    assert folder.stat().st_mtime_ns == before
    assert len(list(cache.iterdir())) == 1


def test_digits_are_parted_by_the_fractions(compose, file, tmp_path):
    root = [f"data_root={file.parent.parent}", f"data.cache_dir={tmp_path / 'cache'}"]
    splits = instantiate(compose("data=mnist", *root).data.splits)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [14, 3, 3]
    assert {item.set for item in splits.train} == {"MNIST"}
    with pytest.raises(Exception, match="catalog get MNIST"):
        instantiate(compose("data=mnist", f"data_root={tmp_path}").data.splits)
