"""Training that ends when validation gets no better: when, why, and after it is resumed."""

import pytest
from command_line import call
from torture import make_pictures

import train
from denoisers import checkpoint
from experiments.early_stopping import Patience


@pytest.fixture
def small(tmp_path):
    """An epoch of six steps that learn next to nothing."""
    make_pictures(tmp_path / "pictures", side=20)
    data = [
        "data=folder",
        f"data.path={tmp_path / 'pictures'}",
        "channels=1",
        "data.patch_size=12",
        "data.batch_size=4",
    ]
    model = ["model=dncnn", "model.num_features=4", "model.num_layers=3", "trainer=cpu", "optimizer.lr=1e-9"]
    quiet = ["~callbacks.progress", "~callbacks.strips", "~callbacks.card", "trainer.enable_progress_bar=false"]
    stopping = [
        "callbacks=early_stopping",
        "callbacks.early_stopping.patience=2",
        "callbacks.early_stopping.min_delta=3",
    ]
    return [*data, *model, *quiet, *stopping, "data.crops_per_image=6", f"run_dir={tmp_path / 'r'}"]


def step(tmp_path):
    return checkpoint.read(tmp_path / "r" / "checkpoints" / "last.ckpt")["global_step"]


def test_it_ends_says_why_and_stays_ended(monkeypatch, capfd, small, tmp_path):
    why = "training ended at step 18: val/psnr has not come 3 beyond"
    code, printed = call(monkeypatch, capfd, train.main, *small, "trainer.max_epochs=9")
    assert code == 0, printed
    assert why in printed
    assert "in 2 validations" in printed
    assert step(tmp_path) == 18
    code, printed = call(monkeypatch, capfd, train.main, f"resume={tmp_path / 'r'}")
    assert code == 0, printed
    assert why in printed
    assert step(tmp_path) == 18
    more = ["callbacks.early_stopping.patience=3", "resume_force=true"]
    code, printed = call(monkeypatch, capfd, train.main, f"resume={tmp_path / 'r'}", *more)
    assert code == 0, printed
    assert "training ended at step 24" in printed
    assert step(tmp_path) == 24


def test_a_run_that_comes_to_its_end_says_so(monkeypatch, capfd, small, tmp_path):
    """In the middle of an epoch, whose last step is validated."""
    code, printed = call(
        monkeypatch, capfd, train.main, *small, "trainer.max_steps=8", "callbacks=[ema,early_stopping]"
    )
    assert code == 0, printed
    assert "training ended at step 8: it has made all its steps" in printed
    assert "step 8  train/loss" in printed


@pytest.mark.parametrize(("options", "said"), [({"patience": 0}, "patience=0"), ({"min_delta": -1}, "min_delta=-1")])
def test_impossible_values_are_named(options, said):
    with pytest.raises(ValueError, match=said):
        Patience("val/psnr", **({"patience": 3, "min_delta": 0, "mode": "max"} | options))
