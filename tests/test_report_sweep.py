"""The report of a sweep: what it says of cells in every state, and how it is followed."""

import fcntl
import json
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import report_folders as build
from command_line import call
from conftest import ROOT

from experiments.report import follow, markdown, page, sweeps
from experiments.report.__main__ import main, overrides

AXES = {"model": ["dncnn", "unet"], "loss": ["mse", "l1"], "seed": ["0", "1"]}
WORTH = {"dncnn": 30, "unet": 33, "mse": 0, "l1": 1.5, "0": 0, "1": 0.25}


def half_finished(folder):
    """Eight cells, of which the last four are of every other state."""
    cells = build.crossed(**AXES)
    states = ["done"] * 5 + ["failed", "waiting", "running"]
    told = [cell | {"state": state} for cell, state in zip(cells, states, strict=True)]
    return build.sweep(folder, told, lambda **axes: sum(WORTH[value] for value in axes.values()))


def rows(text, title):
    """The cells of the Markdown table with a title."""
    lines = text[text.index(f"### {title}") :].split("\n")
    first = next(n for n, line in enumerate(lines) if line.startswith("| ---"))
    end = next(n for n in range(first, len(lines)) if not lines[n].startswith("|"))
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines[first + 1 : end]]


def test_cells_in_every_state_are_told(tmp_path):
    folder = half_finished(tmp_path / "s")
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as the sweep does
        study = sweeps.read(folder)
    text = markdown.render(study, folder)
    cells = rows(text, "Cells")
    assert cells[0][:6] == ["0", "dncnn", "mse", "0", "done", "41"]
    assert cells[0][6:9] == ["21.00", "19.00", "0.8000"]  # of images at 0, −11 and −22 dB
    assert cells[5] == ["5", "unet", "mse", "1", "failed", "–", "–", "–", "–", "–", "exit code 1: it is broken"]
    assert cells[6][4:] == ["waiting", *"–––––", "–"]
    assert cells[7][4:] == ["running", "41", "21.00", "–", "–", "–", "–"]
    assert "8 cells: 5 done, 1 failed, 1 waiting, 1 running." in text
    assert "1 of 8 cells failed, for the reasons in the table: 5" in text
    assert "**22.00**" in text  # the best is cell 4
    html = page.render(study)
    assert "Sweep" in html
    assert "exit code 1: it is broken" in html


def test_what_nobody_runs_is_interrupted(tmp_path):
    study = sweeps.read(half_finished(tmp_path / "s"))
    assert [cell.state for cell in study.sweep.cells][-2:] == ["waiting", "interrupted"]
    assert "nobody runs it at the moment" in study.description


def test_effects_are_those_that_were_put_in(tmp_path):
    folder = half_finished(tmp_path / "s")
    text = markdown.render(sweeps.read(folder), folder)
    told = {tuple(row[:2]): row[2:] for row in rows(text, "Effects on PSNR \\(dB\\) on Set3".replace("\\", ""))}
    assert told["loss", "l1"] == ["+0.750 ± 0.000", "1.500", "–", "2 of 4"]
    assert told["model", "dncnn"] == ["−1.500", "3.000", "–", "1 of 4"]
    assert told["seed", "0"][0] == "−0.125 ± 0.000"
    spread = f"{np.std([0, 0.25], ddof=1):.3f}"
    assert f"model matters most: 3.000 dB from dncnn to unet; loss 1.500 dB. Seeds differ by {spread} dB" in text


def test_an_axis_without_a_complete_block_is_named(tmp_path):
    cells = [cell | {"state": "waiting"} if cell["model"] == "unet" else cell for cell in build.crossed(**AXES)]
    study = sweeps.read(build.sweep(tmp_path / "s", cells, lambda **axes: 30.0 + (axes["loss"] == "l1")))
    said = sweeps.sentence(study.sweep, ("Set3", "psnr"))
    assert said.startswith("loss matters most: 1.000 dB from mse to l1.")
    assert said.endswith("No block is complete yet for model.")


