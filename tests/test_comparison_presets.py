"""Comparisons that make what they compare: presets, which compose, train, evaluate and go on; a sweep of scores."""

import csv
import json
import math
import signal
import subprocess
import sys
import time

import hydra
import numpy as np
import pytest
from command_line import call
from conftest import CONF, ROOT, choices
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image
from skimage import data as skimage_data
from test_compare import cells

from experiments import compare, evaluate, plan


def composed(config_name, *overrides):
    """A configuration as it is composed, nothing resolved."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(config_name, list(overrides))


def preset_of(name):
    """A preset of conf/comparison, resolved; methods that are None left out."""
    cfg = composed("compare", f"comparison={name}", *["comparison.sigma=5"] * (name == "profile"))
    found = OmegaConf.to_container(cfg.comparison, resolve=True)
    return found | {"methods": {method: typed for method, typed in found["methods"].items() if typed}}


@pytest.mark.parametrize("name", choices("comparison"))
def test_what_a_preset_types_can_be_typed(name):
    preset = preset_of(name)
    assert preset["methods"]
    assert preset["cases"]
    for method in preset["methods"].values():
        one = next(iter(plan.expanded({"one": method}).values()))  # of a grid
        if "train" in one:
            composed("train", *preset["training"], *one["train"])
        for case in preset["cases"]:
            composed("evaluate", *one.get("evaluate", []), *case)


@pytest.mark.parametrize("name", ["sigma50", "sigma50_minutes"])
def test_the_papers_two_networks_differ_in_nothing_but_themselves(name):
    preset = preset_of(name)
    assert set(preset["methods"]) == {"dncnn", "xdncnn"}
    asked = [composed("train", *preset["training"], *method["train"]) for method in preset["methods"].values()]
    one, other = (OmegaConf.to_container(cfg, resolve=False) for cfg in asked)
    assert {key for key in one if one[key] != other[key]} == {"model"}
    assert (one["noise"]["sigma"], one["data"]["patch_size"], one["optimizer"]["lr"]) == (50, 40, 1e-3)
    assert one["budget"] == ("7min" if name == "sigma50_minutes" else None)
    if name == "sigma50":  # whole epochs, so that the last step is validated
        per_epoch = (400 - asked[0].data.splits.hold_out) * one["data"]["crops_per_image"] // one["data"]["batch_size"]
        assert asked[0].trainer.max_steps % per_epoch == 0


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(6):
        Image.fromarray(skimage_data.camera()[40 * number : 40 * number + 40, 200:260]).save(folder / f"{number}.png")
    return folder


def listed(*overrides):
    """Overrides as a list in an override."""
    return "[" + ",".join(f'"{override}"' for override in overrides) + "]"


def preset(pictures, *training):
    """A preset's command line that takes seconds."""
    place = ["data=folder", f"data.path={pictures}", "channels=1"]
    return [
        "comparison=set12",
        f"comparison.training={listed('experiment=debug', *place, 'model.num_features=4', *training)}",
        f"comparison.cases=[{listed(*place, 'noise=sigma25')}]",
        f"comparison.methods.bm3d.evaluate={listed('model=median')}",
        "comparison.methods.dncnn=null",
        "comparison.methods.light_unet=null",
        f"comparison.methods.unet.train={listed('model=dncnn', 'model.num_layers=2')}",
    ]


