"""Where a sweep's jobs run: the same pool and ledger on this machine, under submitit and on Ray."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from command_line import command
from conftest import ROOT
from test_sweep import QUICK, at, rows, until

from experiments.cli import UserError
from experiments.signals import Interrupted
from experiments.sweeps import local, pool
from experiments.sweeps.ledger import Cell, opened, pids_of

JOB = str(ROOT / "tests" / "engine_job.py")
SUBMITIT = {"timeout_min": 5, "gpus_per_node": 0}


def machine(folder):
    return local.Machine(local.places(2, 1, 1, 1), None)


def submitit_local(folder, **parameters):
    pytest.importorskip("submitit")
    from experiments.sweeps.slurm import Slurm

    return Slurm(folder, "local", 2, 1, 3, SUBMITIT | parameters)


def ray_local(folder):
    pytest.importorskip("ray")
    from experiments.sweeps.on_ray import Cluster

    return Cluster(None, 2, 1, 0, 1)


ENGINES = [machine, submitit_local, pytest.param(ray_local, marks=pytest.mark.slow)]


@pytest.fixture(params=ENGINES)
def engine(request, tmp_path):
    made = request.param(tmp_path)
    yield made
    made.close()


def cell(kind, number=0):
    return Cell((f"kind={kind}",), f"{kind}{number}", kind, None)


def run(folder, engine, cells):
    """Fingerprint → state and reason, after a pool has run the cells."""
    with opened(folder, [JOB], ["kind"]) as ledger:
        ledger.add(cells)
        pool.Pool(ledger, engine).run(iter(cells))
    return {fingerprint: (entry.state, entry.reason) for fingerprint, entry in ledger.entries.items()}


def starts(folder):
    return [path.read_text().splitlines() for path in sorted(folder.glob("*/starts"))]


def test_an_engine_runs_cells_and_says_how_they_end(tmp_path, engine):
    cells = [cell("fine", 0), cell("fail"), cell("kill"), cell("fine", 1)]
    found = run(tmp_path / "s", engine, cells)
    assert {fingerprint: state for fingerprint, (state, _) in found.items()} == {
        "fine0": "done",
        "fail0": "failed",
        "kill0": "failed",
        "fine1": "done",
    }
    assert found["fail0"][1] == "exit code 1: a reason"
    assert found["kill0"][1] == "killed (SIGKILL)"
    assert [len(started) for started in starts(tmp_path / "s")] == [1, 1, 1, 1]
    assert {line.split()[1] for started in starts(tmp_path / "s") for line in started} == {"1"}  # threads


def test_the_end_of_a_sweep_is_the_end_of_its_jobs_in_good_order(tmp_path, engine):
    job = tmp_path / "s" / "0"

    def interrupt():
        until(lambda: (job / "starts").exists())
        time.sleep(0.3)  # its handlers stand
        os.kill(os.getpid(), signal.SIGUSR1)

    def come(number, frame):
        raise Interrupted(number)

    before = signal.signal(signal.SIGUSR1, come)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(Interrupted):
            run(tmp_path / "s", engine, [cell("wait")])
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert (job / "saved").exists()
    assert not pids_of(job)
    assert run(tmp_path / "s", engine, [cell("wait")])["wait0"][0] == "done"


def test_a_job_that_has_outlived_its_sweep_is_not_started_twice(tmp_path, engine):
    folder, one = tmp_path / "s", cell("wait")
    with opened(folder, [JOB], ["kind"]) as ledger:
        ledger.add([one])
    job = (folder / "0").resolve()
    job.mkdir()
    outlived = subprocess.Popen([sys.executable, JOB, "kind=wait", f"run_dir='{job}'"])
    until(lambda: (job / "starts").exists())
    threading.Timer(1.5, outlived.kill).start()
    threading.Timer(2.0, outlived.wait).start()
    assert run(folder, engine, [one])["wait0"][0] == "failed"
    assert len(starts(folder)[0]) == 1


def test_submitit_starts_a_job_again_that_runs_out_of_time(tmp_path):
    """As SLURM does: the signal comes before the end of its time, the job saves, and is queued again."""
    engine = submitit_local(tmp_path / "s", timeout_min=1)
    engine.executor._executor.parameters["signal_delay_s"] = 57  # of 60
    assert run(tmp_path / "s", engine, [cell("wait")])["wait0"][0] == "done"
    assert (tmp_path / "s" / "0" / "saved").exists()
    assert len(starts(tmp_path / "s")[0]) == 2


@pytest.mark.slow
def test_a_killed_worker_of_ray_fails_its_own_job_which_leaves_its_checkpoint(tmp_path):
    engine, job = ray_local(tmp_path), tmp_path / "s" / "0"

    def kill():
        until(lambda: (job / "starts").exists())
        time.sleep(0.3)  # its handlers stand
        pid = int((job / "starts").read_text().split()[0])
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        [worker] = [line.split()[1] for line in status if line.startswith("PPid")]
        os.kill(int(worker), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        found = run(tmp_path / "s", engine, [cell("wait"), cell("fine")])
        thread.join()
        assert found["wait0"][0] == "failed"
        assert found["wait0"][1].startswith("Ray: ")
        assert found["fine0"][0] == "done"
        until(lambda: not pids_of(job))
        assert (job / "saved").exists()
        assert run(tmp_path / "s", engine, [cell("wait"), cell("fine")])["wait0"][0] == "done"
    finally:
        engine.close()


def test_the_batch_script_says_what_the_preset_says(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from experiments.sweeps.slurm import Slurm, name_of

    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}:{os.environ['PATH']}")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        words = [
            "hydra/launcher=slurm",
            "hydra.launcher.parameters.nodes=2",
            "hydra.launcher.parameters.gpus_per_node=4",
        ]
        words += ["hydra.launcher.parameters.tasks_per_node=4", "+hydra.launcher.parameters.slurm_partition=a100"]
        preset = compose("train", words, return_hydra_config=True).hydra.launcher
    engine = Slurm(tmp_path, "slurm", preset.jobs, None, preset.requeues, OmegaConf.to_container(preset.parameters))
    name = name_of(tmp_path / "3")
    engine.executor.update_parameters(name=name)
    script = engine.executor._executor._make_submission_file_text("python job", "uid")
    wanted = ["nodes=2", "gpus-per-node=4", "ntasks-per-node=4", "partition=a100", "time=240", "cpus-per-task=8"]
    for line in (*wanted, "mem=32GB", "signal=USR2@120", f"job-name={name}"):
        assert f"#SBATCH --{line}\n" in script
    assert engine.tasks == 8
    assert engine.executor._executor.max_num_timeout == 10


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("slurm", 1, None, 1, {}), "srun"),
        (("local", 0, None, 1, {}), "jobs=0: must be at least 1"),
        (("local", 1, None, 1, {"partitoin": "a"}), "partitoin"),
        (("local", 1, None, 1, {"timeout_min": "soon"}), "timeout_min"),
        (("nowhere", 1, None, 1, {}), "nowhere"),
    ],
)
def test_what_submitit_cannot_do_is_said(tmp_path, monkeypatch, options, said):
    pytest.importorskip("submitit")
    from experiments.sweeps.slurm import Slurm

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=said):
        Slurm(tmp_path, *options)


@pytest.mark.slow
def test_the_rows_of_a_sweep_are_the_same_under_every_engine(tmp_path):
    small = (*QUICK[:1], "experiment=debug", "model=simple_cnn", *QUICK[2:], "loss=l1,mse", "seed=0,1")
    found = {}
    for launcher in ("isolated", "submitit_local", "ray"):
        pytest.importorskip({"submitit_local": "submitit", "ray": "ray"}.get(launcher, "torch"))
        options = (f"hydra/launcher={launcher}", "hydra.launcher.jobs=2", "hydra.launcher.threads=1")
        done = command("train.py", *small, *options, at(tmp_path / launcher))
        assert done.returncode == 0, done.stdout + done.stderr
        found[launcher] = rows(tmp_path / launcher)
    assert len(found["isolated"]) == 4
    assert found["submitit_local"] == found["isolated"]
    assert found["ray"] == found["isolated"]
