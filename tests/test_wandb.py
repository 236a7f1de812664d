"""Weights & Biases: what a run leaves there, read back; a server that fails; the workspace of a sweep."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import call, command
from outages import FAULTS, TASK, server, train
from wandb_server import serving

from experiments import wandb_logger, workspace
from experiments.results import read_rows


def records(folder: Path, kind: str):
    """The records of a kind that a W&B folder holds, by W&B's own reader."""
    wandb = Path(sys.executable).with_name("wandb")
    read = subprocess.run([wandb, "leet", "inspect", "--json", folder], capture_output=True, text=True, check=True)
    return [record[kind] for record in map(json.loads, read.stdout.splitlines()) if record["type"] == kind]


def history(folder: Path):
    return [record["item"] for record in records(folder, "history")]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """A run of a sweep that was made offline, and then went on for another epoch: its two W&B folders."""
    folder = tmp_path_factory.mktemp("wandb") / "it"
    environment = {"WANDB_MODE": "offline", "WANDB_RUN_GROUP": "model-loss-abc"}
    first = command(
        "train.py", *TASK, "logger=wandb", "seed=3", "trainer.max_epochs=2", f"run_dir={folder}", **environment
    )
    assert first.returncode == 0, first.stderr
    again = ["trainer.max_epochs=3", "resume_force=true"]
    second = command("train.py", f"resume={folder}", *again, **environment)
    assert second.returncode == 0, second.stderr
    return folder, sorted(folder.glob("wandb/offline-run-*"))


@pytest.mark.slow
def test_a_run_has_its_group_axes_curves_pictures_and_table(resumed):
    _, [run, _] = resumed
    [about] = records(run, "run")
    assert (about["project"], about["run_group"]) == ("denoisers", "model-loss-abc")
    config = records(run, "config")[0]["update"]
    axes = {"model": "simple_cnn", "noise": "sigma25", "loss": "mse", "optimizer": "adamw"}
    assert config["axes"] == axes | {"data": "sample", "scheduler": "cosine_warmup"}
    assert config["seed"] == 3

    rows = history(run)
    for key, number in (("train/loss", 4), ("train/psnr", 4), ("val/psnr", 2), ("val/ssim", 2), ("lr-AdamW", 4)):
        assert sum(key in row for row in rows) == number, key
    pictures = [
        row[key + ".filenames"][0] for row in rows for key in ("val/coffee", "test/chelsea") if f"{key}._type" in row
    ]
    assert len(pictures) == 3
    assert all((run / "files" / picture).is_file() for picture in pictures)
    assert rows[-1]["test/per_image._type"] == "table-file"
    table = json.loads((run / "files" / rows[-1]["test/per_image.path"]).read_text())
    assert table["columns"][:2] == ["image", "set"]
    assert [row[0] for row in table["data"]] == ["chelsea"]


@pytest.mark.slow
def test_a_run_goes_on_as_the_same_one_and_its_summary_is_that_of_the_rows(resumed):
    folder, runs = resumed
    ids = {records(run, "run")[0]["run_id"] for run in runs}
    assert (len(runs), len(ids)) == (2, 1)
    steps = [row["trainer/global_step"] for run in runs for row in history(run) if "train/loss" in row]
    assert steps == [0, 1, 2, 3, 4, 5]
    [row] = read_rows(folder / "per_image.csv")
    summary = {key: value for record in records(runs[1], "summary") for key, value in record["update"].items()}
    for column in ("psnr", "ssim", "noisy_psnr"):
        assert summary[f"test/sample/{column}"] == pytest.approx(row[column])
    assert summary["test/sample/n"] == 1


def test_a_call_is_left_to_itself_after_its_time(monkeypatch):
    import threading

    never = threading.Event()
    with pytest.raises(TimeoutError, match="no answer in 0.1 s"):
        wandb_logger.within(0.1, never.wait)
    with pytest.raises(KeyError, match="x"):
        wandb_logger.within(1, lambda: {}["x"])
    never.set()


@pytest.fixture
def sweep(tmp_path, monkeypatch, resumed):
    """A sweep's folder with one run in it, and nobody who is logged in."""
    folder = tmp_path / "model-loss-abc"
    shutil.copytree(resumed[0], folder / "0", symlinks=True)
    (folder / "ledger.json").write_text(json.dumps({"axes": ["model", "model.num_layers", "experiment", "seed"]}))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_MODE", "online")
    return folder


@pytest.mark.slow
def test_a_workspace_is_shown_without_an_account(sweep, monkeypatch, capfd):
    pytest.importorskip("wandb_workspaces")
    code, printed = call(monkeypatch, capfd, workspace.main, sweep)
    assert code == 0, printed
    for said in ("no API key", "project denoisers", "model-loss-abc", "Curves: 9 panels", "Test: 6 panels"):
        assert said in printed
    for said in ("validation PSNR (dB) by axes.model", "sample SSIM by model.num_layers", "test/chelsea", "val/coffee"):
        assert said in printed
    assert f"wandb sync {sweep}/*/wandb/offline-run-*" in printed


@pytest.mark.slow
def test_a_workspace_is_saved_with_an_account(sweep):
    pytest.importorskip("wandb_workspaces")
    with serving() as running:
        arguments = ["-m", "experiments.workspace", sweep, "patience=100.0"]
        done = command(*arguments, **running.environment)
        [sent] = running.variables("UpsertView2")
    assert done.returncode == 0, done.stderr
    assert f"{running.environment['WANDB_BASE_URL']}/lab/denoisers?nw=" in done.stdout
    assert (sent["entityName"], sent["projectName"]) == ("lab", "denoisers")
    spec = json.loads(sent["spec"])["section"]
    assert "model-loss-abc" in json.dumps(spec["runSets"][0]["filters"])
    panels = [panel for section in spec["panelBankConfig"]["sections"] for panel in section["panels"]]
    assert len(panels) == 9 + 6 + 2
    assert panels[0]["config"]["metrics"] == ["val/psnr"]


def test_a_workspace_that_cannot_be_made_says_what_is_missing(sweep, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    code, printed = call(monkeypatch, capfd, workspace.main, sweep)
    assert (code, 'pip install -e ".[workspace]"' in printed) == (2, True), printed


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return train(tmp_path_factory.mktemp("usual") / "it")


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_wandb_does_the_run_is_the_same_and_says_what_was_not_sent(tmp_path, usual, fault):
    with server(fault) as environment:
        found = train(tmp_path / "it", "logger=wandb", **environment)
    assert found.code == 0, found.printed
    assert found.rows
    assert found.same(usual)
    assert "Traceback" not in found.printed
    offline = list((tmp_path / "it").glob("wandb/offline-run-*"))
    assert (fault == "answers") != bool(offline), found.printed
    assert ("wandb sync" in found.printed) == bool(offline)
    assert found.seconds - usual.seconds < 30  # 10 where nothing else runs; docs/sweeps.md has them measured
