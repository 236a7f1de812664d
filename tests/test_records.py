"""Records: runs that are missing are made and timed, what is done is only read, and the page says what was found."""

import json
import math
import statistics

import pytest
from command_line import call
from conftest import CONF
from omegaconf import OmegaConf

from experiments import records
from experiments.callbacks import duration

TINY = [
    "data=sample",
    "data.channels=1",
    "data.splits.test=[camera.png]",
    "data.patch_size=16",
    "data.batch_size=2",
    "model.num_features=4",
    "trainer.max_steps=2",
    "~callbacks.progress",
    "~callbacks.strips",
]


def asked(folder):
    return [
        f"run_dir={folder}",
        f"output={folder / 'page.md'}",
        "presets=[cpu_1min]",
        "records.cpu_1min.seeds=[0,1]",
        f"training={TINY}",
    ]


def line(page, preset):
    [found] = [row for row in page.splitlines() if row.startswith(f"| {preset} |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_runs_that_are_missing_are_made_timed_and_written_down(monkeypatch, capfd, tmp_path):
    code, printed = call(monkeypatch, capfd, records.main, *asked(tmp_path))
    assert code == 0, printed
    runs = [tmp_path / f"cpu_1min-{seed}" for seed in (0, 1)]
    found = [json.loads((run / "summary.json").read_text()) for run in runs]
    clocks = [json.loads((run / records.CLOCK).read_text())["seconds"] for run in runs]
    for summary, clock in zip(found, clocks, strict=True):
        assert summary["train_seconds"] < clock  # imports count
        assert summary["steps"] == 2
    scores = [summary["results"]["sample"]["psnr"] for summary in found]
    mean, deviation = statistics.fmean(scores), abs(scores[0] - scores[1]) / math.sqrt(2)
    row = line((tmp_path / "page.md").read_text(), "cpu_1min")
    assert row[1:4] == ["28.57", f"sample {mean:.2f} ± {deviation:.2f}", "0, 1"]
    assert row[4] == f"{duration(statistics.fmean(clocks))} ± {abs(clocks[0] - clocks[1]) / math.sqrt(2):.0f} s"
    assert line((tmp_path / "page.md").read_text(), "gpu")[2] == "not run here"

    # a run that was not made in one go has no time
    (runs[1] / records.CLOCK).unlink()
    code, printed = call(monkeypatch, capfd, records.main, *asked(tmp_path))
    assert code == 0
    assert printed.count("done already") == 2
    assert line((tmp_path / "page.md").read_text(), "cpu_1min")[4] == "interrupted"


def test_an_unknown_preset_is_named(monkeypatch, capfd, tmp_path):
    code, printed = call(monkeypatch, capfd, records.main, f"run_dir={tmp_path}", "presets=[cpu_2min]")
    assert code == 2
    assert "there is no 'cpu_2min'" in printed


@pytest.mark.parametrize("preset", OmegaConf.load(CONF / "records.yaml").records)
def test_recipes_learn_from_photographs_alone_and_are_scored_on_bsd68_at_the_end(compose, preset):
    cfg = compose(f"experiment=speedrun/{preset}")
    assert (cfg.data.splits.train, list(cfg.data.splits.test), cfg.channels) == ("CBSD432", ["BSD68"], 1)
    assert (cfg.axes.noise, cfg.protocol.name, cfg.init_from) == ("sigma25", "kair", None)
    assert cfg.data.splits.hold_out == 12
