"""A run that is stopped anywhere and resumed ends as if it had never been stopped."""

import contextlib
import csv
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import BRIEF, ROOT, choices
from torture import SAME, TRAIN, finish, make_pictures, start, state, torture

import train
from denoisers import checkpoint
from denoisers.checkpoint import CheckpointError
from experiments import resume
from experiments.checkpoints import WholeCheckpoints
from experiments.signals import Interrupted, signals


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Six small pictures, four of them for training: an epoch of six batches."""
    folder = tmp_path_factory.mktemp("small")
    make_pictures(folder, side=20)
    return [*BRIEF, f"data.path={folder}", "callbacks.last.every_n_steps=2"]


class Stop(L.Callback):
    """Stops a run at a micro-batch, at a validation image, or at the end: by a signal, or like a crash."""

    def __init__(self, where, how):
        self.where, self.how, self.seen = where, how, 0

    def reach(self, where):
        if self.where == where:
            if self.how == "crash":
                raise ZeroDivisionError
            os.kill(os.getpid(), self.how)

    def on_train_batch_end(self, trainer, *_):
        self.reach(("step", trainer.fit_loop.epoch_loop.batch_progress.total.processed))

    def on_validation_start(self, trainer, *_):
        self.seen += 1

    def on_validation_batch_end(self, *_):
        self.reach(("validation", self.seen))


def build(compose, folder, overrides, **kwargs):
    cfg = compose(*overrides, f"run_dir={folder}")
    train.free_the_other_budget(cfg, overrides)
    L.seed_everything(cfg.seed, verbose=False)
    return train.build(cfg)


def fit(compose, folder, overrides, stop=None):
    """Trains, from the run's newest checkpoint if it has one; ``stop`` is (where, how)."""
    datamodule, module, trainer = build(compose, folder, overrides)
    if stop:
        trainer.callbacks.insert(1, Stop(*stop))
    with signals.handled():
        trainer.fit(module, datamodule, ckpt_path=resume.newest(folder), weights_only=True)
    return trainer


def assert_same(a, b, path="checkpoint"):
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert list(a) == list(b), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{index}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


def check(compose, tmp_path, overrides, stops):
    """A run stopped at each place in turn, and resumed, ends like one that is left alone."""
    fit(compose, tmp_path / "whole", overrides)
    for stop in stops:
        with pytest.raises((ZeroDivisionError, Interrupted)):
            fit(compose, tmp_path / "stopped", overrides, stop)
    fit(compose, tmp_path / "stopped", overrides)
    for one, other in zip(state(tmp_path / "whole"), state(tmp_path / "stopped"), strict=True):
        assert_same(one, other)


@pytest.mark.parametrize(
    ("accumulate", "how"),
    [
        (4, signal.SIGTERM),
        pytest.param(1, "crash", marks=pytest.mark.slow),
        pytest.param(1, signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(4, "crash", marks=pytest.mark.slow),
    ],
)
def test_a_run_stopped_at_any_micro_batch_ends_the_same(compose, small, tmp_path, accumulate, how):
    overrides = [*small, f"trainer.accumulate_grad_batches={accumulate}", "trainer.max_epochs=3", "callbacks=ema"]
    check(compose, tmp_path, overrides, [(("step", micro), how) for micro in range(1, 18)])


PLACES = [
    (("step", 4), signal.SIGINT),
    (("step", 9), "crash"),
    (("validation", 1), "crash"),
    (("validation", 1), signal.SIGTERM),
]


@pytest.mark.parametrize(
    "objective",
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "adversarial")) for name in choices("objective")],
)
def test_every_objective_goes_on_exactly(compose, small, tmp_path, objective, teacher):
    more = [f"objective={objective}", "trainer.accumulate_grad_batches=2", "trainer.max_steps=9", "callbacks=ema"]
    more += [f"objective.teacher={teacher[0]}"] * (objective == "distill")
    check(compose, tmp_path, [*small, *more], PLACES[1:3])


QUICK = ("plateau", "cosine_warmup")  # counted in epochs, and in steps


