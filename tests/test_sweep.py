"""Sweeps: cells are looked at before any job starts, each job is a process, and what is done is not done again."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import call, command
from conftest import ROOT
from torture_sweep import torture

import train
from experiments.cli import UserError
from experiments.sweeps import cells, local, pool
from experiments.sweeps import ledger as ledgers

QUICK = ("-m", "model=identity", "channels=3", "trainer=cpu")
TROUBLE = "+callbacks.trouble={_target_: trouble.Trouble, kind: none}"
DIED = "[rank: 1] Child process with PID 7 terminated with code "
PATH = {"PYTHONPATH": str(ROOT / "tests")}


def ledger(folder: Path):
    return json.loads((folder / "ledger.json").read_text())


def states(folder: Path):
    return {entry["overrides"][-1]: entry["state"] for entry in ledger(folder)["jobs"].values()}


def rows(folder: Path):
    return {
        path.parent.name: [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(path.open())]
        for path in sorted(folder.glob("*/per_image.csv"))
    }


def at(folder: Path):
    return f"hydra.sweep.dir={folder}"


# --- before anything runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["noise=sigma25,sigma26", "seed=0,1"],
            ["2 of 4 cells cannot run, 2 could", "sigma26 seed=0", "sigma26 seed=1"],
        ),
        (["seed=0,x"], ["1 of 2 cells cannot run", "seed=x: must be int"]),
        (["noise.sigma=5,-1,high", "noise=gaussian"], ["noise.sigma=high"]),
        (["data.num_workers=0,1"], ["two cells are one", "data.num_workers=0", "data.num_workers=1"]),
        (["seed=1,1"], ["two cells are one"]),
        (["seed=0,1", "hydra.launcher.jobs=0"], ["hydra.launcher.jobs=0: must be at least 1"]),
        (["seed=0,1", "hydra.launcher.job=1"], ["job"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_run_is_named_before_anything_runs(tmp_path, monkeypatch, capfd, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, printed = call(monkeypatch, capfd, train.main, *QUICK, *arguments)
    assert code == 2, printed
    for text in said:
        assert text in printed
    assert "Traceback" not in printed
    assert not list(tmp_path.rglob("ledger.json"))


def test_a_sweep_of_the_same_axes_and_fixed_values_has_the_same_name():
    one = cells.name_of_sweep(["model=a,b", "noise=x,y", "seed=3"])
    assert one == cells.name_of_sweep(["model=a,b,c", "noise=y,z", "seed=3"])
    assert one.startswith("model-noise-")
    assert one != cells.name_of_sweep(["model=a,b", "noise=x,y", "seed=4"])
    assert one != cells.name_of_sweep(["model=a,b", "loss=x,y", "seed=3"])


def test_what_is_typed_counts_instead_of_what_a_preset_sweeps_over():
    params = {"model": "a,b", "loss": "c,d"}
    assert cells.with_params(["seed=1", "loss=e"], params) == ["model=a,b", "loss=e", "seed=1"]
    assert cells.with_params(["seed=1"], {}) == ["seed=1"]


def refused(folder, program, axes, said):
    with pytest.raises(UserError, match=said), ledgers.opened(folder, program, axes):
        pass


def test_a_folder_of_another_sweep_is_refused(tmp_path):
    folder, mine = tmp_path / "s", (["train.py"], ["model"])
    with ledgers.opened(folder, *mine) as found:
        found.add([ledgers.Cell(("model=a",), "f", "model=a", 3)])
    refused(folder, ["train.py"], ["seed"], "belongs to another sweep, of train.py over model; this one is .*seed")
    refused(folder, ["evaluate.py"], ["model"], "belongs to another sweep")
    with ledgers.opened(folder, *mine) as found:
        assert found.entries["f"].overrides == ["model=a"]
        refused(folder, *mine, "another process runs this sweep")
    (folder / "ledger.json").write_text("{")
    refused(folder, *mine, "ledger.json is damaged")
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "photo.png").touch()
    refused(tmp_path / "t", *mine, "holds other things")


def test_places_share_out_cores_and_gpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert len(local.places(None, 1, 1, None)) == 4
    assert local.places(3, 1, 1, None) == [{"OMP_NUM_THREADS": "5", "MKL_NUM_THREADS": "5"}] * 3
    monkeypatch.setattr("torch.cuda.device_count", lambda: 5)
    assert [p["CUDA_VISIBLE_DEVICES"] for p in local.places(None, 1, 2, None)] == ["0,1", "2,3"]
    shared = local.places(None, 2, 1, 3)
    assert [p["CUDA_VISIBLE_DEVICES"] for p in shared] == [str(n // 2) for n in range(10)]
    assert shared[0]["OMP_NUM_THREADS"] == "3"
    for wrong in ((None, 2, 2, None), (None, 1, 6, None)):
        with pytest.raises(UserError, match="there are 5 GPUs"):
            local.places(*wrong)


@pytest.mark.parametrize(
    ("code", "log", "remark", "said"),
    [
        (1, "Traceback\n  File x\nValueError: no\n", None, "exit code 1: ValueError: no"),
        (2, "error: what\n  more\n╰───╯\n", None, "exit code 2: more"),
        (-9, "step 3\n", None, "killed (SIGKILL)"),
        (1, "out of memory\n--- started: x\nValueError: no\n", None, "exit code 1: ValueError: no"),
        (-9, "step 3\n", "killed for want of memory", "killed for want of memory"),
        (1, "DefaultCPUAllocator: can't allocate memory\n", None, "out of memory: DefaultCPUAllocator"),
        (-11, "", None, "killed (SIGSEGV)"),
        (1, "", None, "exit code 1: it printed nothing"),
        (0, "step 3\n", None, "it ended without a result: step 3"),
        (-9, f"ValueError: no\n{DIED}-9\nRuntimeError: closed\n", None, "rank 1: killed (SIGKILL)"),
        (1, f"ValueError: no\n{DIED}1\nRuntimeError: closed\n", None, "rank 1: exit code 1: ValueError: no"),
        (1, f"{DIED}-9\n--- started: x\nValueError: no\n", None, "exit code 1: ValueError: no"),
    ],
)
def test_every_end_has_its_reason(tmp_path, code, log, remark, said):
    (tmp_path / "job.log").write_text(log)
    assert pool.reason(code, tmp_path / "job.log", remark).startswith(said)


# --- sweeps that run --------------------------------------------------------------------------------------------------


def test_a_failed_job_stops_no_other_and_is_named(tmp_path):
    kinds = "callbacks.trouble.kind=raise,fine"
    done = command("train.py", *QUICK, TROUBLE, kinds, at(tmp_path / "s"), **PATH)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "exit code 1: RuntimeError: a mistake of somebody's" in done.stdout
    assert "1 of 2 cells are done" in done.stdout
    assert states(tmp_path / "s") == {"callbacks.trouble.kind=fine": "done", "callbacks.trouble.kind=raise": "failed"}
    assert len(rows(tmp_path / "s")) == 1


@pytest.mark.slow
def test_a_sweep_does_what_is_left_and_no_other(tmp_path):
    kinds = "callbacks.trouble.kind=fine,raise"
    command("train.py", *QUICK, TROUBLE, kinds, at(tmp_path / "s"), **PATH)
    more = command("train.py", *QUICK, TROUBLE, f"{kinds},new", at(tmp_path / "s"), ALL_IS_WELL="1", **PATH)
    assert more.returncode == 0, more.stdout + more.stderr
    assert "3 cells, 1 done before" in more.stdout
    assert [entry["attempts"] for entry in ledger(tmp_path / "s")["jobs"].values()] == [1, 2, 1]
    assert len(rows(tmp_path / "s")) == 3
    again = command("train.py", *QUICK, TROUBLE, kinds, at(tmp_path / "s"), **PATH)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "2 cells, 2 done before" in again.stdout


def started(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "train.py", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_ctrl_c_stops_every_job_and_a_killed_driver_leaves_jobs_that_are_recognised(tmp_path):
    folder = tmp_path / "s"
    arguments = (*QUICK, TROUBLE, "callbacks.trouble.kind=wait", "seed=0,1", "hydra.launcher.jobs=2", at(folder))
    running = [folder / "0", folder / "1"]

    def waits(job):
        return (job / "config.yaml").exists() and ledgers.pids_of(job)

    driver = started(*arguments, **PATH)
    until(lambda: all(map(waits, running)))
    driver.send_signal(signal.SIGINT)
    out, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, out
    assert not any(ledgers.pids_of(job) for job in running)
    assert {entry["state"] for entry in ledger(folder)["jobs"].values()} == {"interrupted"}

    driver = started(*arguments, **PATH)
    until(lambda: all(map(waits, running)))
    driver.kill()
    driver.communicate()
    [[pid], [other]] = [ledgers.pids_of(job) for job in running]
    os.kill(other, signal.SIGKILL)
    driver = started(*arguments, ALL_IS_WELL="1", **PATH)
    until(lambda: (folder / "1" / "summary.json").exists())
    assert ledgers.pids_of(running[0]) == [pid]  # nobody has started it twice
    os.kill(pid, signal.SIGTERM)
    out, _ = driver.communicate(timeout=60)
    assert driver.returncode == 3, out
    done = command("train.py", *arguments, ALL_IS_WELL="1", **PATH)
    assert done.returncode == 0, done.stdout
    assert len(rows(folder)) == 2


@pytest.mark.slow
def test_killed_sweeps_end_like_one_that_was_left_alone(tmp_path):
    assert torture(2, tmp_path) == 2


@pytest.mark.slow
def test_twelve_jobs_of_which_four_end_badly(tmp_path):
    kinds = ",".join([*(f"fine{n}" for n in range(8)), "raise", "exit", "kill", "memory"])
    arguments = [*QUICK, TROUBLE, f"callbacks.trouble.kind={kinds}", at(tmp_path / "s"), "hydra.launcher.jobs=2"]
    first = command("train.py", *arguments, "hydra.launcher.memory=6", **PATH)
    assert first.returncode == 3, first.stdout + first.stderr
    assert "8 of 12 cells are done" in first.stdout
    for said in ("a mistake of somebody's", "exit code 1", "killed (SIGKILL)", "out of memory"):
        assert said in first.stdout
    second = command("train.py", *arguments, ALL_IS_WELL="1", **PATH)
    assert second.returncode == 0, second.stdout + second.stderr
    assert [entry["attempts"] for entry in ledger(tmp_path / "s")["jobs"].values()] == [1] * 8 + [2] * 4
    reference = rows(tmp_path / "s")["0"]
    assert all(found == reference for found in rows(tmp_path / "s").values())
