"""make gpu: every path of it at tiny size, parts that are not done again, and calls that end in time."""

import json

import pytest
import torch
from command_line import call

from experiments import gpu
from experiments.throughput import MODES

FEW = ["models=[ffdnet]", "~trainings.xdncnn", "~trainings.speedrun_10min"]
NAMES = ["tests", "framework", "noise", "throughput ffdnet", "training dncnn_s", "training speedrun"]


def asked(folder, *more):
    return [f"run_dir={folder}", f"output={folder / 'page.md'}", *FEW, *more]


def test_a_dry_run_takes_every_path_and_no_part_is_done_twice(monkeypatch, capfd, tmp_path):
    code, printed = call(monkeypatch, capfd, gpu.main, *asked(tmp_path, "dry=true"))
    assert code == 0, printed
    found = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "parts").iterdir()}
    assert set(found) == {name.replace(" ", "-") for name in NAMES}
    assert "1 passed" in found["tests"]["printed"]
    assert "the framework's share" in found["framework"]["printed"]
    assert "sigma25" in found["noise"]["printed"]
    assert all(found["throughput-ffdnet"]["modes"][mode]["training"]["pixels"] > 0 for mode in MODES)
    assert found["training-dncnn_s"]["steps"] == found["training-speedrun"]["steps"] == 2
    page = (tmp_path / "gpu.md").read_text()
    for heading in ("Tests", "The framework's share of a step", "Noise", "Trainings", "Throughput"):
        assert f"\n## {heading}\n" in page
    assert "BSD68 29.23" in page  # what is published
    assert not (tmp_path / "page.md").exists()  # docs hold what GPUs found alone

    monkeypatch.setattr(gpu, "do", None)
    code, printed = call(monkeypatch, capfd, gpu.main, *asked(tmp_path, "dry=true"))
    assert code == 0
    assert f"{len(NAMES)} of {len(NAMES)} parts are done" in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_what_can_be_done(monkeypatch, capfd, tmp_path):
    code, printed = call(monkeypatch, capfd, gpu.main, *asked(tmp_path))
    assert code == 2
    assert "there is no GPU here: dry=true" in printed


def test_calls_end_in_time_and_what_failed_comes_last(monkeypatch, capfd, tmp_path):
    """Of programs that only say how they ended."""
    calls, codes = [], {"noise": 1, "training dncnn_s": 142}

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
    fewer = asked(tmp_path, "~trainings.speedrun")
    code, printed = call(monkeypatch, capfd, gpu.main, *fewer)
    assert code == 142
    assert calls == NAMES[:-1]
    assert "failed with exit code 1: last words" in printed
    assert "3 of 5 parts are done" in printed
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


def test_the_page_says_that_nothing_was_measured():
    assert "Nothing has been measured on a GPU yet." in gpu.page({}, {})
