"""make gpu: every path of it at tiny size, parts that are not done again, and calls that end in time."""

import json
from pathlib import Path

import hydra
import pytest
import torch
from command_line import call
from conftest import CONF
from hydra.core.global_hydra import GlobalHydra

from experiments import gpu
from experiments.throughput import MODES

FEW = ["models=[ffdnet]", "~trainings.xdncnn", "~trainings.speedrun_10min"]
NAMES = ["tests", "framework", "noise", "xunit", "throughput ffdnet", "training dncnn_s", "training speedrun"]


def asked(folder, *more):
    return [f"run_dir={folder}", f"output={folder / 'page.md'}", *FEW, *more]


def test_a_dry_run_takes_every_path_and_no_part_is_done_twice(monkeypatch, capfd, tmp_path):
    code, printed = call(monkeypatch, capfd, gpu.main, *asked(tmp_path, "dry=true"))
    assert code == 0, printed
    found = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "dry" / "parts").iterdir()}
    assert set(found) == {name.replace(" ", "-") for name in NAMES}
    assert "1 passed" in found["tests"]["printed"]
    assert "the framework's share" in found["framework"]["printed"]
    assert "sigma25" in found["noise"]["printed"]
    assert "xunit_d" in found["xunit"]["printed"]
    assert all(found["throughput-ffdnet"]["modes"][mode]["training"]["pixels"] > 0 for mode in MODES)
    assert found["training-dncnn_s"]["steps"] == found["training-speedrun"]["steps"] == 2
    page = (tmp_path / "dry" / "gpu.md").read_text()
    for heading in ("Tests", "The framework's share of a step", "Noise", "xUnits", "Trainings", "Throughput"):
        assert f"\n## {heading}\n" in page
    assert "BSD68 29.23" in page  # what is published
    assert not (tmp_path / "page.md").exists()  # docs hold what GPUs found alone
    assert [path.name for path in tmp_path.iterdir()] == ["dry"]  # of which nothing counts as done by one

    monkeypatch.setattr(gpu, "do", None)
    code, printed = call(monkeypatch, capfd, gpu.main, *asked(tmp_path, "dry=true"))
    assert code == 0
    assert f"{len(NAMES)} of {len(NAMES)} parts are done" in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_what_can_be_done(monkeypatch, capfd, tmp_path):
    code, printed = call(monkeypatch, capfd, gpu.main, *asked(tmp_path))
    assert code == 2
    assert "there is no GPU here: dry=true" in printed


def pretended(monkeypatch, codes):
    """In place of the parts' programs: what says how they ended, and does no more → their names as they are called."""
    calls = []

    def do(part, left):
        calls.append(part.name)
        assert left <= 540 - gpu.GRACE
        if part.file is not None and part.name not in codes:
            part.file.parent.mkdir(parents=True, exist_ok=True)
            part.file.write_text(
                json.dumps({"batch_size": 1, "patch_size": 16, "modes": {mode: {"failed": "x"} for mode in MODES}})
            )
        return codes.get(part.name, 0), "first\nlast words\n"

    monkeypatch.setattr(gpu, "do", do)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return calls


def test_calls_end_in_time_and_what_failed_comes_last(monkeypatch, capfd, tmp_path):
    calls = pretended(monkeypatch, codes := {"noise": 1, "training dncnn_s": 142})
    fewer = asked(tmp_path, "~trainings.speedrun")
    code, printed = call(monkeypatch, capfd, gpu.main, *fewer)
    assert code == 142
    assert calls == NAMES[:-1]
    assert "failed with exit code 1: last words" in printed
    assert "4 of 6 parts are done" in printed
    assert "- noise: last words" in (tmp_path / "page.md").read_text()

    calls.clear()
    codes.pop("training dncnn_s")
    facts = {"results": {"BSD68": {"psnr": 29.2}}, "steps": 5, "train_seconds": 60.0, "seed": 0}
    (tmp_path / "runs" / "dncnn_s").mkdir(parents=True)
    (tmp_path / "runs" / "dncnn_s" / "summary.json").write_text(json.dumps(facts))
    codes["training dncnn_s"] = 0
    assert call(monkeypatch, capfd, gpu.main, *fewer)[0] == 3
    assert calls == ["training dncnn_s", "noise"]
    assert "| dncnn_s | BSD68 29.20 | BSD68 29.23 | 5 | 1 min 00 s | 0 |" in (tmp_path / "page.md").read_text()

    calls.clear()
    assert call(monkeypatch, capfd, gpu.main, *fewer, "slice=30s")[0] == 142  # too short for any part
    assert calls == []


def test_what_a_call_has_no_time_for_has_the_whole_next_one(monkeypatch, capfd, tmp_path):
    calls = pretended(monkeypatch, {"framework": 143})
    fewer = asked(tmp_path, "~trainings.speedrun", "~trainings.dncnn_s")
    assert call(monkeypatch, capfd, gpu.main, *fewer)[0] == 142
    assert calls == NAMES[:2]
    calls.clear()
    code, printed = call(monkeypatch, capfd, gpu.main, *fewer)
    assert code == 3  # for which a whole one is not enough either
    assert calls == NAMES[1:5]
    assert "framework: last words" in printed


def test_tests_for_gpus_are_those_of_files_that_have_any(tmp_path):
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        tests, *_ = gpu.parts(hydra.compose("gpu", ["models=[dncnn]"]), tmp_path)
    assert {"test_device.py", "test_fused.py", "test_training.py"} <= {Path(word).name for word in tests.command}
    assert "test_site.py" not in " ".join(tests.command)


def test_the_page_says_that_nothing_was_measured():
    assert "Nothing has been measured on a GPU yet." in gpu.page({}, {})
