"""What the documentation says can be typed: every command composes, every example runs."""

import functools
import importlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import documentation
import hydra
import numpy as np
import pytest
import torch
from command_line import call
from conftest import CONF, ROOT
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict
from skimage import data as skimage_data
from skimage import io

import train
from denoisers.networks.ffdnet import FFDNet
from experiments import cli

COMMANDS = {command.words: command for command in documentation.commands()}  # each once
VERB = re.compile(r'^@command\("(\w+)"(?:, ([\w.]+))?\)', re.M)
FLAGS = {"-m", "--help", "--cfg", "job"}  # Hydra's own
ADD = [block for block in documentation.blocks() if block.page.name == "add.md"]


def source(words):
    """The file that a ``python …`` runs."""
    if words[1] != "-m":
        return ROOT / words[1]
    path = ROOT / words[2].replace(".", "/")
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


def values(override):
    """The values of a sweep's axis, one override each; of an interval, its start."""
    parsed = OverridesParser.create().parse_override(override)
    if not parsed.is_sweep_override():
        return [override]
    key = parsed.get_key_element()
    if isinstance(parsed.value(), IntervalSweep):
        return [f"{key}={parsed.value().start}"]
    return [f"{key}={value}" for value in parsed.sweep_string_iterator()]


@functools.cache
def composed(config_name, overrides):
    """The configuration, checked as the command checks it before it begins."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose(config_name, list(overrides), return_hydra_config=True)
        with open_dict(cfg):
            cfg.hydra.runtime.output_dir = "."
        HydraConfig.instance().set_config(cfg)
        OmegaConf.set_struct(cfg, False)
        cfg.pop("hydra")
        cli.check(cfg, config_name)
    return cfg


def compose(path, words):
    """Composes what a command line asks for."""
    name, arguments = VERB.search(path.read_text()).groups()
    typed = [word for word in words if word not in FLAGS]
    if arguments and not any(word.startswith("resume=") for word in typed):  # which looks for that run
        module = "train" if path.parent == ROOT else str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
        typed = functools.reduce(getattr, arguments.split("."), importlib.import_module(module))(typed)
    axes = [values(override) for override in typed]
    assert "-m" in words or all(len(axis) == 1 for axis in axes), "several values want -m"
    for other in itertools.chain.from_iterable(axis[1:] for axis in axes):
        group, _, choice = other.partition("=")
        assert not (CONF / group).is_dir() or (CONF / group / f"{choice}.yaml").is_file(), other
    return composed(name, tuple(axis[0] for axis in axes))


def test_the_pages_are_read():
    assert len(COMMANDS) > 100
    assert {block.title.split("/")[0] for block in ADD if block.title} == {"denoisers", "datamodules", "conf"}
    assert ("python", "train.py", "-m", "seed=0,1,2") in COMMANDS


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda c: f"{c.page.name}:{c.line}")
def test_a_command_is_one_that_can_be_typed(command, monkeypatch):
    monkeypatch.delenv("DENOISERS_DATA", raising=False)
    program, *words = command.words
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert [word for word in words if "=" not in word and word not in targets] == []
        paths = [word for word in words if word.startswith("ARGS=")]
        assert all((ROOT / path.removeprefix("ARGS=")).is_file() for path in paths if "/" in path)
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert words[:2] == ["install", "-e"]
        assert set(words[2].removeprefix(".[").removesuffix("]").split(",")) <= set(extras)
    elif program == "pytest":
        assert all((ROOT / word).is_file() for word in words if word.endswith(".py"))
    elif command.page.name == "add.md" or "onnxruntime" in " ".join(words):
        pytest.skip("of what is added, below; or of another project")
    else:
        path = source(command.words)
        assert path.is_file()
        words = words[2:] if words[0] == "-m" else words[1:]
        if VERB.search(path.read_text()):
            compose(path, words)
        else:
            assert [w for w in words if w.startswith("--") and f'"{w}"' not in path.read_text()] == []


@pytest.mark.parametrize(
    "mistake", ["model=dncn", "nose.sigma=25", "loss=l1,mse", "model.num_layers=many", "model.depth=3"]
)
def test_a_command_that_is_wrong_is_found(mistake):
    with pytest.raises((AssertionError, HydraException, cli.UserError)):
        compose(ROOT / "train.py", ["model=dncnn", mistake])


def photos(folder, number=8):
    """Pictures 64×64 of one that ships inside scikit-image."""
    folder.mkdir(parents=True)
    for index in range(number):
        io.imsave(folder / f"{index}.png", skimage_data.camera()[64:128, 48 * index :][:, :64], check_contrast=False)


SHORT = ["trainer.max_steps=2", "data.patch_size=16", "data.batch_size=2", "data.crops_per_image=16", "data.resize=64"]
ELSEWHERE = (
    "-",
    "data=",
    "data.progressive=",
    "experiment=",
    "init_from=",
    "resume=",
    "find=",
    "budget=",
    "logger=",
    "trainer=",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [c for c in COMMANDS.values() if c.words[1:2] == ("train.py",) and c.page.name != "add.md"],
    ids=lambda c: f"{c.page.name}:{c.line}",
)
def test_a_training_begins_and_ends(command, tmp_path, monkeypatch, capfd):
    if any(word.startswith(ELSEWHERE) for word in command.words):
        pytest.skip("needs data, a run, or more time")
    arguments = [*command.words[2:], *SHORT, f"run_dir={tmp_path / 'run'}"]
    code, printed = call(monkeypatch, capfd, train.main, *arguments)
    assert code == 0, printed
    assert (tmp_path / "run" / "summary.json").is_file()


@pytest.mark.slow
def test_the_gallery_can_be_made(tmp_path):
    page = ROOT / "docs" / "gallery.md"
    for command in documentation.commands_of(page):
        words = [word for word in command.words[1:] if not word.startswith("trainer.")]
        run_in(tmp_path, *([ROOT / "train.py", *words[1:], *SHORT] if words[0] == "train.py" else words))
    made = re.findall(r"`([\w/]+\.png)`", page.read_text())
    assert len(made) == 3
    assert [path for path in made if not (tmp_path / path).is_file()] == []


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with everything that add.md adds."""
    folder = tmp_path_factory.mktemp("project")
    for part in ("conf", "denoisers", "datamodules", "experiments", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("train.py", "pyproject.toml"):
        shutil.copy(ROOT / part, folder)
    for block in ADD:
        assert not (folder / block.title).exists(), f"{block.title} would replace a file of the project"
        (folder / block.title).write_text(block.text)
    photos(folder / "photos")
    return folder


def run_in(folder, *arguments):
    """Runs Python in a folder → what it printed, if it ended well."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder if (folder / "train.py").is_file() else ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_is_added_trains(project):
    typed = [word for command in COMMANDS.values() if command.page.name == "add.md" for word in command.words]
    added = [word for word in typed if "=" in word]
    assert {word.split("=")[0] for word in added} >= {"model", "noise", "loss", "objective", "data"}
    run_in(project, "train.py", *added, *SHORT, "run_dir=run")
    config = OmegaConf.load(project / "run" / "config.yaml")
    assert dict(config.axes).items() >= {"model": "two_layers", "noise": "uniform", "loss": "edges"}.items()
    assert (config.axes.objective, config.axes.data, config.model.width) == ("mirrored", "photos", 24)
    assert (project / "run" / "per_image.csv").read_text().count("\n") == 2
    assert (project / "run" / "checkpoints" / "best.ckpt").is_file()


def test_what_is_added_is_in_the_style_of_the_project(project):
    files = [block.title for block in ADD if block.language == "python"]
    run_in(project, "-m", "ruff", "check", *files)
    run_in(project, "-m", "ruff", "format", "--check", *files)


@pytest.mark.slow
def test_what_is_added_keeps_the_contracts(project):
    run_in(project, "-m", "mypy", *(block.title for block in ADD if block.language == "python"))
    files = (f"tests/test_{name}.py" for name in ("networks", "noise", "noise_families", "losses", "objectives"))
    names = "two_layers or uniform or edges or mirrored"
    said = run_in(project, "-m", "pytest", "-n", "0", "-o", "addopts=", "-q", "-k", names, *files)
    assert int(re.search(r"(\d+) passed", said)[1]) >= 4


@pytest.mark.parametrize(
    "block", [b for b in documentation.blocks() if b.language == "python" and not b.title], ids=lambda b: b.page.stem
)
def test_an_example_in_python_runs(block, tmp_path, monkeypatch, teacher):
    monkeypatch.chdir(tmp_path)
    image = skimage_data.camera()[:32, :48]
    (tmp_path / "runs" / "…" / "checkpoints").mkdir(parents=True)
    (tmp_path / "clean").mkdir()
    shutil.copy(teacher[0], tmp_path / "runs" / "…" / "checkpoints" / "best.ckpt")
    torch.save(FFDNet().state_dict(), "ffdnet_gray.pth")
    io.imsave("scan.tif", np.stack([image] * 3), check_contrast=False)
    given = {
        "image": image,
        "Path": Path,
        "network": lambda pixels: pixels,
        "noisy": image[None, None] / np.float32(255),
    }
    if "net.onnx" in block.text:
        export(teacher[1], Path("net.onnx"))
    exec(compile(block.text, str(block.page), "exec"), given)
    results = [given[name] for name in ("clean", "estimate") if isinstance(given.get(name), np.ndarray)]
    assert all(result.shape[-2:] == image.shape for result in results)
    assert results or Path("clean/scan.tif").is_file()


def export(network, path):
    """A small ONNX file, as the command would make it."""
    from test_export import facts_for

    from denoisers.exporting import to_onnx

    to_onnx(network, path, facts_for(network))
