"""Progressive patches and batches: which crops each step sees, in a loader or on the device, and what is refused."""

import itertools
import re

import numpy as np
import pytest
import torch
from torture import make_pictures

import train
from datamodules.datasets import Stream
from datamodules.images import DataError
from datamodules.progressive import Stage, StagedStream, first_batches, stages, steps_of

THREE = "data.progressive=[[0,8,4],[0.5,12,3],[0.75,16,2]]"


@pytest.fixture
def small(tmp_path):
    """Six small pictures, four of them for training: an epoch of six batches of the first stage."""
    make_pictures(tmp_path / "pictures", side=20)
    data = ["data=folder", f"data.path={tmp_path / 'pictures'}", "channels=1", "data.crops_per_image=6"]
    model = ["model=dncnn", "model.num_features=4", "model.num_layers=3", "trainer=cpu"]
    return [*data, *model, "~callbacks.progress", "~callbacks.strips", "trainer.enable_progress_bar=false"]


def seen(compose, folder, *overrides):
    """The clean crops of each micro-batch of a run, and the module after it."""
    cfg = compose(*overrides, f"run_dir={folder}")
    train.free_the_other_budget(cfg, list(overrides))
    torch.manual_seed(0)
    datamodule, module, trainer = train.build(cfg)
    batches, corrupt = [], datamodule.corrupt_training

    def spy(clean, index):
        batches.append(clean.clone())
        return corrupt(clean, index)

    datamodule.corrupt_training = spy
    trainer.fit(module, datamodule)
    return batches, module


def test_sizes_change_at_their_shares_of_the_run(compose, small, tmp_path, capfd):
    batches, _ = seen(compose, tmp_path / "r", *small, THREE, "trainer.max_steps=20")
    shapes = [tuple(batch.shape) for batch in batches]
    assert shapes == [(4, 1, 8, 8)] * 10 + [(3, 1, 12, 12)] * 5 + [(2, 1, 16, 16)] * 5
    card = capfd.readouterr().out
    assert "20, 3.3 epochs, 4 validations" in card
    for line in ("stage 1       10 steps of 4 crops 8×8", "stage 3       5 steps of 2 crops 16×16"):
        assert line in card


def test_stages_change_between_optimiser_steps(compose, small, tmp_path):
    overrides = [THREE, "trainer.max_epochs=2", "trainer.accumulate_grad_batches=4"]  # an epoch: steps of 4 and 2
    batches, _ = seen(compose, tmp_path / "r", *small, *overrides)
    assert [len(batch) for batch in batches] == [4] * 6 + [3] * 4 + [2] * 2


@pytest.mark.parametrize("how", ["data.num_workers=2", "data.on_device=true"])
def test_workers_and_the_device_make_the_same_crops(compose, small, tmp_path, how):
    run = [*small, THREE, "trainer.max_steps=13", "~callbacks.card"]
    one, first = seen(compose, tmp_path / "a", *run)
    other, second = seen(compose, tmp_path / "b", *run, how)
    assert len(one) == len(other) == 13
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    for key, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[key]), key


def test_one_stage_is_the_run_without(compose, small, tmp_path):
    run = [*small, "trainer.max_steps=8", "~callbacks.card"]
    one, _ = seen(compose, tmp_path / "a", *run, "data.progressive=[[0,12,4]]")
    other, _ = seen(compose, tmp_path / "b", *run, "data.patch_size=12", "data.batch_size=4")
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def streams(batch_sizes, first, position):
    def of(size):
        return lambda position: Stream(24, batch_size=size, seed=3, rank=1, world_size=2, position=position)

    return StagedStream([of(size) for size in batch_sizes], first=first, position=lambda: position)


def test_a_stream_goes_on_from_any_batch_and_repeats_no_crop_within_a_pass():
    whole = list(itertools.islice(streams([4, 5, 2], [0, 7, 9], 0), 25))
    for position in range(25):
        assert list(itertools.islice(streams([4, 5, 2], [0, 7, 9], position), 25 - position)) == whole[position:]
    keys = [key for batch in whole for key in batch]
    assert len({(turn, index) for _, turn, index in keys}) == len(keys)
    assert [turn for batch in whole for _, turn, _ in batch[:1]] == sorted(turn for b in whole for _, turn, _ in b[:1])
    assert [stage for batch in whole for stage, _, _ in batch[:1]] == [0] * 7 + [1] * 2 + [2] * 16


@pytest.mark.parametrize(("batches", "accumulate"), [(6, 1), (6, 4), (7, 3), (5, 8)])
def test_a_stage_begins_with_the_step_that_its_share_says(batches, accumulate):
    """Against counting micro-batch by micro-batch."""
    shares, steps = [0, 0.31, 0.5, 0.9], 20
    begins, step, micro = {}, 0, 0
    while step <= steps:
        begins.setdefault(step, micro)
        micro += 1
        within = (micro - 1) % batches + 1
        step += within % accumulate == 0 or within == batches
    assert first_batches(shares, steps, batches, accumulate) == [begins[round(s * steps)] for s in shares]


def test_steps_that_are_left():
    three = [Stage(0, 8, 4), Stage(0.5, 12, 3), Stage(0.75, 16, 2)]
    assert steps_of(three, 20) == [10, 5, 5]
    assert steps_of(three, 20, done=12) == [0, 3, 5]
    assert steps_of(three[:1], 7, done=3) == [4]


@pytest.mark.parametrize(
    ("progressive", "said"),
    [
        ([], "must be a list of [share of the run, patch size, batch size]"),
        ([[0.1, 8, 4]], "must rise from 0"),
        ([[0, 8, 4], [0.5, 12, 4], [0.5, 16, 4]], "must rise from 0"),
        ([[0, 8, 4], [1, 12, 4]], "stay below 1"),
        ([[0, 0, 4]], "whole numbers from 1"),
    ],
)
def test_impossible_stages_are_named(progressive, said):
    with pytest.raises(DataError, match=re.escape(said)):
        stages(progressive)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.progressive=[[0,8,4],[0.5,24,4]]", "smaller than 24×24 pixels.*lower the patches of data.progressive"),
        ("data.progressive=[[0,8,4],[0.5,12,25]]", "a batch of data.progressive=25 is more than an epoch holds"),
    ],
)
def test_stages_that_the_images_do_not_fill_are_refused_when_built(compose, small, override, said):
    with pytest.raises(Exception, match=said) as caught:
        train.build(compose(*small, override))
    assert isinstance(caught.value.__cause__, DataError)


def test_crops_of_a_stage_are_those_of_its_patch_size(compose, small):
    datamodule, _, trainer = train.build(compose(*small, THREE))
    datamodule.trainer = trainer
    datamodule.setup("fit")
    crops = next(crops for crops in datamodule.train_dataloader().dataset.crops if crops.patch_size == 16)
    crop = crops[5, 3]["clean"]
    ((number, top, left, turn, flip),) = crops.draw((5, 3))
    image = datamodule._decoded["train"][number][0][top : top + 16, left : left + 16]
    image = np.rot90(image, turn)
    expected = torch.from_numpy((image[:, ::-1] if flip else image).copy()).permute(2, 0, 1) / 255
    assert torch.equal(crop, expected)
