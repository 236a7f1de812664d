"""How folders are parted: by fractions, alike in each group, and so that no image ever moves."""

import json

import numpy as np
import pytest
from PIL import Image

from datamodules import parting, splits
from datamodules.images import DataError

FRACTIONS = [0.7, 0.15, 0.15]


def put(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.new("L", (4, 4)).save(folder / f"{name}.png")


def parted(folder, split_seed=0, fractions=FRACTIONS):
    found = splits.folder(path=str(folder), train=None, val=None, test=None, fractions=fractions, split_seed=split_seed)
    return [{item.name for item in getattr(found, part)} for part in parting.PARTS]


@pytest.fixture
def folder(tmp_path):
    put(tmp_path / "photos", *(f"{number:03}" for number in range(40)))
    return tmp_path / "photos"


def test_images_that_come_or_go_do_not_move_the_others(folder):
    before = parted(folder)
    assert [len(part) for part in before] == [28, 6, 6]
    put(folder, *(f"new{number}" for number in range(40)))
    for gone in sorted(before[0])[:4]:
        (folder / f"{gone}.png").unlink()
    after = parted(folder)
    everything = {path.stem for path in folder.glob("*.png")}
    for old, new in zip(before, after, strict=True):
        assert old & everything <= new
    assert set.union(*after) == everything
    assert [len(part) for part in after] == pytest.approx([76 * fraction for fraction in FRACTIONS], abs=2)
    assert parted(folder) == after
    [file] = folder.glob(".split*")
    assert file.name == ".split-0-0.7-0.15-0.15.json"
    assert set(json.loads(file.read_text())["test"]) == after[2]


def test_each_seed_and_each_fraction_has_its_own(folder):
    assert parted(folder, 1) != parted(folder, 0)
    assert [len(part) for part in parted(folder, 0, [0.5, 0.25, 0.25])] == [20, 10, 10]
    assert len(list(folder.glob(".split*"))) == 3
    assert parted(folder, 1) == parted(folder, 1)


def test_a_file_of_other_images_does_not_count(folder):
    before = parted(folder)
    for path in folder.glob("*.png"):
        path.rename(folder / f"other{path.name}")
    assert [len(part) for part in parted(folder)] == [28, 6, 6]
    assert not set.union(*parted(folder)) & set.union(*before)


@pytest.mark.parametrize("text", ["", "{}", '{"train": 3, "val": [], "test": []}', "[1]"])
def test_a_damaged_file_is_named(folder, text):
    parted(folder)
    [file] = folder.glob(".split*")
    file.write_text(text)
    with pytest.raises(DataError, match=r"\.split-0.*remove it"):
        parted(folder)


def test_a_folder_that_cannot_be_written_is_parted_all_the_same(folder, monkeypatch, caplog):
    kept = parted(folder)
    [file] = folder.glob(".split*")
    file.unlink()

    def refused(path, text):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(parting, "write_text", refused)
    with caplog.at_level("INFO"):
        assert parted(folder) == kept
    assert "Permission denied" in caplog.text
    assert not list(folder.glob(".split*"))


def pairs(tmp_path, **options):
    found = splits.pairs(
        noisy=str(tmp_path / "noisy"),
        clean=str(tmp_path / "clean"),
        **{"groups": None, "synthetic": False, "fractions": [0.5, 0.25, 0.25], "split_seed": 0} | options,
    )
    return found


def test_each_group_is_parted_alike(tmp_path):
    names = [f"{camera}_iso{iso}_{number}" for camera in "ab" for iso in (100, 800) for number in range(8)]
    for kind in ("noisy", "clean"):
        put(tmp_path / kind, *names)
    found = pairs(tmp_path, groups=r"^(.)_iso(\d+)")
    for part, count in (("train", 4), ("val", 2), ("test", 2)):
        groups = parting.grouped(getattr(found, part), r"^(.)_iso(\d+)")
        assert list(groups) == ["a_100", "a_800", "b_100", "b_800"]
        assert {len(items) for items in groups.values()} == {count}
    again = pairs(tmp_path, groups=r"^(.)_iso(\d+)")
    assert again == found
    other = pairs(tmp_path, groups=r"^(.)_iso(\d+)", split_seed=1)
    assert other != found


def test_synthetic_noise_is_for_training_alone(tmp_path):
    for kind in ("noisy", "clean"):
        put(tmp_path / kind, *(f"{number}" for number in range(8)))
    found = pairs(tmp_path, synthetic=True)
    assert all(item.noisy is None and item.clean for item in found.train)
    assert all(item.noisy and item.clean for item in [*found.val, *found.test])
    assert {item.name for item in found.test} == {item.name for item in pairs(tmp_path).test}


def test_groups_are_folders_unless_names_say_more():
    items = [parting.Item("s", name, None) for name in ("x/1", "x/2", "y/1", "top")]
    assert {name: len(group) for name, group in parting.grouped(items, None).items()} == {"all": 1, "x": 2, "y": 1}
    assert list(parting.grouped(items, r"\d|top")) == ["1", "2", "top"]
    for pattern, named in (("(", "not a regular expression"), ("z", "nothing of it in the name x/1")):
        with pytest.raises(DataError, match=named):
            parting.grouped(items, pattern)


def test_parts_are_a_function_of_the_seed_alone():
    items = [parting.Item("s", f"{number}", None) for number in range(20)]
    one, two = (parting.part(items, [10, 5, 5], 3) for _ in range(2))
    assert one == two
    assert np.concatenate([[item.name for item in part] for part in one]).size == 20
