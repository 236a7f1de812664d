"""Smaller and faster forms of a network, and the table of them."""

import copy
import logging
from itertools import pairwise

import numpy as np
import pytest
import torch
from command_line import call
from conftest import randomize
from hydra.utils import instantiate
from PIL import Image
from torch import nn

from denoisers.activations import XUnit
from denoisers.exporting import Exporter
from denoisers.forms import Bfloat16, Folded
from denoisers.pruning import CRITERIA, PruningError, narrower, pruned
from denoisers.quantizing import int8_onnx, int8_openvino
from denoisers.ranged import ranged
from denoisers.weights import open_network
from experiments import compress, cost
from experiments.export import facts_of

DNCNN = {"_target_": "denoisers.networks.dncnn.DnCNN", "channels": 1, "num_layers": 4, "num_features": 8}
XDNCNN = DNCNN | {"activation": "xunit", "activation_kernel_size": 5}


def pairs(count=2, channels=1, size=24):
    found = []
    for index in range(count):
        generator = torch.Generator().manual_seed(index)
        clean = torch.rand(1, channels, size, size, generator=generator)
        noisy = clean + 0.1 * torch.randn(clean.shape, generator=generator)
        found.append((noisy, clean, torch.full((1, 1, 1, 1), 0.1)))
    return found


def lively(spec):
    """A network that does something: randomised, with gains of norms about 1."""
    network = randomize(instantiate(spec))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data += 1
    return network.eval()


def saved(folder, spec, network, **config):
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    record = {"config": {"model": spec, "channels": spec["channels"], **config}}
    torch.save({"state_dict": state, "record": record}, folder / "trained.ckpt")
    return folder / "trained.ckpt"


# --- channels are gone


def conv_names(network):
    return [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d) and module.groups == 1]


def kept_channels(wide, narrow, names):
    """Which outputs of each convolution but the last are left, found by their weights from the first one on."""
    kept, inputs = {}, torch.arange(wide.get_submodule(names[0]).in_channels)
    for name in names[:-1]:
        rows = wide.get_submodule(name).weight[:, inputs].flatten(1)
        left = narrow.get_submodule(name).weight.flatten(1)
        inputs = torch.stack([(rows == row).all(1).nonzero()[0, 0] for row in left])
        kept[name] = inputs
    return kept


