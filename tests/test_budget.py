"""budget=SECONDS: a run as long as the machine can make it, and the same again from its number of steps."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from command_line import call
from omegaconf import OmegaConf
from PIL import Image

import train
from experiments import budget
from experiments.budget import Budget, parse
from experiments.find import Trial


@pytest.fixture
def small(tmp_path):
    """Pictures, and a network so small that hundreds of steps take seconds."""
    (tmp_path / "pictures").mkdir()
    for index in range(6):
        pixels = np.random.default_rng(index).integers(0, 255, (24, 24), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{index}.png")
    data = ["data=folder", f"data.path={tmp_path / 'pictures'}", "data.patch_size=12", "data.batch_size=4"]
    model = ["model=simple_cnn", "model.num_layers=2", "model.num_features=4", "channels=1", "trainer=cpu"]
    return [*data, *model, "data.crops_per_image=1000", "~callbacks.progress", "~callbacks.card", "~callbacks.strips"]


def test_a_budget_is_kept_and_its_steps_give_the_same_run_again(monkeypatch, capfd, small, tmp_path):
    asked = [*small, "trainer.enable_progress_bar=false"]
    code, printed = call(monkeypatch, capfd, train.main, *asked, "budget=6", f"run_dir={tmp_path / 'a'}")
    assert code == 0, printed
    steps = OmegaConf.load(tmp_path / "a" / "config.yaml").trainer.max_steps
    assert 10 < steps < 100_000
    code, printed = call(
        monkeypatch, capfd, train.main, *asked, f"trainer.max_steps={steps}", f"run_dir={tmp_path / 'b'}"
    )
    assert code == 0, printed
    one, other = (torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in "ab")
    assert one["global_step"] == other["global_step"] == steps
    for key, tensor in one["state_dict"].items():
        assert torch.equal(tensor, other["state_dict"][key]), key  # what was learnt while measuring is forgotten


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (90, Budget(90)),
        ("90s", Budget(90)),
        ("1.5min", Budget(90)),
        ("2h", Budget(7200)),
        ("1gpu_1h", Budget(3600, 1, "gpu")),
        ("2cpu_30", Budget(30, 2, "cpu")),
    ],
)
def test_times_as_people_write_them(text, expected):
    assert parse(text) == expected


def test_the_plan_comes_first_and_every_stage_is_measured(monkeypatch, capfd, small, tmp_path):
    progressive = "data.progressive=[[0,8,8],[0.5,12,4],[0.75,16,2]]"
    original = budget.plan
    monkeypatch.setattr(budget, "AT_MOST", 0.3)
    monkeypatch.setattr(budget, "plan", lambda *args: replace(original(*args), steps=8))  # not an hour of them
    arguments = [*small, "trainer.enable_progress_bar=false", "budget=1h", progressive, f"run_dir={tmp_path / 'r'}"]
    code, printed = call(monkeypatch, capfd, train.main, *arguments)
    assert code == 0, printed
    card, _, rest = printed.partition("╰")
    for line in (
        "budget 1h",
        "of 8 crops 8×8 at first",
        "from 50%",
        "of 4 crops 12×12",
        "of 2 crops 16×16",
        "expected at",
    ):
        assert line in card
    assert "step " not in card.replace("per step", "")
    assert OmegaConf.load(tmp_path / "r" / "config.yaml").trainer.max_steps == 8
    assert "step 8  train/loss" in rest


def test_a_plan_counts_each_stage_by_its_share(compose, monkeypatch, small, tmp_path):
    cfg = compose(*small, "budget=1h", "data.progressive=[[0,8,8],[0.5,12,4]]", f"run_dir={tmp_path}")
    datamodule, module, _ = train.build(cfg)
    datamodule.setup("fit")

    class Trainer:
        num_training_batches, accumulate_grad_batches, world_size = 10**9, 1, 1

    measured = {8: 0.1, 12: 0.3}
    monkeypatch.setattr(budget, "pace", lambda *_, patch_size, **__: (measured[patch_size], Trainer()))
    planned = budget.plan(cfg, module, datamodule, time.monotonic())
    assert planned.per_step == [0.1, 0.3]
    assert planned.steps == pytest.approx(0.96 * 3600 / 0.2, rel=0.01)


def test_the_batch_may_be_chosen_by_throughput(compose, monkeypatch, small, tmp_path):
    cfg = compose(*small, "budget=1h", "budget_batch=auto", f"run_dir={tmp_path}")
    datamodule, module, _ = train.build(cfg)
    found = [Trial(1, 0.1, 10.0), Trial(2, 0.1, 20.0), Trial(4, 0.1, 38.5), Trial(8, 0.2, 40.0)]
    for trials, chosen in (([], 4), (found[:2], 2), (found, 4), ([*found, Trial(16, 0.2, 80.0)], 16)):
        monkeypatch.setattr(budget, "batch_sizes", lambda *_, trials=trials, **__: trials)
        cfg.data.batch_size = 4
        budget.choose_batch(cfg, module, datamodule, 100.0)
        assert cfg.data.batch_size == chosen


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["budget=0"], "budget=0: must be a number of seconds above 0"),
        (["budget=soon"], "budget=soon: must be a number of seconds above 0"),
        (["budget=10", "trainer.max_steps=5"], "budget=10 and trainer.max_steps=5 both say how long the run is"),
        (["budget=10", "trainer=ddp", "trainer.devices=2"], "budget=10 measures one process"),
        (["budget=0.01"], "are gone before the first step"),
        (
            ["budget=10m"],
            "budget=10m: must be a number of seconds above 0, or a time such as 90s, 10min, 2h or 1gpu_1h",
        ),
        (["budget=2gpu_1h"], "budget=2gpu_1h measures one process: leave out trainer=ddp, name one device"),
        (["budget=1gpu_1h"], "names another device than trainer.accelerator=cpu"),
        pytest.param(
            ["budget=1gpu_1h", "trainer=default"],
            "there is no GPU here; give the time alone: budget=1h",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here"),
        ),
        (["budget=10", "budget_batch=64"], "budget_batch=64: must be auto"),
        (["budget=10", "budget_batch=auto", "data.progressive=[[0,8,4],[0.5,12,4]]"], "leave out data.progressive"),
    ],
)
def test_impossible_budgets_are_refused(monkeypatch, capfd, small, tmp_path, arguments, said):
    kept = [one for one in small if not (one == "trainer=cpu" and any(a.startswith("trainer=") for a in arguments))]
    code, printed = call(monkeypatch, capfd, train.main, *kept, *arguments, f"run_dir={tmp_path / 'r'}")
    assert code == 2
    assert said in printed
    assert not (tmp_path / "r" / "config.yaml").exists()
