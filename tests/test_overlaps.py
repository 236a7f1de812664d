"""Crops of test images among the training images are found, however they were turned or saved; other pictures not."""

from importlib.resources import files

import pytest
from PIL import Image

from datamodules import catalog
from datamodules.catalog import find
from datamodules.overlaps import overlaps

FOLDER = files("skimage") / "data"
TURN = Image.Transpose


@pytest.fixture
def test_images(tmp_path):
    """Parts of photographs, as test images."""
    (tmp_path / "test").mkdir()
    for name in ("chelsea.png", "coffee.png"):
        Image.open(FOLDER / name).crop((50, 40, 350, 260)).save(tmp_path / "test" / name)
    return sorted((tmp_path / "test").iterdir())


@pytest.mark.parametrize("box", [(60, 50, 200, 190), (61, 53, 190, 160), (20, 10, 180, 150), (0, 0, 400, 300)])
@pytest.mark.parametrize("turn", [None, TURN.FLIP_LEFT_RIGHT, TURN.ROTATE_90, TURN.TRANSVERSE])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_crops_are_found(tmp_path, test_images, box, turn, suffix):
    """Within a test image, at odd places, over its border, and around all of it."""
    crop = Image.open(FOLDER / "chelsea.png").convert("L").crop(box)
    path = tmp_path / f"crop.{suffix}"
    (crop.transpose(turn) if turn is not None else crop).save(path, quality=60)
    other = tmp_path / "other.png"
    Image.open(FOLDER / "astronaut.png").save(other)
    assert list(overlaps([other, path], test_images)) == [(path, tmp_path / "test" / "chelsea.png")]


def test_other_parts_of_the_same_photograph_are_other_pictures(tmp_path, test_images):
    path = tmp_path / "elsewhere.png"
    Image.open(FOLDER / "chelsea.png").crop((352, 40, 451, 300)).save(path)
    Image.new("L", (80, 80), 128).save(tmp_path / "flat.png")
    Image.new("L", (5, 5), 128).save(tmp_path / "tiny.png")
    assert list(overlaps([path, tmp_path / "flat.png", tmp_path / "tiny.png"], test_images)) == []
    assert list(overlaps([], test_images)) == []


def test_catalog_check_names_them(tmp_path, test_images, monkeypatch, capsys):
    learnt = tmp_path / "Learnt"
    learnt.mkdir()
    Image.open(test_images[0]).crop((30, 30, 150, 150)).save(learnt / "crop.png")
    about = {"about": "", "terms": "", "cite": "", "by_hand": "here", "mode": "RGB"}
    toys = {
        "Learnt": catalog.ImageSet(name="Learnt", folder="Learnt", count=1, use="training", **about),
        "Tested": catalog.ImageSet(name="Tested", folder="test", count=2, use="test", **about),
    }
    monkeypatch.setattr(catalog, "sets", lambda: toys)
    assert catalog.main(["check", "Tested", "--root", str(tmp_path)]) == 0
    assert catalog.main(["check", "Learnt", "--root", str(tmp_path)]) == 2
    assert f"{learnt / 'crop.png'} shows a part of {test_images[0]}" in capsys.readouterr().out


@pytest.mark.slow
def test_the_published_training_sets_show_no_part_of_the_test_sets(real_data):
    assert list(overlaps(find("Train400", real_data), find("BSD68", real_data))) == []
