"""budget=SECONDS: a run as long as the machine can make it, and the same again from its number of steps."""

import numpy as np
import pytest
import torch
from command_line import call
from omegaconf import OmegaConf
from PIL import Image

import train


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
    ("arguments", "said"),
    [
        (["budget=0"], "budget=0: must be a number of seconds above 0"),
        (["budget=soon"], "budget=soon: must be a number of seconds above 0"),
        (["budget=10", "trainer.max_steps=5"], "budget=10 and trainer.max_steps=5 both say how long the run is"),
        (["budget=10", "trainer=ddp", "trainer.devices=2"], "budget=10 measures one process"),
        (["budget=0.01"], "are gone before the first step"),
    ],
)
def test_impossible_budgets_are_refused(monkeypatch, capfd, small, tmp_path, arguments, said):
    kept = [one for one in small if not (one == "trainer=cpu" and "trainer=ddp" in arguments)]
    code, printed = call(monkeypatch, capfd, train.main, *kept, *arguments, f"run_dir={tmp_path / 'r'}")
    assert code == 2
    assert said in printed
    assert not (tmp_path / "r" / "config.yaml").exists()
