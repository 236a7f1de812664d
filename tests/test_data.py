"""Splits, crops and the noisy half: what is drawn is a function of its seed and nothing else."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image
from torch.utils.data import DataLoader

from datamodules import catalog, crops, parting, seeds
from datamodules.crops import DeviceCrops
from datamodules.datasets import Crops, Stream
from datamodules.images import DataError
from train import build, free_the_other_budget

ITEM = parting.Item("set", "name", Path("file.png"))
PAIR = parting.Item("set", "name", Path("file.png"), Path("noisy.png"))


@pytest.fixture
def folder(tmp_path):
    """Eight colour pictures of 40×56 pixels in nested folders."""
    random = np.random.default_rng(0)
    for index in range(8):
        path = tmp_path / "photos" / ("a" if index % 2 else "b") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 56, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def module(compose, *overrides):
    data = instantiate(compose("data.patch_size=16", "data.batch_size=4", *overrides).datamodule)
    data.setup("fit")
    return data


def training_batches(data, epoch=0):
    loader = data.train_dataloader()
    data.micro_batches = epoch * len(loader)
    batches = enumerate(itertools.islice(loader, len(loader)), data.micro_batches)
    return [batch | data.corrupt_training(batch["clean"], index) for index, batch in batches]


# --- splits --------------------------------------------------------------------------------------------------------


def test_sample_is_the_declared_split(compose):
    for channels, train, test in [
        (1, {"astronaut", "rocket", "brick", "gravel", "grass"}, {"chelsea", "camera"}),
        (3, {"astronaut", "rocket"}, {"chelsea"}),
    ]:
        splits = instantiate(compose("data=sample", f"channels={channels}").data.splits)
        assert {item.name for item in splits.train} == train
        assert {item.name for item in splits.val} == {"coffee"}
        assert {item.name for item in splits.test} == test


def test_folder_is_parted_by_its_seed(compose, folder):
    def parts(seed):
        splits = instantiate(compose("data=folder", f"data.path={folder}", f"data.split_seed={seed}").data.splits)
        return [[item.name for item in part] for part in (splits.train, splits.val, splits.test)]

    assert [len(part) for part in parts(0)] == [6, 1, 1]
    assert sorted(name for part in parts(0) for name in part) == sorted(
        [f"{'a' if i % 2 else 'b'}/{i}" for i in range(8)]
    )
    assert parts(0) == parts(0) != parts(1)


def test_named_sets(compose, tmp_path):
    root = tmp_path / "data"
    for name, count in [("Train400", 400), ("Set12", 12), ("BSD68", 68)]:
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.new("L", (2, 2)).save(root / name / f"{index:03d}.png")
    splits = instantiate(compose("data=bsd400", f"data_root={root}").data.splits)
    assert [len(splits.train), len(splits.val), len(splits.test)] == [388, 12, 80]
    assert not {i.clean for i in splits.train} & {i.clean for i in splits.val}
    assert {item.set for item in splits.test} == {"Set12", "BSD68"}
    (root / "BSD68" / "000.png").unlink()
    with pytest.raises(DataError, match=r"BSD68.*68 images.*holds 67.*\n.*catalog get BSD68.*\n.*DENOISERS_DATA"):
        catalog.find("BSD68", str(root))


# --- crops ---------------------------------------------------------------------------------------------------------


def test_a_crop_is_a_function_of_seed_epoch_and_index():
    image = np.arange(30 * 40, dtype=np.uint16).reshape(30, 40, 1)

    def crop(seed, epoch, index):
        return Crops([(image, image)], [PAIR], patch_size=8, crops_per_image=100, seed=seed)[epoch, index]

    first = crop(0, 1, 2)
    assert torch.equal(first["clean"], crop(0, 1, 2)["clean"])
    assert torch.equal(first["clean"], first["noisy"])  # pairs are cropped alike
    for other in [(1, 1, 2), (0, 2, 2), (0, 1, 3)]:
        assert not torch.equal(first["clean"], crop(*other)["clean"])


def test_crops_reach_every_corner_and_all_eight_turns():
    image = np.arange(12 * 12, dtype=np.uint16).reshape(12, 12, 1)
    crops = Crops([(image,)], [ITEM], patch_size=10, crops_per_image=400, seed=0)
    values = [(crops[0, i]["clean"] * 65535).round().int()[0] for i in range(400)]
    places = {int(v.min()) for v in values}
    assert places == {12 * y + x for y in range(3) for x in range(3)}
    turns = {tuple((v - v.min())[[0, 0, -1], [0, -1, 0]].tolist()) for v in values}
    assert len(turns) == 8


def stream(position=0, **changes):
    return Stream(**{"crops": 20, "batch_size": 3, "seed": 3, "rank": 0, "world_size": 1} | changes, position=position)


def taken(batches, number):
    return list(itertools.islice(batches, number))


def test_an_epoch_is_every_key_once_shared_over_ranks():
    ranks = [stream(lambda: 4 * 5, batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    keys = [key for rank in ranks for batch in taken(rank, len(rank)) for key in batch]
    assert sorted(keys) == [(4, i) for i in range(20)]
    assert keys != sorted(keys)
    following = taken(ranks[0], 10)[5:]
    assert {epoch for batch in following for epoch, _ in batch} == {5}
    assert [i for batch in following for _, i in batch] != [i for _, i in keys[:10]]


def test_a_stream_goes_on_from_any_position_without_a_gap():
    whole = taken(stream(lambda: 0), 20)
    assert len(stream(lambda: 0)) == 6
    assert {len(batch) for batch in whole} == {3}
    for position in range(14):
        assert taken(stream(lambda at=position: at), 6) == whole[position : position + 6]


# --- crops on the device -------------------------------------------------------------------------------------------


def images(channels, *kinds):
    """Images of different sizes; ``kinds``: of each, the bits of its views."""
    random = np.random.default_rng(1)
    sizes = [(9 + 5 * index, 23 - 3 * index, channels) for index in range(len(kinds))]
    return [
        tuple(random.integers(0, 1 << bits, size, dtype=f"uint{bits}") for bits in views)
        for size, views in zip(sizes, kinds, strict=True)
    ]


@pytest.mark.parametrize("patch_size", [1, 2, 9])
@pytest.mark.parametrize(
    ("content", "kept_as"),
    [
        (images(1, [8], [8], [8]), torch.uint8),
        (images(3, [8], [8], [8]), torch.uint8),
        (images(1, [16], [16]), torch.int32),
        (images(3, [8], [16], [8]), torch.int32),
        (images(3, [8, 8], [8, 8], [8, 8]), torch.uint8),
        (images(1, [8, 16], [16, 16], [8, 8]), torch.int32),
    ],
)
def test_crops_on_the_device_are_the_loaders_bit_for_bit(content, kept_as, patch_size):
    noisy = Path("noisy.png") if len(content[0]) == 2 else None
    items = [parting.Item("set", f"image {number}", Path("file.png"), noisy) for number in range(len(content))]
    source = Crops(content, items, patch_size=patch_size, crops_per_image=40, seed=5)
    order = stream(lambda: 47, crops=len(source))
    device, loader = DeviceCrops(source, order, torch.device("cpu")), DataLoader(source, batch_sampler=order)
    assert device.pixels.dtype == kept_as
    assert len(device) == len(loader) == len(content) * 40 // 3
    # from the middle of an epoch over the end of it; again, because every start asks for the position
    for _ in range(2):
        for ours, theirs in zip(taken(device, 2 * len(device)), taken(loader, 2 * len(loader)), strict=True):
            assert ours.keys() == theirs.keys()
            assert ours["name"] == theirs["name"]
            for view in set(ours) - {"name"}:
                assert ours[view].dtype == torch.float32
                assert torch.equal(ours[view], theirs[view])


def trained(compose, folder, run_dir, *overrides):
    """Fits as train.py does, for six steps over epochs of four; → module and trainer."""
    common = ["data=folder", f"data.path={folder}", f"run_dir={run_dir}", "trainer=cpu", "trainer.max_steps=6"]
    common += [
        "data.patch_size=16",
        "data.batch_size=6",
        "data.crops_per_image=4",
        "model.num_features=4",
        "model.num_layers=3",
    ]
    quiet = [
        "~callbacks.progress",
        "~callbacks.card",
        "trainer.enable_progress_bar=false",
        "trainer.log_every_n_steps=1",
    ]
    cfg = compose(*common, *quiet, *overrides)
    free_the_other_budget(cfg, common)
    torch.manual_seed(0)
    datamodule, module, trainer = build(cfg)
    trainer.fit(module, datamodule, weights_only=True)
    return module, trainer


def test_training_with_images_on_the_device_gives_the_same_weights(compose, folder, tmp_path, monkeypatch):
    loaded, _ = trained(compose, folder, tmp_path / "loaded")
    batches, original = [], DeviceCrops.batch
    monkeypatch.setattr(DeviceCrops, "batch", lambda self, keys: batches.append(keys) or original(self, keys))
    resident, trainer = trained(compose, folder, tmp_path / "resident", "data.on_device=true")
    assert trainer.global_step == 6
    assert [{epoch for epoch, _ in keys} for keys in batches] == [{0}] * 4 + [{1}] * 2
    weights = zip(loaded.state_dict().values(), resident.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


def test_images_that_do_not_fit_the_device_are_refused(compose, folder, monkeypatch):
    data = module(compose, "data=folder", f"data.path={folder}", "data.on_device=true")
    size = 6 * 40 * 56 * 3
    monkeypatch.setattr(crops, "available_memory", lambda: size)
    data.train_dataloader()
    monkeypatch.setattr(crops, "available_memory", lambda: size - 1)
    with pytest.raises(DataError, match=f"data.on_device=true: .*{size:,} bytes.*{size - 1:,} .*data.on_device=false"):
        data.train_dataloader()
    monkeypatch.undo()
    assert 10**8 < crops.available_memory() < 10**14


# --- seeds ---------------------------------------------------------------------------------------------------------


def test_training_batches_are_the_same_with_0_1_and_2_workers(compose):
    batches = [
        training_batches(module(compose, "data.crops_per_image=4", f"data.num_workers={workers}"), epoch=3)
        for workers in (0, 1, 2)
    ]
    assert len(batches[0]) == 5
    for other in batches[1:]:
        for a, b in zip(batches[0], other, strict=True):
            assert torch.equal(a["clean"], b["clean"])
            assert torch.equal(a["noisy"], b["noisy"])
    again = training_batches(module(compose, "data.crops_per_image=4", "seed=1"), epoch=3)
    assert not torch.equal(again[0]["clean"], batches[0][0]["clean"])


def test_no_two_micro_batches_repeat_their_noise(compose):
    data, clean = module(compose), torch.full((2, 1, 16, 16), 0.5)
    fields = [data.corrupt_training(clean, index)["noisy"] for index in range(6)]
    assert len({field.sum().item() for field in fields}) == 6
    assert torch.equal(module(compose).corrupt_training(clean, 4)["noisy"], fields[4])
    assert not torch.equal(module(compose, "seed=1").corrupt_training(clean, 0)["noisy"], fields[0])


def test_a_restored_count_goes_on_and_with_other_epochs_at_the_next(compose):
    data = module(compose, "data.crops_per_image=4")
    data.micro_batches = 7
    same, longer = module(compose, "data.crops_per_image=4"), module(compose, "data.crops_per_image=8")
    for restored, count in ((same, 7), (longer, 2 * 10)):
        restored.load_state_dict(data.state_dict())
        assert restored.micro_batches == count


def test_ranks_draw_unrelated_noise():
    drawn = {seeds.derive(0, count, rank) for count in range(50) for rank in range(4)}
    assert len(drawn) == 200
    assert seeds.derive(0, 1) != seeds.derive(1, 0)


def test_content_is_of_values_and_shape():
    image = torch.rand(1, 4, 6)
    assert seeds.content(image) == seeds.content(image.clone())
    assert seeds.content(image) != seeds.content(image.reshape(1, 6, 4))
    assert seeds.content(image) != seeds.content(image + 1e-6)


def test_evaluation_noise_ignores_batch_size_and_training_seed(compose):
    def noisy(*overrides):
        data = module(compose, *overrides)
        return [data.on_after_batch_transfer(batch, 0)["noisy"] for batch in data.val_dataloader()]

    reference = noisy("channels=3")
    for overrides in (["seed=5"], ["data.batch_size=2"], ["data.num_workers=2"]):
        assert all(torch.equal(a, b) for a, b in zip(reference, noisy("channels=3", *overrides), strict=True))
    assert not torch.equal(reference[0], noisy("channels=3", "eval_seed=1")[0])
    # one image or several at a time
    data = module(compose)
    two = torch.rand(2, 1, 20, 20)
    first = [0, 0]
    together = data.on_after_batch_transfer({"clean": two, "realisation": first}, 0)["noisy"]
    alone = data.on_after_batch_transfer({"clean": two[1:], "realisation": first[1:]}, 0)["noisy"]
    assert torch.equal(together[1:], alone)


def test_pairs_bring_their_own_noise(compose, tmp_path):
    random = np.random.default_rng(0)
    for name in range(6):
        clean = random.integers(60, 196, (32, 32, 3), dtype=np.uint8)
        for kind, pixels in (("clean", clean), ("noisy", clean + random.integers(-9, 9, clean.shape).astype(np.int8))):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / kind / f"{name}.png")
    place = [f"data.noisy={tmp_path / 'noisy'}", f"data.clean={tmp_path / 'clean'}", "data=pairs"]
    data = module(compose, *place, "noise=none")
    batch = data.on_after_batch_transfer(next(iter(data.test_dataloader())), 0)
    assert not torch.equal(batch["noisy"], batch["clean"])
    difference = (batch["noisy"] - batch["clean"]).square().mean().sqrt()
    torch.testing.assert_close(batch["level"].flatten(), difference[None])
    with pytest.raises(Exception, match="noise=none"):
        module(compose, *place)
    with pytest.raises(Exception, match="the same directory"):
        module(
            compose, "data=pairs", "noise=none", f"data.noisy={tmp_path / 'clean'}", f"data.clean={tmp_path / 'clean'}"
        )
    (tmp_path / "noisy" / "3.png").unlink()
    with pytest.raises(Exception, match=r"3\.png: no noisy partner"):
        module(compose, *place, "noise=none")


# --- bad data ------------------------------------------------------------------------------------------------------


def damage(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def test_bad_headers_and_undecodable_files_are_named_at_once(compose, folder):
    (folder / "b" / "0.png").write_bytes(b"not a picture")
    (folder / "a" / "1.png").write_bytes(b"")
    with pytest.raises(Exception, match=r"2 of 8 files") as error:
        module(compose, "data=folder", f"data.path={folder}")
    assert "0.png" in str(error.value.__cause__)
    assert "1.png" in str(error.value.__cause__)
    for name in ("b/0.png", "a/1.png"):
        Image.new("RGB", (40, 40)).save(folder / name)
    damage(folder / "a" / "3.png", 0.6)
    damage(folder / "b" / "4.png", 0.6)
    with pytest.raises(DataError, match=r"2 of 8 files.*\n.*(3|4)\.png.*\n.*(3|4)\.png"):
        module(compose, "data=folder", f"data.path={folder}")


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["data.patch_size=48"], "smaller than 48×48.*neither padded nor skipped"),
        (["data.batch_size=1000"], "data.batch_size=1000 is more than an epoch holds"),
        (["data.crops_per_image=0"], "data.crops_per_image=0"),
        (["data.fractions=[0.5,0.5,0.5]"], "add up to 1"),
        (["seed=-1"], "seed=-1"),
        (["data.train=x"], "either data.path"),
        (["data.path=null"], "data.path=DIR"),
        (["data.path=null", "data.train=x"], "data.val and data.test"),
        (["data.path=/nowhere"], "no such directory: /nowhere"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_remedy(compose, folder, overrides, named):
    with pytest.raises(Exception, match=r"(?s)" + named):
        module(compose, "data=folder", f"data.path={folder}", *overrides)


def test_grey_images_never_become_colour(compose, folder):
    Image.new("L", (40, 40)).save(folder / "grey.png")
    with pytest.raises(Exception, match=r"(?s)channels=3.*1 of 9 images are grey.*channels=1.*grey\.png"):
        module(compose, "data=folder", f"data.path={folder}")
    assert module(compose, "data=folder", f"data.path={folder}", "channels=1").channels == 1