@pytest.mark.parametrize(
    "scheduler",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in choices("scheduler")],
)
def test_every_schedule_goes_on_exactly(compose, small, tmp_path, scheduler):
    number = choices("scheduler").index(scheduler)
    accumulate = 4 if number % 4 < 2 else 1
    varied = [
        "callbacks=ema" if number % 2 else "callbacks=default",
        f"trainer.accumulate_grad_batches={accumulate}",
        f"data.num_workers={2 if number % 3 == 0 else 0}",
        f"optimizer={choices('optimizer')[number % 3]}",
        f"trainer.max_steps={15 // accumulate + 1}" if number % 2 else "trainer.max_epochs=3",
    ]
    check(compose, tmp_path, [*small, f"scheduler={scheduler}", *varied], PLACES)


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.max_steps=15", "scheduler=plateau", "scheduler.build.patience=0", "scheduler.build.mode=min"],
        ["trainer.max_epochs=3", "+trainer.val_check_interval=0.5", "callbacks=ema"],
        ["trainer.max_epochs=4", "trainer.check_val_every_n_epoch=2", "scheduler=step"],
        ["trainer.max_steps=14", "+trainer.limit_train_batches=4", "model=unet"],
        ["trainer.max_steps=14", "data.num_workers=2", "noise=gaussian", "model.activation=xunit"],
        ["trainer.max_steps=13", "model._target_=odd_networks.Dropout", "callbacks=ema"],
        ["trainer.max_steps=15", "data.progressive=[[0,8,4],[0.2,12,6],[0.6,20,3]]", "data.num_workers=2"],
        ["trainer.accumulate_grad_batches=4", "data.progressive=[[0,8,4],[0.3,12,2]]", "trainer.max_epochs=3"],
        ["trainer.max_steps=14", "freeze=[body.2.*,body.3.*]", "optimizer.decay_norms_and_biases=false"],
        ["callbacks=early_stopping", "callbacks.early_stopping.min_delta=9", "callbacks.early_stopping.patience=2"],
        ["data.on_device=true", "data.progressive=[[0,8,4],[0.3,12,2]]", "trainer.max_epochs=3"],
    ],
    ids=lambda overrides: overrides[1],
)
def test_every_rhythm_goes_on_exactly(compose, small, tmp_path, overrides):
    check(compose, tmp_path, [*small, *overrides], PLACES)


@pytest.mark.parametrize("how", ["crash", signal.SIGTERM])
def test_a_stop_in_the_last_validation_repeats_it(compose, small, tmp_path, how):
    check(compose, tmp_path, [*small, "trainer.max_steps=13"], [(("validation", 3), how)])
    assert (tmp_path / "stopped" / "checkpoints" / "best.ckpt").exists()


