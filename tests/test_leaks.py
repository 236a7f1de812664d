"""A training set that holds a test image is refused, however the image was turned or saved."""

from importlib.resources import files

import numpy as np
import pytest
from hydra.utils import instantiate
from PIL import Image

from datamodules import leaks
from datamodules.catalog import find
from datamodules.images import DataError, decode

CHELSEA = Image.open(files("skimage") / "data" / "chelsea.png")
TURNS = {
    "same": lambda picture: picture,
    "mirrored": lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "upside down": lambda picture: picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    "quarter": lambda picture: picture.transpose(Image.Transpose.ROTATE_90),
    "half": lambda picture: picture.transpose(Image.Transpose.ROTATE_180),
    "transposed": lambda picture: picture.transpose(Image.Transpose.TRANSPOSE),
    "transverse": lambda picture: picture.transpose(Image.Transpose.TRANSVERSE),
    "three quarters": lambda picture: picture.transpose(Image.Transpose.ROTATE_270),
}


@pytest.fixture
def folders(tmp_path):
    """Three folders of pictures of one size, none of which is in two of them."""
    coffee = Image.open(files("skimage") / "data" / "coffee.png")
    for number, split in enumerate(("train", "val", "test")):
        (tmp_path / split).mkdir()
        for index in range(3):
            left, top = 60 * index, 100 * number
            coffee.crop((left, top, left + 200, top + 150)).save(tmp_path / split / f"{index}.png")
    return tmp_path


def fit(compose, folders):
    where = [f"data.{split}={folders / split}" for split in ("train", "val", "test")]
    data = instantiate(compose("data=folder", *where, "data.patch_size=16", "data.batch_size=4").datamodule)
    data.setup("fit")


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("saved", ["x.png", "x.jpg", "grey.png"])
def test_a_test_image_among_the_training_images_is_named_with_its_twin(compose, folders, turn, saved):
    fit(compose, folders)
    picture = CHELSEA.crop((100, 50, 300, 200))
    picture.save(folders / "test" / "cat.png")
    turned = TURNS[turn](picture)
    (turned.convert("L").convert("RGB") if saved == "grey.png" else turned).save(folders / "train" / saved, quality=70)
    with pytest.raises(
        DataError, match=rf"1 test images.*\n.*test/cat.png is training image .*train/{saved}"
    ) as refused:
        fit(compose, folders)
    assert (", turned" in str(refused.value)) == (turn != "same")


def test_parts_of_one_scene_are_other_pictures(compose, folders):
    CHELSEA.crop((100, 50, 300, 200)).save(folders / "train" / "a.png")
    CHELSEA.crop((103, 52, 303, 202)).save(folders / "test" / "b.png")  # a few pixels away
    fit(compose, folders)


def test_pictures_of_one_brightness_count_if_they_are_equal(tmp_path):
    def refuse(*levels):
        pixels = {tmp_path / f"{level}.png": np.full((80, 80, 1), level, np.uint8) for level in levels}
        leaks.refuse(*([tmp_path / f"{level}.png"] for level in levels), pixels.__getitem__)

    refuse(10, 11)
    with pytest.raises(DataError, match="1 test images"):
        refuse(10, 10)


def test_small_pictures_of_one_kind_are_told_apart(tmp_path):
    """Digits: nearly the same is not the same."""
    random = np.random.default_rng(0)
    digit = np.zeros((28, 28, 1), np.uint8)
    digit[5:23, 13:16] = 250
    other = digit.copy()
    other[5, 13] = random.integers(0, 200)
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    leaks.refuse(paths[:1], paths[1:], dict(zip(paths, (digit, other), strict=True)).__getitem__)
    with pytest.raises(DataError):
        leaks.refuse(paths[:1], paths[1:], dict(zip(paths, (digit, digit[::-1]), strict=True)).__getitem__)


def test_deep_pictures_are_compared_by_their_scale(tmp_path):
    grey = np.asarray(CHELSEA.convert("L"))[..., None]
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    with pytest.raises(DataError):
        leaks.refuse(
            paths[:1], paths[1:], dict(zip(paths, (grey, grey.astype(np.uint16) * 257), strict=True)).__getitem__
        )


@pytest.mark.parametrize("train", ["Train400", "CBSD432"])
def test_the_published_training_sets_are_clear_of_the_test_sets(real_data, train):
    learnt, tested = (find(name, real_data) for name in (train, "BSD68"))
    leaks.refuse(learnt, tested, decode)
    with pytest.raises(DataError, match="2 test images"):
        leaks.refuse([*learnt, tested[7], tested[60]], tested, decode)