@pytest.mark.parametrize("spec", [DNCNN, XDNCNN], ids=["dncnn", "xdncnn"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_pruned_network_is_the_wide_one_with_channels_at_zero(spec, criterion):
    wide = lively(spec)
    before = copy.deepcopy(wide.state_dict())
    narrow = pruned(wide, narrower(spec, 0.4), pairs(), criterion)
    assert all(torch.equal(value, before[key]) for key, value in wide.state_dict().items())
    names = conv_names(wide)
    assert [narrow.get_submodule(name).out_channels for name in names] == [3] * (len(names) - 1) + [1]
    kept = kept_channels(wide, narrow, names)
    assert any(channels.tolist() != [0, 1, 2] for channels in kept.values())
    muted = copy.deepcopy(wide)
    for name, follower in pairwise(names):
        gone = torch.ones(8, dtype=torch.bool).index_fill_(0, kept[name], False)
        # what goes into the next convolution, whatever norm or activation stands between
        muted.get_submodule(follower).weight.data[:, gone] = 0
    noisy = pairs(size=31)[0][0]
    with torch.no_grad():
        assert (narrow(noisy) - wide(noisy)).abs().max() > 1e-2
        torch.testing.assert_close(narrow(noisy), muted(noisy), atol=1e-5, rtol=1e-5)


def test_xunits_lose_the_same_channels():
    narrow = pruned(lively(XDNCNN), narrower(XDNCNN, 0.5), pairs())
    units = [module for module in narrow.modules() if isinstance(module, XUnit)]
    assert [unit.mask[2].weight.shape for unit in units] == [(4, 1, 5, 5)] * 3


@pytest.mark.parametrize("model", ["dncnn", "ffdnet", "ircnn", "fdncnn", "adnet", "unet", "drunet", "swift"])
def test_what_can_be_pruned(compose, model):
    from omegaconf import OmegaConf

    spec = OmegaConf.to_container(compose(f"model={model}", "channels=1").model, resolve=True) | {"num_features": 16}
    narrow = pruned(lively(spec), narrower(spec, 0.5), pairs(1, size=32), "l1")
    half = instantiate(spec | {"num_features": 8})
    assert {k: v.shape for k, v in narrow.state_dict().items()} == {k: v.shape for k, v in half.state_dict().items()}


def test_channels_that_say_nothing_go_first():
    wide = lively(DNCNN)
    first = next(module for module in wide.modules() if isinstance(module, nn.Conv2d))
    first.weight.data[[0, 2, 5, 7]] *= 1e-4
    first.bias.data[[0, 2, 5, 7]] *= 1e-4
    wide.body[2].weight.data[:, [0, 2, 5, 7]] *= 1e-4
    for criterion in CRITERIA:
        narrow = pruned(wide, narrower(DNCNN, 0.5), pairs(), criterion)
        assert torch.equal(narrow.body[0].weight, first.weight[[1, 3, 4, 6]])


def test_networks_that_cannot_be_pruned_are_named():
    lacking = {"_target_": "denoisers.networks.identity.Identity"}
    with pytest.raises(PruningError, match="Identity cannot be pruned.*num_features"):
        narrower(lacking, 0.5)
    spec = {"_target_": "denoisers.networks.restormer.Restormer", "channels": 1, "num_features": 8}
    spec |= {"num_blocks": [1, 1, 1, 1], "refinement_blocks": 1, "num_heads": [1, 1, 1, 1]}
    network = lively(spec)
    with pytest.raises(PruningError, match="Restormer cannot be pruned to num_features=4"):
        pruned(network, narrower(spec, 0.5), pairs(1), "l1")


# --- forms that compute nearly the same


@pytest.mark.parametrize("value_range", [[0, 1], [-1, 1]])
@pytest.mark.parametrize(("form", "near"), [(Folded, 1e-5), (Bfloat16, 3e-2)])
def test_forms_are_saved_and_opened(tmp_path, form, near, value_range):
    network = lively(DNCNN)
    opened = open_network(saved(tmp_path, DNCNN, ranged(network, value_range), value_range=value_range))
    spec = {"_target_": f"denoisers.forms.{form.__name__}", "model": DNCNN}
    formed = opened._replace(network=form.of(opened.network, DNCNN), spec=spec)
    facts = facts_of(formed)
    facts.record["config"]["value_range"] = value_range
    Exporter(formed.network, facts).safetensors(tmp_path / "formed.safetensors")
    again, noisy = open_network(tmp_path / "formed.safetensors").network, pairs()[0][0]
    with torch.no_grad():
        exact, found = ranged(network, value_range)(noisy), again(noisy)
        assert torch.equal(found, formed.network(noisy))
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() <= near * (exact - noisy).abs().max()
    norms = [module for module in again.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == (0 if form is Folded else 2)


def test_bfloat16_weights_take_half_the_room(tmp_path):
    opened = open_network(saved(tmp_path, DNCNN | {"num_features": 32}, instantiate(DNCNN | {"num_features": 32})))
    sizes = []
    for form in (None, Bfloat16):
        spec = opened.spec if form is None else {"_target_": "denoisers.forms.Bfloat16", "model": opened.spec}
        formed = opened if form is None else opened._replace(network=form.of(opened.network, opened.spec), spec=spec)
        Exporter(formed.network, facts_of(formed)).safetensors(tmp_path / f"{form}.safetensors")
        sizes.append((tmp_path / f"{form}.safetensors").stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]


# --- int8


@pytest.mark.parametrize("told", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("quantise", "suffix"), [(int8_onnx, ".onnx"), (int8_openvino, ".xml")])
def test_int8_files_run_and_are_close(tmp_path, caplog, quantise, suffix, told):
    spec = DNCNN | {"num_features": 32, "norm": True}
    if told:
        spec = {"_target_": "denoisers.networks.ffdnet.FFDNet", "channels": 1, "num_layers": 4, "num_features": 32}
    torch.manual_seed(0)
    network = instantiate(spec).eval()
    last = [module for module in network.modules() if isinstance(module, nn.Conv2d)][-1]
    nn.init.normal_(last.weight, 0, 0.05)
    opened = open_network(saved(tmp_path, spec, network))
    exact, target = tmp_path / f"exact{suffix}", tmp_path / f"int8{suffix}"
    exporter = Exporter(opened.network, facts_of(opened))
    (exporter.onnx if suffix == ".onnx" else exporter.openvino)(exact)
    names = ("noisy", "level") if told else ("noisy",)
    samples = [dict(zip(names, (noisy.numpy(), level.numpy()), strict=False)) for noisy, _, level in pairs(5)]
    before = logging.getLoggerClass(), logging.root.level, list(logging.root.handlers)
    quantise(exact, target, samples)
    assert (logging.getLoggerClass(), logging.root.level, list(logging.root.handlers)) == before
    logging.getLogger(f"after {suffix}").warning("still heard")
    assert "still heard" in caplog.text
    found = open_network(target)
    assert found.network.facts == open_network(exact).network.facts
    weights = [file.with_suffix(".bin") if suffix == ".xml" else file for file in (exact, target)]
    assert weights[1].stat().st_size < (0.5 if suffix == ".xml" else 0.8) * weights[0].stat().st_size
    with torch.no_grad():
        for height, width in ((24, 24), (37, 50)):
            noisy, level = torch.rand(1, 1, height, width), torch.full((1, 1, 1, 1), 0.1)
            estimate, expected = found.network(noisy, level), network(noisy, level)
            error = (estimate - expected).square().mean().sqrt()
            done = (expected - noisy).square().mean().sqrt()
            assert 1e-5 * done < error < 0.05 * done  # it is in int8, and close
    assert {file.name for file in tmp_path.iterdir()} <= {
        "trained.ckpt",
        *(f"{n}{s}" for n in ("exact", "int8") for s in (suffix, ".bin")),
    }


# --- the command


@pytest.fixture
def photographs(tmp_path):
    (tmp_path / "photographs").mkdir()
    for index in range(6):
        pixels = np.random.default_rng(index).integers(0, 255, (24, 24), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photographs" / f"{index}.png")
    return tmp_path / "photographs"


def typed(values):
    return "[" + ",".join(f'"{value}"' for value in values) + "]"


@pytest.mark.slow
def test_the_table_is_made_and_goes_on(monkeypatch, capfd, photographs, tmp_path):
    monkeypatch.setattr(compress, "SIZES", {32: "32²"})
    monkeypatch.setattr(cost, "REPEATS", 2)
    checkpoint = saved(tmp_path, DNCNN, lively(DNCNN))
    data = ["data=folder", f"data.path={photographs}"]
    short = ["data.patch_size=16", "data.crops_per_image=4", "data.batch_size=2", "trainer.max_steps=2"]
    folder = tmp_path / "table"
    variants = ["bf16", "folded", "int8_onnx", "int8_openvino", "pruned", "pruned-int8_onnx", "distilled"]
    (tmp_path / "student").mkdir()
    small = DNCNN | {"num_features": 2}
    asked = [
        f"checkpoint={checkpoint}",
        f"student={saved(tmp_path / 'student', small, lively(small))}",
        f"training={typed([*data, 'noise=sigma25'])}",
        f"case={typed([*data, 'noise=sigma25', 'protocol=kair'])}",
        f"finetune={typed(short)}",
        "calibration={crops: 3, patch_size: 16}",
        "size=[20,24]",
        f"run_dir={folder}",
    ]
    code, printed = call(monkeypatch, capfd, compress.main, *asked, f"variants={typed(variants)}")
    assert code == 0, printed
    lines = (folder / "compress.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["float32", *variants]
    for name in (
        "float32.safetensors",
        "bf16.safetensors",
        "int8_openvino.xml",
        "int8_openvino.bin",
        "pruned.safetensors",
    ):
        assert (folder / name).is_file()
    assert open_network(folder / "pruned.safetensors").network.body[0].out_channels == 4
    assert open_network(folder / "distilled.safetensors").network.body[0].out_channels == 2
    assert "| pruned-int8_onnx |" in (folder / "compress.md").read_text()
    changed = {file: file.stat().st_mtime_ns for file in folder.glob("*.*") if file.suffix in (".onnx", ".safetensors")}
    (folder / "int8_onnx.onnx").unlink()
    code, printed = call(monkeypatch, capfd, compress.main, *asked, f"variants={typed(variants)}")
    assert code == 0, printed
    assert "made already" in printed
    assert "measuring" not in printed
    assert [f.name for f, at in changed.items() if f.stat().st_mtime_ns != at] == ["int8_onnx.onnx"]
    code, printed = call(monkeypatch, capfd, compress.main, *asked, "variants=[float32]", "keep=0.25")
    assert code == 2
    assert "another keep" in printed


def test_forms_that_a_network_does_not_have_are_named_beneath_the_table(monkeypatch, capfd, tmp_path):
    cost_of = {"cpu_ms": 1.0, "peak_mb": None}
    monkeypatch.setattr(compress, "scored", lambda *args: 30.0)
    monkeypatch.setattr(compress, "costs_of", lambda *args: cost_of)
    monkeypatch.setattr(cost, "turns_apart", lambda places, *args: dict.fromkeys([*places, "eager"], 1.0))
    checkpoint = saved(tmp_path, DNCNN, ranged(lively(DNCNN), [-1, 1]), value_range=[-1, 1])
    folder = tmp_path / "table"
    asked = [f"checkpoint={checkpoint}", f"run_dir={folder}", "variants=[pruned,folded,pruned-onnx]"]
    code, printed = call(monkeypatch, capfd, compress.main, *asked)
    assert code == 3, printed
    rows = (folder / "compress.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["float32", "folded"]
    beneath = (folder / "compress.md").read_text().split("\n\n")[-2:]
    for line, variant in zip(beneath, ["pruned", "pruned-onnx"], strict=True):
        assert line.strip() == f"{variant} is left out: only networks of the value range [0, 1] are pruned so far."
        assert f"{variant} is left out" in printed
    assert not [file for file in folder.iterdir() if "pruned" in file.name]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("variants=[int9]", "there is no variant 'int9'"),
        ("variants=int9", "there is no variant 'int9'"),
        ("keep=1.0", "keep=1.0: must be above 0 and below 1"),
        ("criterion=l2", "there is no 'l2'"),
        ("calibration.crops=0", "calibration.crops=0: must be at least 1"),
        ("size=[321]", "height and width"),
        ("checkpoint=nowhere.pth", "no checkpoint at nowhere.pth"),
    ],
)
def test_what_cannot_work_is_said_first(monkeypatch, capfd, tmp_path, override, message):
    checkpoint = saved(tmp_path, DNCNN, instantiate(DNCNN))
    asked = [f"checkpoint={checkpoint}", f"run_dir={tmp_path / 'table'}", override]
    code, printed = call(monkeypatch, capfd, compress.main, *asked)
    assert code == 2
    assert message in printed
    assert not (tmp_path / "table").exists()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_pruning", None)
    with pytest.raises(ValueError, match="torch_pruning.*\\[prune\\]"):
        pruned(instantiate(DNCNN).eval(), narrower(DNCNN, 0.5), pairs())
