"""Videos: how they are parted, clips cut out of them, their noise, and what a run says of each frame."""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import call, command
from conftest import choices
from hydra.utils import instantiate
from PIL import Image
from torch.utils.data import DataLoader

from datamodules import parting, splits
from datamodules.crops import DeviceCrops
from datamodules.datasets import Crops, Stream, WholeImages
from datamodules.images import DataError
from datamodules.realisation import ContentSeeded, Kair
from denoisers.clips import frames
from denoisers.networks.dncnn import DnCNN
from denoisers.tiles import tiled
from train import main as train

FRACTIONS = [0.5, 0.25, 0.25]
NONE = {"train": None, "val": None, "test": None}


def put(folder: Path, count: int, size=(24, 32), seed=0):
    """A video whose frame number is in its name, without leading zeros, and in its pixels."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        pixels = random.integers(90, 160, (*size, 3), dtype=np.uint8)
        pixels[..., 0] = 100 + number
        Image.fromarray(pixels).save(folder / f"frame{number}.png")


def numbers(items):
    return [int(item.name.rpartition("frame")[2]) for item in items]


# --- parts ---------------------------------------------------------------------------------------------------------


def test_one_video_is_parted_in_time(tmp_path):
    put(tmp_path / "street", 24)
    parts = splits.videos(path=str(tmp_path / "street"), fractions=FRACTIONS, split_seed=0, **NONE)
    assert [numbers(part) for part in (parts.train, parts.val, parts.test)] == [
        list(range(12)),
        list(range(12, 18)),
        list(range(18, 24)),
    ]
    assert {item.set for item in parts.train} == {"street"}
    only = splits.videos(path=str(tmp_path / "street"), fractions=[0, 0, 1], split_seed=0, **NONE)
    assert (only.train, only.val, numbers(only.test)) == ([], [], list(range(24)))


def test_of_two_videos_each_is_parted_in_time(tmp_path):
    put(tmp_path / "set" / "a", 8)
    put(tmp_path / "set" / "b", 4)
    parts = splits.videos(path=str(tmp_path / "set"), fractions=FRACTIONS, split_seed=0, **NONE)
    assert [item.name for item in parts.test] == ["a/frame6", "a/frame7", "b/frame3"]
    assert numbers(parts.train) == [0, 1, 2, 3, 0, 1]


def test_of_several_videos_each_goes_into_one_part_and_stays_there(tmp_path):
    for name in "abcdefgh":
        put(tmp_path / "set" / name, 3)

    def parted():
        parts = splits.videos(path=str(tmp_path / "set"), fractions=FRACTIONS, split_seed=0, **NONE)
        return [[item.name for item in part] for part in (parts.train, parts.val, parts.test)]

    before = parted()
    assert [len(part) for part in before] == [12, 6, 6]
    videos = [{name.partition("/")[0] for name in part} for part in before]
    assert set.union(*videos) == set("abcdefgh")
    assert sum(map(len, videos)) == 8
    put(tmp_path / "set" / "aa", 3)
    assert all(set(old) <= set(new) for old, new in zip(before, parted(), strict=True))


def test_three_directories_are_three_parts(tmp_path):
    for name in NONE:
        put(tmp_path / name / "clip", 12)
    three = {name: str(tmp_path / name) for name in NONE}
    parts = splits.videos(path=None, fractions=FRACTIONS, split_seed=0, **three)
    assert numbers(parts.train) == numbers(parts.test) == list(range(12))
    assert {item.video for item in parts.val} == {"clip"}
    with pytest.raises(DataError, match="either data.path=DIR or data.train=DIR"):
        splits.videos(path=str(tmp_path), fractions=FRACTIONS, split_seed=0, **three)
    with pytest.raises(DataError, match="three positive numbers"):
        splits.videos(path=str(tmp_path / "val"), fractions=[0.5, 0.5], split_seed=0, **NONE)


# --- clips ---------------------------------------------------------------------------------------------------------


def two_videos(*lengths):
    frames_ = [(name, n) for name, length in zip("ab", lengths, strict=True) for n in range(length)]
    items = [parting.Item("set", f"{name}/{n}", Path("x.png"), video=name) for name, n in frames_]
    random = np.random.default_rng(0)
    images = [(random.integers(0, 256, (12, 15, 1), dtype=np.uint8),) for _ in items]
    for number, (image,) in enumerate(images):
        image[..., 0] = image[..., 0] // 16 * 16 + number  # low bits tell the frame
    return images, items


def test_clips_are_frames_that_follow_each_other_cut_alike():
    images, items = two_videos(6, 4)
    crops = Crops(images, items, patch_size=5, crops_per_image=20, seed=1, frames=3)
    assert len(crops) == (4 + 2) * 20
    seen = set()
    for index in range(len(crops)):
        sample = crops[0, index]
        assert sample["clean"].shape == (3, 1, 5, 5)
        pixels = (sample["clean"] * 255).round().int()
        [first] = set((pixels[0] % 16).flatten().tolist())
        assert sample["name"] == items[first].name
        assert [set((frame % 16).flatten().tolist()) for frame in pixels] == [{first}, {first + 1}, {first + 2}]
        _, top, left, turn, flip = crops.draw((0, index))[0]
        for number, frame in enumerate(pixels, first):
            expected = np.rot90(images[number][0][top : top + 5, left : left + 5, 0], turn)
            assert np.array_equal(frame[0], expected[:, ::-1] if flip else expected)
        seen.add(first)
    assert seen == {0, 1, 2, 3, 6, 7}


def assert_same_on_the_device(crops, batches, shape):
    """So many batches of four clips are the same, made on the device and by a loader."""
    order = Stream(len(crops), batch_size=4, seed=0, rank=0, world_size=1, position=lambda: 0)
    device, loader = DeviceCrops(crops, order, torch.device("cpu")), DataLoader(crops, batch_sampler=order)
    for ours, theirs in itertools.islice(zip(device, loader, strict=True), batches):
        assert ours["clean"].shape == shape
        assert torch.equal(ours["clean"], theirs["clean"])
        assert ours["name"] == theirs["name"]


def test_clips_on_the_device_are_the_loaders_bit_for_bit():
    images, items = two_videos(6, 4)
    crops = Crops(images, items, patch_size=5, crops_per_image=4, seed=1, frames=3)
    assert_same_on_the_device(crops, 8, (4, 3, 1, 5, 5))


def test_videos_too_short_and_pictures_that_are_none_are_named():
    images, items = two_videos(3, 2)
    with pytest.raises(DataError, match="data.frames=4: .* the longest one for training has 3"):
        Crops(images, items, patch_size=5, crops_per_image=1, seed=1, frames=4)
    stills = [parting.Item("set", item.name, item.clean) for item in items]
    with pytest.raises(DataError, match="these images are none: use data=frames"):
        Crops(images, stills, patch_size=5, crops_per_image=1, seed=1, frames=2)


def test_whole_videos_come_one_at_a_time_and_whole_images_as_before():
    images, items = two_videos(3, 2)
    batches = [WholeImages(images, items)[number] for number in range(2)]
    assert [batch["clean"].shape for batch in batches] == [(1, 3, 1, 12, 15), (1, 2, 1, 12, 15)]
    assert batches[1]["name"] == ["b/0", "b/1"]
    assert batches[1]["realisation"] == [0, 0]
    stills = [parting.Item(item.set, item.name, item.clean) for item in items]
    singles = WholeImages(images, stills, draws=2)
    assert len(singles) == 10
    assert (singles[3]["name"], singles[3]["realisation"]) == (["a/1"], [1])
    assert torch.equal(singles[2]["clean"][0], batches[0]["clean"][0, 1])


# --- noise and networks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", choices("noise"))
def test_frames_have_noise_of_their_own_and_the_parameters_of_their_clip(build_noise, name):
    noise = build_noise(name, 3)
    clean = torch.rand(4, 1, 3, 32, 32).mul(0.4).add(0.3).expand(4, 3, 3, 32, 32).contiguous()
    noisy, level = noise.corrupt(clean)
    assert noisy.shape == clean.shape
    assert level.shape in ((4, 3, 1, 1, 1), (4, 3, 1, 32, 32))
    torch.testing.assert_close(level, level[:, :1].expand_as(level), rtol=0.15, atol=1e-3)  # some are measured
    difference = (noisy[:, 0] - noisy[:, 1]).square().mean().sqrt()
    if name != "none":
        assert difference > 0.5 * level.mean()
        alone, _ = noise.corrupt(clean, noise.draws(clean.shape))
        assert not torch.equal(alone, noisy)


def test_clips_draw_their_parameters_as_images_do(build_noise):
    noise = build_noise("blind0_55", 1)
    levels = noise.corrupt(torch.rand(400, 2, 1, 4, 4))[1][:, 0].flatten() * 255
    assert len(levels.unique()) == 400
    assert levels.mean() == pytest.approx(27.5, abs=2.5)


@pytest.mark.parametrize("realisation", [ContentSeeded(), Kair()])
def test_the_evaluation_noise_of_a_clip_differs_from_frame_to_frame(build_noise, realisation):
    clean = torch.rand(1, 1, 40, 50).expand(3, 1, 40, 50).contiguous()
    noisy, level = realisation(build_noise("sigma25", 1), clean, 0)
    fields = ((noisy - clean) * 255 / 25).flatten(1)
    assert level.shape == (3, 1, 1, 1)
    assert torch.allclose(fields.std(1), torch.ones(3), atol=0.06)
    assert (torch.corrcoef(fields) - torch.eye(3)).abs().max() < 0.08
    first, _ = realisation(build_noise("sigma25", 1), clean[0], 0)
    assert torch.equal(first, noisy[0]) == isinstance(realisation, Kair)  # as KAIR has it for an image


def test_networks_of_images_meet_the_frames_one_by_one():
    network = DnCNN(channels=1, num_features=4, num_layers=3).eval()
    clip = torch.rand(2, 3, 1, 20, 24)
    with torch.inference_mode():
        found = tiled(network, clip, torch.full((2, 3, 1, 1, 1), 0.1))
        torch.testing.assert_close(found.flatten(0, 1), network(clip.flatten(0, 1)))
    assert frames(clip).shape == (6, 1, 20, 24)
    assert torch.equal(frames(clip[:, 0]), clip[:, 0])


# --- the main job --------------------------------------------------------------------------------------------------


def datamodule(compose, *overrides):
    common = ["data.patch_size=16", "data.batch_size=2", "data.crops_per_image=2"]
    data = instantiate(compose("data=frames", *common, *overrides).datamodule)
    data.setup("fit")
    return data


def test_a_video_that_is_also_a_test_video_is_refused_but_one_parted_in_time_is_not(compose, tmp_path):
    for name, seed in {"train": 0, "val": 1, "test": 0}.items():
        put(tmp_path / name / "clip", 6, seed=seed)
    with pytest.raises(DataError, match=r"6 test images are among(.|\n)*frame0.png is training image"):
        datamodule(compose, *(f"data.{name}={tmp_path / name}" for name in NONE))
    still = tmp_path / "still"
    still.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    for number in range(20):
        Image.fromarray(pixels).save(still / f"{number}.png")
    datamodule(compose, f"data.path={still}", "data.frames=2")


def test_frames_of_several_sizes_are_named(compose, tmp_path):
    put(tmp_path / "street", 20)
    Image.new("RGB", (32, 20)).save(tmp_path / "street" / "frame3.png")
    with pytest.raises(Exception, match=r"frames of a video must agree in size(.|\n)*24×32 but .*frame3.png is 20×32"):
        datamodule(compose, f"data.path={tmp_path / 'street'}")


SMALL = (
    "experiment=video",
    "model.num_features=8",
    "data.patch_size=16",
    "data.crops_per_image=2",
    "trainer=cpu",
)


@pytest.mark.parametrize("on_device", ["false", "true"])
def test_a_run_learns_from_clips_and_says_of_each_frame_how_well_it_is_cleaned(tmp_path, monkeypatch, capfd, on_device):
    put(tmp_path / "street", 20)
    arguments = [*SMALL, f"data.path={tmp_path / 'street'}", f"run_dir={tmp_path / 'r'}", "trainer.max_steps=3"]
    code, printed = call(monkeypatch, capfd, train, *arguments, f"data.on_device={on_device}")
    assert code == 0, printed
    assert "5×16×16" in printed
    rows = list(csv.DictReader((tmp_path / "r" / "per_image.csv").open()))
    assert [row["image"] for row in rows] == ["frame17", "frame18", "frame19"]
    assert {row["level"] for row in rows} == {"25.0"}
    assert len({row["noisy_psnr"] for row in rows}) == 3
    assert all(abs(float(row["noisy_psnr"]) - 20.17) < 0.5 for row in rows)
    assert [path.name for path in (tmp_path / "r" / "pictures" / "test" / "street").iterdir()] == ["frame17"]


@pytest.mark.slow
def test_two_processes_give_the_rows_of_one(tmp_path):
    for folder, seed in (("train", 0), ("val", 1), ("test/a", 2), ("test/b", 3), ("test/c", 4)):
        put(tmp_path / folder, 2 + seed, seed=seed)
    three = [f"data.{name}={tmp_path / name}" for name in NONE]
    for name, extra in [("one", []), ("two", ["trainer=ddp", "trainer.devices=2"])]:
        data = ["data=frames", "data.frames=2", "data.patch_size=16", "data.batch_size=2", *three]
        done = command(
            "train.py", "trainer.accelerator=cpu", "model=median", *data, *extra, f"run_dir={tmp_path / name}"
        )
        assert done.returncode == 0, done.stderr
    rows = (tmp_path / "one" / "per_image.csv").read_text()
    assert rows.count("\n") == 1 + 4 + 5 + 6
    assert rows == (tmp_path / "two" / "per_image.csv").read_text()
