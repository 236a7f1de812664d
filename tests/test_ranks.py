"""Several processes of one run (trainer=ddp): they learn the same, score as one does, and end together."""

import csv
import json
import os
import signal

import pytest
from command_line import command
from conftest import ROOT
from test_sweep import at, ledger, started, until
from torture import make_pictures

import train
from denoisers.checkpoint import read
from experiments.sweeps.ledger import pids_of

PATH = {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
STEPS = 150
PATIENCE = 300  # seconds
pytestmark = pytest.mark.slow


@pytest.fixture
def two(tmp_path):
    """A small run of two processes with six pictures."""
    make_pictures(tmp_path / "images", side=20)
    return [
        "data=folder",
        f"data.path={tmp_path / 'images'}",
        "channels=1",
        "data.patch_size=12",
        "data.crops_per_image=40",
        "data.batch_size=4",
        "model=dncnn",
        "model.num_features=4",
        "model.num_layers=3",
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        "trainer.max_steps=12",
        "trainer.log_every_n_steps=1",
        "trainer.enable_progress_bar=false",
        "~callbacks.progress",
        "~callbacks.card",
        "~callbacks.strips",
        "callbacks.last.every_n_steps=2",
        "+callbacks.ranks={_target_: ranks.Ranks}",
    ]


@pytest.mark.parametrize(
    "what",
    [
        ["model.norm=true", "data.fractions=[0.34,0.16,0.5]"],  # three test images
        ["model.norm=false", "data.fractions=[0.17,0.5,0.33]"],  # three validation images
        ["model.norm=true", "data.fractions=[0.34,0.16,0.5]", "~callbacks.best", "+trainer.limit_val_batches=0"],
    ],
    ids=["norm", "plain", "last"],
)
def test_ranks_learn_the_same_and_score_like_one_process(compose, two, tmp_path, what):
    run = tmp_path / "r"
    done = command("train.py", *two, *what, f"run_dir={run}", **PATH)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert not list(tmp_path.rglob("*process*"))  # of rank 1
    one, other = (json.loads((run / f"rank-{rank}.json").read_text()) for rank in (0, 1))
    assert one["pid"] != other["pid"]
    statistics = {name for name in one["trained"] if "running" in name}
    assert bool(statistics) == ("model.norm=true" in what)
    differing = {name for name in one["trained"] if one["trained"][name] != other["trained"][name]}
    # what batch norm has seen is each rank's own until a validation; that of the first is saved, and tested by both
    assert differing == (statistics if "~callbacks.best" in what else set())
    assert one["tested"] == other["tested"]
    if "~callbacks.best" in what:
        assert one["tested"] == one["trained"]

    cfg = compose(*two, *what, "trainer=cpu", "trainer.strategy=auto", "trainer.devices=1", "~callbacks.ranks")
    cfg.run_dir = str(tmp_path / "alone")
    datamodule, module, trainer = train.build(cfg)
    saved = read(run / "checkpoints" / ("last.ckpt" if "~callbacks.best" in what else "best.ckpt"))
    module.load_state_dict(saved["state_dict"])
    trainer.test(module, datamodule, verbose=False)
    assert (tmp_path / "alone" / "per_image.csv").read_text() == (run / "per_image.csv").read_text()
    if "~callbacks.best" not in what:
        [best] = [state for name, state in saved["callbacks"].items() if name.startswith("ModelCheckpoint")]
        [found] = trainer.validate(module, datamodule, verbose=False)
        assert found["val/psnr"] == pytest.approx(best["best_model_score"].item(), abs=1e-5)


def steps(run):
    metrics = run / "metrics.csv"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def test_a_sweep_of_two_jobs_of_two_processes(two, tmp_path):
    """Ctrl-C, a kill of either rank and of the driver: nothing is left, nothing runs twice, nothing is lost."""
    folder = tmp_path / "s"
    longer = [f"trainer.max_steps={STEPS}", "data.crops_per_image=2000", "+callbacks.ranks.pause=0.1"]
    arguments = ["-m", *two, *longer, "seed=0,1", "hydra.launcher.jobs=2", at(folder)]
    jobs = [folder / "0", folder / "1"]

    def begun(job, before=0):
        return len(pids_of(job)) == 2 and steps(job) > before + 3

    def entries():
        return list(ledger(folder)["jobs"].values())

    driver = started(*arguments, **PATH)
    until(lambda: all(map(begun, jobs)), PATIENCE)
    driver.send_signal(signal.SIGINT)
    out, _ = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 130, out
    assert not [pid for job in jobs for pid in pids_of(job)]
    assert [entry["state"] for entry in entries()] == ["interrupted"] * 2
    assert all((job / "checkpoints" / "last.ckpt").exists() for job in jobs)

    stood = list(map(steps, jobs))
    driver = started(*arguments, **PATH)
    until(lambda: all(map(begun, jobs, stood)), PATIENCE)
    os.kill(pids_of(jobs[1])[1], signal.SIGKILL)  # the second rank
    until(lambda: entries()[1]["state"] == "failed", PATIENCE)
    assert entries()[1]["reason"] == "rank 1: killed (SIGKILL)"
    assert not pids_of(jobs[1])
    working = pids_of(jobs[0])
    assert len(working) == 2
    driver.kill()
    driver.communicate()

    stood = steps(jobs[1])
    driver = started(*arguments, **PATH)
    until(lambda: begun(jobs[1], stood), PATIENCE)
    assert pids_of(jobs[0]) in (working, [])  # nobody has started it twice
    os.kill(pids_of(jobs[1])[0], signal.SIGKILL)  # the first rank
    until(lambda: not pids_of(jobs[1]), 10)
    out, _ = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 3, out
    assert entries()[1]["reason"] == "killed (SIGKILL)"

    done = command("train.py", *arguments, **PATH)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [entry["attempts"] for entry in entries()] == [2, 4]
    assert not [pid for job in jobs for pid in pids_of(job)]
    for job in jobs:
        with (job / "metrics.csv").open(newline="") as file:
            assert [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]] == list(range(STEPS))
