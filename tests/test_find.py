"""find=lr and find=batch_size: what they suggest, what they leave behind, and where they are refused."""

import re

import pytest
import torch
from command_line import call
from torture import make_pictures

import train
from denoisers.module import DenoisingModule
from experiments import find


@pytest.fixture
def small(tmp_path):
    make_pictures(tmp_path / "pictures", side=20)
    data = [
        "data=folder",
        f"data.path={tmp_path / 'pictures'}",
        "channels=1",
        "data.patch_size=12",
        "data.batch_size=4",
    ]
    model = ["model=dncnn", "model.num_features=4", "model.num_layers=3", "trainer=cpu", "data.crops_per_image=4"]
    return [*data, *model, "trainer.enable_progress_bar=false", "~callbacks.progress", f"run_dir={tmp_path / 'r'}"]


def left(tmp_path):
    return sorted(path.name for path in (tmp_path / "r").rglob("*"))


def test_learning_rates_are_tried_and_drawn(monkeypatch, capfd, small, tmp_path):
    code, printed = call(monkeypatch, capfd, train.main, *small, "find=lr", "data.progressive=[[0,8,4],[0.5,12,4]]")
    assert code == 0, printed
    assert left(tmp_path) == ["find_lr.png", "train.log"]
    tenth, steepest = map(float, re.findall(r"optimizer.lr=(\S+)", printed))
    assert find.LOWEST < steepest < 1
    assert find.LOWEST / 10 < tenth < 1


def test_a_rate_at_which_numbers_are_lost_lowers_the_highest_one(compose, monkeypatch, small):
    datamodule, module, _ = train.build(cfg := compose(*small, "find=lr"))
    datamodule.setup("fit")
    original = DenoisingModule.training_step

    def overflowing(self, batch, index):
        if self.trainer.optimizers[0].param_groups[0]["lr"] > 0.05:
            batch = batch | {"clean": batch["clean"] * torch.inf}
        return original(self, batch, index)

    monkeypatch.setattr(DenoisingModule, "training_step", overflowing)
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    finder = find.learning_rates(cfg, module, datamodule)
    assert finder.lr_max == pytest.approx(0.01)
    assert len(finder.results["lr"]) == find.STEPS
    for key, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[key]), key


def test_batch_sizes_are_tried_up_to_an_epochs_crops(monkeypatch, capfd, small, tmp_path):
    monkeypatch.setattr(find.batch_sizes, "__defaults__", (0.05, float("inf")))
    monkeypatch.setattr(find, "IN_VAIN", 99)
    code, printed = call(monkeypatch, capfd, train.main, *small, "find=batch_size")
    assert code == 0, printed
    sizes = re.findall(r"│ +(\d+) │ +[\d.e+]+ │", printed)
    assert sizes == ["1", "2", "4", "8", "16"]  # four training images, four crops each
    assert re.search(r"best throughput: data.batch_size=(1|2|4|8|16)\n", printed)
    assert left(tmp_path) == ["train.log"]


def pretend(monkeypatch, steps):
    """Paces of batch sizes; a RuntimeError where a step is one."""

    class Trainer:
        accumulate_grad_batches = 1

    def pace(*_, batch_size, **__):
        if isinstance(steps[batch_size], RuntimeError):
            raise steps[batch_size]
        return steps[batch_size], Trainer()

    monkeypatch.setattr(find, "pace", pace)


class Data:
    crops, frames, patch_size = 1000, None, 10


def test_the_smallest_batch_that_is_nearly_as_fast_as_any(monkeypatch):
    pretend(monkeypatch, {1: 1.0, 2: 1.0, 4: 1.0, 8: 1.95, 16: 3.9, 32: 8.0})
    trials = find.batch_sizes(None, None, Data())
    assert [trial.batch_size for trial in trials] == [1, 2, 4, 8, 16]
    assert trials[0] == (1, 1.0, 100.0)
    assert find.fastest(trials).batch_size == 4


def test_memory_ends_the_search(monkeypatch, caplog):
    full = torch.cuda.OutOfMemoryError("CUDA out of memory.")
    pretend(monkeypatch, {1: 1.0, 2: 1.0, 4: full})
    assert [trial.batch_size for trial in find.batch_sizes(None, None, Data())] == [1, 2]
    pretend(monkeypatch, {1: RuntimeError("something else")})
    with pytest.raises(RuntimeError, match="something else"):
        find.batch_sizes(None, None, Data())


def test_without_time_to_compare_nothing_is_found(monkeypatch):
    pretend(monkeypatch, {1: 1.0, 2: 1.0, 4: 1.0})
    assert find.batch_sizes(None, None, Data(), at_most=3.0) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["find=momentum"], "find=momentum: must be lr or batch_size"),
        (["find=lr", "model=median"], "model=median has nothing to train"),
        (["find=lr", "optimizer=muon"], "optimizer=muon has several"),
        (["find=lr", "budget=10"], "find first"),
        (["find=lr", "trainer=ddp", "trainer.devices=2"], "tries one process"),
        (["find=batch_size", "data.progressive=[[0,8,4],[0.5,12,4]]"], "takes one patch size"),
    ],
)
def test_what_cannot_be_found_is_refused(monkeypatch, capfd, small, tmp_path, arguments, said):
    classical = "model=median" in arguments
    kept = [one for one in small if not one.startswith("model") or not classical]
    code, printed = call(monkeypatch, capfd, train.main, *kept, *arguments)
    assert code == 2, printed
    assert said in printed
