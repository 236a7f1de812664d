"""``slice=9min``: a run ends after that time, and the same command goes on."""

import os
import signal

import pytest
from command_line import call
from conftest import BRIEF
from torture import make_pictures

import train
from experiments.callbacks import Speed
from experiments.signals import Interrupted, signals


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A short training, in a folder of that name."""
    make_pictures(tmp_path / "pictures", side=20)
    monkeypatch.chdir(tmp_path)
    return lambda name, *more: [*BRIEF, "data.path=pictures", "trainer.max_steps=8", f"run_dir={name}", *more]


def test_the_same_command_goes_on_to_the_same_result(job, tmp_path, monkeypatch, capfd):
    lengths, before = [], Speed.on_train_batch_end

    def end_of_slice(self, trainer, *rest):
        before(self, trainer, *rest)
        if trainer.global_step in (3, 5):
            os.kill(os.getpid(), signal.SIGALRM)

    assert call(monkeypatch, capfd, train.main, *job("whole"))[0] == 0
    monkeypatch.setattr(signals, "after", lengths.append)
    monkeypatch.setattr(Speed, "on_train_batch_end", end_of_slice)
    for step in (3, 5):
        code, printed = call(monkeypatch, capfd, train.main, *job("sliced", "slice=9min"))
        assert code == 142
        again = "go on with: python train.py resume=sliced slice=9min"
        assert f"stopped by SIGALRM at step {step}; {again}" in printed
    code, printed = call(monkeypatch, capfd, train.main, *job("sliced", "slice=9min", "optimizer.lr=1"))
    assert code == 2
    assert "optimizer.lr: 0.002 → 1" in printed
    assert call(monkeypatch, capfd, train.main, *job("sliced", "slice=9min"))[0] == 0
    assert lengths == [540.0] * 4
    rows = [(tmp_path / name / "per_image.csv").read_text() for name in ("whole", "sliced")]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("time", ["soon", "1gpu_1h", "-3"])
def test_a_slice_is_a_time(job, monkeypatch, capfd, time):
    code, printed = call(monkeypatch, capfd, train.main, *job("run", f"slice={time}"))
    assert code == 2
    assert f"slice={time}: " in printed


def test_the_alarm_comes_in_time_and_not_after_another_signal():
    with signals.handled():
        signals.after(0.05)
        with pytest.raises(Interrupted, match="SIGALRM"):
            signal.pause()
    with signals.handled():
        signals.after(60)
        with pytest.raises(Interrupted, match="SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