def test_a_damaged_checkpoint_never_becomes_the_one_before(compose, small, tmp_path):
    overrides = [*small, "trainer.max_steps=13"]
    fit(compose, tmp_path / "whole", overrides)
    with pytest.raises(ZeroDivisionError):
        fit(compose, tmp_path / "r", overrides, (("step", 10), "crash"))
    last, previous = (tmp_path / "r" / "checkpoints" / f"{name}.ckpt" for name in ("last", "previous"))
    damaged = bytearray(last.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    last.write_bytes(damaged)
    whole = previous.read_bytes()
    with pytest.raises(ZeroDivisionError):
        fit(compose, tmp_path / "r", overrides, (("step", 9), "crash"))
    assert checkpoint.read(last)["global_step"] == 8
    assert previous.read_bytes() == whole
    fit(compose, tmp_path / "r", overrides)
    for one, other in zip(state(tmp_path / "whole"), state(tmp_path / "r"), strict=True):
        assert_same(one, other)


def test_a_checkpoint_written_by_halves_is_either_the_old_or_the_new(tmp_path, monkeypatch):
    """Whatever the last thing was that reached the disk, what lies there matches its checksum."""
    path, writer = tmp_path / "last.ckpt", WholeCheckpoints()
    contents = [{"record": {"config": {"model": {}, "channels": 1}}, "state_dict": {}, "n": n} for n in range(3)]
    replace, left = os.replace, 10**9

    def until_killed(*paths):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        replace(*paths)

    monkeypatch.setattr(os, "replace", until_killed)
    writer.save_checkpoint(contents[0], path)
    for steps in range(4):
        left = steps
        with contextlib.suppress(KeyboardInterrupt):
            writer.save_checkpoint(contents[1], path)
            assert steps == 3
        assert checkpoint.read(path)["n"] == (1 if steps > 1 else 0)
        left = 10**9
        writer.save_checkpoint(contents[0], path)
        assert checkpoint.read(path)["n"] == 0


# --- the command itself -------------------------------------------------------------------------------------------


def wait_for(run_dir, steps, process):
    """Returns when a run has logged so many steps."""
    for _ in range(1200):
        metrics = run_dir / "metrics.csv"
        if metrics.exists() and len(metrics.read_text().splitlines()) > 2 * steps:
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    raise TimeoutError


def children_of(session):
    """The processes of a session that still live (Linux)."""
    living = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state_letter, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state_letter != "Z":
                living.append(path.parent.name)
    return living


@pytest.mark.parametrize(
    ("number", "code", "to_all"),
    [
        pytest.param(signal.SIGINT, 130, True, id="ctrl-c"),
        pytest.param(signal.SIGTERM, 143, False, id="kill", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, True, id="timeout", marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, 138, False, id="slurm", marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_and_ends_the_command_within_a_step(small, tmp_path, number, code, to_all):
    run_dir = tmp_path / "r"
    arguments = [*small, "trainer.max_steps=100000", "data.num_workers=1", "callbacks.last.every_n_steps=1000000"]
    process = start(*arguments, "data.crops_per_image=1000", f"run_dir={run_dir}")
    wait_for(run_dir, 4, process)
    os.killpg(process.pid, number) if to_all else process.send_signal(number)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == code, printed
    step = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert f"stopped by {signal.Signals(number).name} at step {step}; go on with: python train.py resume=" in printed
    assert "Traceback" not in printed
    logged = [int(row["step"]) for row in csv.DictReader((run_dir / "metrics.csv").open()) if row["train/loss"]]
    assert logged == list(range(step))
    assert not children_of(process.pid)
    assert sorted(p.name for p in run_dir.glob("checkpoints/*")) == ["last.ckpt", "last.ckpt.sha256"]


def test_a_second_signal_ends_the_command_at_once(small, tmp_path):
    run_dir = tmp_path / "r"
    arguments = [*small, "trainer.max_steps=100000", "data.num_workers=2", "data.crops_per_image=1000"]
    process = start(*arguments, "model._target_=odd_networks.Endless", f"run_dir={run_dir}")
    wait_for(run_dir, 5, process)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert process.poll() is None  # it waits for the end of a step that never ends
    for worker in {int(pid) for pid in children_of(process.pid)} - {process.pid}:
        os.kill(worker, signal.SIGSTOP)  # nor may one outlive it that cannot notice
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=5)
    assert process.returncode == -signal.SIGTERM
    time.sleep(0.2)
    assert not children_of(process.pid)
    assert resume.newest(run_dir) == run_dir / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_command_killed_and_resumed_ends_like_one_left_alone(small, tmp_path, number):
    arguments = [*small, "trainer.max_steps=60", "data.crops_per_image=50", "callbacks.last.every_n_steps=7"]
    whole = start(*arguments, f"run_dir={tmp_path / 'whole'}")
    killed = start(*arguments, f"run_dir={tmp_path / 'killed'}")
    wait_for(tmp_path / "killed", 12, killed)
    killed.send_signal(number)
    killed.communicate()
    for process in (whole, start(f"resume={tmp_path / 'killed'}")):
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 0, printed
    for one, other in zip(state(tmp_path / "whole"), state(tmp_path / "killed"), strict=True):
        assert_same(one, other)
    assert not list(tmp_path.rglob(".*.part*"))


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on_exactly(small, tmp_path):
    ranks = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "callbacks=ema"]
    arguments = [*(a for a in small if a != "trainer=cpu"), *ranks, "trainer.max_steps=60", "data.crops_per_image=100"]
    code, printed = finish(start(*arguments, f"run_dir={tmp_path / 'whole'}", OMP_NUM_THREADS="1"))
    assert code == 0, printed
    stopped = start(*arguments, f"run_dir={tmp_path / 'r'}", OMP_NUM_THREADS="1")
    wait_for(tmp_path / "r", 8, stopped)
    stopped.send_signal(signal.SIGTERM)
    code, printed = finish(stopped)
    assert code == 143, printed
    assert printed.count("stopped by SIGTERM at step ") == 1
    assert not children_of(stopped.pid)
    code, printed = finish(start(f"resume={tmp_path / 'r'}", OMP_NUM_THREADS="1"))
    assert code == 0, printed
    for one, other in zip(state(tmp_path / "whole"), state(tmp_path / "r"), strict=True):
        assert_same(one, other)


@pytest.mark.slow
def test_kills_within_a_write_and_at_any_moment(tmp_path):
    assert torture(2, 1, TRAIN, tmp_path)[SAME] == 2


# --- numbers and disks that fail ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "named"),
    [("BadGradient", "the gradient is"), pytest.param("BadLoss", "the training loss is nan", marks=pytest.mark.slow)],
)
def test_a_number_that_is_not_finite_ends_the_run_before_it_is_learned_from(small, tmp_path, capfd, network, named):
    run_dir = tmp_path / "r"
    process = start(*small, f"model._target_=odd_networks.{network}", "trainer.max_steps=6", f"run_dir={run_dir}")
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 2, printed
    assert f"error: step 3: {named}" in printed
    assert "; files: " in printed
    assert any(f"{index}" in printed.split("; files: ")[1].split("\n")[0] for index in range(6))
    assert f"the last good checkpoint is {run_dir / 'checkpoints' / 'last.ckpt'}" in printed
    assert "Traceback" not in printed
    saved = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2
    assert all(value.isfinite().all() for value in saved["state_dict"].values())
    assert not (run_dir / "checkpoints" / "best.ckpt").exists()


def test_a_disk_that_takes_no_checkpoint_is_found_before_the_first_step(small, tmp_path):
    command = [sys.executable, "train.py", *small, "model.num_features=32", f"run_dir={tmp_path / 'r'}"]
    limited = ["sh", "-c", 'ulimit -f 16; exec "$@"', "sh", *command]
    process = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert process.returncode == 2, process.stderr
    assert "trial.ckpt cannot be written (File too large)" in process.stderr
    assert "bytes, " in process.stderr
    assert not (tmp_path / "r" / "metrics.csv").exists()
    assert not [path for path in (tmp_path / "r" / "checkpoints").iterdir() if path.suffix != ".sha256"]


def test_too_little_space_is_found_before_the_first_step(compose, small, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 100_000))
    with pytest.raises(
        CheckpointError, match=r"last\.ckpt cannot be written \(too little space\): it needs .*100,000 are free"
    ):
        fit(compose, tmp_path / "r", small)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_disk_that_fills_later_keeps_the_checkpoint_before(compose, small, tmp_path, monkeypatch):
    class Full(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 5:
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))

    datamodule, module, trainer = build(compose, tmp_path / "r", [*small, "trainer.max_steps=20"])
    trainer.callbacks.append(Full())
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(
            CheckpointError, match=r"last\.ckpt cannot be written \(File too large\): it needs [\d,]+ bytes"
        ):
            trainer.fit(module, datamodule)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    checkpoints = tmp_path / "r" / "checkpoints"
    assert checkpoint.read(checkpoints / "last.ckpt")["global_step"] == 4
    assert resume.newest(tmp_path / "r") == checkpoints / "last.ckpt"
    assert not list(tmp_path.rglob(".*"))