def test_the_best_of_each_value_is_shown_the_best_of_all_first(tmp_path):
    study = sweeps.read(half_finished(tmp_path / "s"))
    assert study.sweep.shown == [4, 3]  # unet and mse; dncnn and l1
    assert [method.label for method in study.methods] == ["4: unet mse seed 0", "3: dncnn l1 seed 1"]


def test_a_sweep_without_any_finished_cell_shows_its_states(tmp_path, monkeypatch, capfd):
    folder = build.sweep(tmp_path / "s", [cell | {"state": "waiting"} for cell in build.crossed(**AXES)])
    code, printed = call(monkeypatch, capfd, main, folder, f"output={tmp_path / 'out'}")
    assert code == 0, printed
    text = (tmp_path / "out" / "report.md").read_text()
    assert [row[4] for row in rows(text, "Cells")] == ["waiting"] * 8
    assert "No cell is done yet" in (tmp_path / "out" / "report.html").read_text()


def test_what_cannot_be_reported_is_refused(tmp_path, monkeypatch, capfd):
    folder = build.sweep(tmp_path / "s", build.crossed(**AXES)[:1])
    for damage in ("{", "[]", '{"program": [], "axes": [], "jobs": []}', '{"program": 1, "axes": [], "jobs": {}}'):
        (folder / "ledger.json").write_text(damage)
        code, printed = call(monkeypatch, capfd, main, folder)
        assert (code, f"{folder / 'ledger.json'} is damaged" in printed) == (2, True), printed
    code, printed = call(monkeypatch, capfd, main, folder / "0", "--follow")
    assert (code, "is no sweep" in printed) == (2, True), printed


def test_follow_is_typed_as_a_flag(tmp_path):
    assert overrides([str(tmp_path), "--follow"]) == [f"path='{tmp_path}'", "follow=true"]


# --- following --------------------------------------------------------------------------------------------------------


def followed(html):
    return '"reload":null' not in html.read_text()


def test_the_report_follows_the_sweep_to_its_end(tmp_path, monkeypatch):
    folder = build.sweep(tmp_path / "s", [cell | {"state": "waiting"} for cell in build.crossed(**AXES)[:2]])
    monkeypatch.setattr(follow, "EVERY", 0.02)
    html, seen = folder / "report.html", []
    cells = build.crossed(**AXES)[:2]

    def carry_out():
        """What a sweep does, with a look at the report before every step."""
        for state in ("2 waiting", "1 done, 1 waiting"):
            wait(lambda state=state: html.is_file() and followed(html) and f"2 cells: {state}" in html.read_text())
            seen.append(state)
            build.sweep(folder, [cells[0], cells[1] | {"state": "done" if len(seen) == 2 else "waiting"}])

    sweep = threading.Thread(target=carry_out)
    sweep.start()
    follow.follow(folder, folder)
    sweep.join()
    assert len(seen) == 2
    assert "2 cells: 2 done." in html.read_text()
    assert not followed(html)


def wait(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_sweep_that_is_held_goes_on(tmp_path):
    folder = build.sweep(tmp_path / "s", build.crossed(**AXES)[:1])
    assert not follow.goes_on(folder)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert follow.goes_on(folder)
    assert not follow.goes_on(folder)
    ledger = json.loads((folder / "ledger.json").read_text())
    ledger["jobs"]["f1"] = {"number": 1, "overrides": [], "state": "waiting"}
    (folder / "ledger.json").write_text(json.dumps(ledger))
    assert follow.goes_on(folder)


def test_ctrl_c_ends_following(tmp_path):
    folder = build.sweep(tmp_path / "s", [cell | {"state": "waiting"} for cell in build.crossed(**AXES)])
    command = [sys.executable, "-m", "experiments.report", str(folder), "--follow"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait(lambda: (folder / "report.md").is_file(), 60)
    assert followed(folder / "report.html")
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert "Traceback" not in printed
    assert not followed(folder / "report.html")  # it would load itself for ever