@pytest.mark.slow
def test_a_preset_trains_evaluates_compares_and_goes_on(monkeypatch, capfd, tmp_path, pictures):
    folder = tmp_path / "c"
    arguments = [*preset(pictures), f"run_dir={folder}"]
    code, printed = call(monkeypatch, capfd, compare.main, *arguments)
    assert code == 0, printed
    shown = cells(folder)
    assert {name for name, _ in shown} == {"noisy", "dncnn", "median"}
    rows = list(csv.DictReader((folder / "evaluations" / "bm3d-0" / "per_image.csv").open()))
    assert shown["median", "PSNR"] == f"{np.mean([float(row['psnr']) for row in rows]):.2f}"
    assert shown["dncnn", "parameters"] == "77"
    assert float(shown["dncnn", "training min"]) >= 0
    assert float(shown["dncnn", "CPU ms"]) >= 0
    assert (folder / "report.html").stat().st_size > 10_000

    weights = (folder / "runs" / "unet-0" / "checkpoints" / "best.ckpt").stat().st_mtime_ns
    code, printed = call(monkeypatch, capfd, compare.main, *arguments, "cost=false")
    assert code == 0, printed
    assert printed.count("done already") == 3
    assert (folder / "runs" / "unet-0" / "checkpoints" / "best.ckpt").stat().st_mtime_ns == weights

    code, printed = call(
        monkeypatch,
        capfd,
        compare.main,
        *arguments,
        "comparison.seeds=[0]",
        f"comparison.cases=[{listed('data=set12')}]",
    )
    assert code == 2
    assert "was made with" in printed


@pytest.mark.slow
def test_ctrl_c_stops_a_preset_in_good_order_and_it_goes_on(monkeypatch, capfd, tmp_path, pictures):
    folder = tmp_path / "c"
    arguments = [
        *preset(pictures, "trainer.max_steps=150"),
        f"run_dir={folder}",
        "cost=false",
        "report=false",
    ]
    process = subprocess.Popen([sys.executable, "-m", "experiments.compare", *arguments], cwd=ROOT)
    run = folder / "runs" / "unet-0"
    deadline = time.monotonic() + 120
    while not (run / "metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert (run / "checkpoints" / "last.ckpt").exists()
    assert not (run / "summary.json").exists()
    code, printed = call(monkeypatch, capfd, compare.main, *arguments)
    assert code == 0, printed
    assert f"train.py resume='{run}'" in printed
    assert json.loads((run / "summary.json").read_text())["steps"] == 150


@pytest.mark.slow
def test_a_preset_whose_training_fails_says_so(monkeypatch, capfd, tmp_path, pictures):
    arguments = preset(pictures, "data.path=/nowhere")
    code, printed = call(monkeypatch, capfd, compare.main, *arguments, f"run_dir={tmp_path / 'c'}")
    assert code == 2
    assert "no such directory: /nowhere" in printed
    assert "ended with exit code 2" in printed


def test_a_sweep_of_evaluations_is_compared(monkeypatch, capfd, tmp_path, pictures):
    place = ["data=folder", f"data.path={pictures}", "channels=1", "processes=1", "pictures=false"]
    code, printed = call(
        monkeypatch, capfd, evaluate.main, "-m", "model=identity,median", "noise=sigma15,sigma50", *place,
        f"run_dir={tmp_path / 'sweep'}",
    )  # fmt: skip
    assert code == 0, printed
    places = [f"run_dir={tmp_path / 'c'}", "cost=false", "report=false"]
    code, printed = call(monkeypatch, capfd, compare.main, tmp_path / "sweep", *places)
    assert code == 0, printed
    shown = cells(tmp_path / "c")
    noisy = float(shown["identity", f"{pictures.name} sigma50 kair PSNR"])
    assert noisy == float(shown["noisy", f"{pictures.name} sigma50 kair PSNR"])
    assert 20 * math.log10(255 / 50) < noisy < 17  # clipping helps
    assert float(shown["median", f"{pictures.name} sigma15 kair PSNR"]) > 24


def test_a_grid_is_a_method_for_each_combination():
    methods = {"none": None, "a": {"train": ["x=1"], "grid": {"k": [3, 5], "d": [7]}}, "b": {"evaluate": ["model=b"]}}
    assert plan.expanded(methods) == {
        "a-3-7": {"train": ["x=1", "k=3", "d=7"]},
        "a-5-7": {"train": ["x=1", "k=5", "d=7"]},
        "b": {"evaluate": ["model=b"]},
    }
