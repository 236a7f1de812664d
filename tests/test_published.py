"""Networks with published weights against plain computations that read those weights by their published names."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from command_line import call
from conftest import randomize
from PIL import Image
from plain_networks import SIGMA, STYLES, drunet_state, plain_ffdnet, plain_stack, rand, stack, torch_conv, with_prefix
from torch import nn

import denoisers
import experiments.denoise
import experiments.evaluate
from datamodules.images import decode, to_tensor
from datamodules.noise.gaussian import GaussianNoise
from datamodules.realisation import Kair
from datamodules.splits import images_of
from denoisers.architectures import ARCHITECTURES
from denoisers.checkpoint import CheckpointError, build
from denoisers.folding import fold_batch_norm, folded_alike
from denoisers.layers import LevelError
from denoisers.metrics import Score
from denoisers.networks.adnet import ADNet
from denoisers.networks.dncnn import DnCNN
from denoisers.networks.drunet import DRUNet
from denoisers.networks.ffdnet import FFDNet
from denoisers.networks.unet import UNet
from denoisers.weights import open_network


@pytest.mark.parametrize("style", STYLES)
def test_published_styles_against_a_plain_computation(style, tmp_path):
    name, channels, make, plain = STYLES[style]
    content = make()
    torch.save(content, tmp_path / "x.pth")
    opened = open_network(tmp_path / "x.pth")
    assert (opened.name, opened.channels, opened.record) == (name, channels, None)
    for height, width in [(16, 8)] if name == "drunet" else [(12, 8), (7, 9), (1, 1)]:
        noisy = torch.rand(2, opened.channels, height, width)
        with torch.no_grad():
            estimate = opened.network(noisy, torch.full((2, 1, 1, 1), SIGMA))
            reference = plain(content, noisy)
        assert (reference - noisy).abs().max() > 1e-3
        assert (estimate - reference).abs().max() < 1e-5 * reference.abs().max().clamp(min=1)


def test_what_was_found_is_said(tmp_path):
    torch.save(STYLES["SaoYan DnCNN"][2](), tmp_path / "s.pth")
    said = open_network(tmp_path / "s.pth").said
    assert "DnCNN(channels=1, num_layers=4, num_features=6, kernel_size=3, norm=True)" in said
    assert "module.dncnn" in said
    assert "without bias" in said
    torch.save(STYLES["IPOL FFDNet"][2](), tmp_path / "i.pth")
    assert "batch norm merged" in open_network(tmp_path / "i.pth").said
    torch.save(STYLES["KAIR DRUNet, RGB"][2](), tmp_path / "d.pth")
    assert "below 'params'" in open_network(tmp_path / "d.pth").said


@pytest.mark.parametrize("wrapper", ["params_ema", "params", "state_dict", "model", "ema"])
def test_wrappers_and_safetensors_hold_the_same(tmp_path, wrapper):
    state = STYLES["KAIR DnCNN"][2]()
    torch.save({wrapper: with_prefix("module.", state), "epoch": 5}, tmp_path / "x.pth")
    safetensors.torch.save_file(state, tmp_path / "x.safetensors")
    noisy = torch.rand(1, 1, 9, 9)
    estimates = [open_network(tmp_path / f"x.{suffix}").network(noisy) for suffix in ("pth", "safetensors")]
    assert torch.equal(*estimates)


WINDOWS = {"channels": 3, "num_features": 16, "num_blocks": 3, "window_size": 4}
STACK = {"channels": 3, "num_layers": 4, "num_features": 5, "kernel_size": 5}
LEVELS = {"num_blocks": [1, 2, 3, 1], "num_heads": [1, 2, 2, 4], "refinement_blocks": 2, "expansion": 2.66}
SIZES = {  # of every architecture, none as published, so that all are read off
    "DnCNN": STACK,
    "IRCNN": {"channels": 3, "num_features": 5},
    "IRCNNBank": {"channels": 3, "num_features": 5, "num_networks": 3},
    "FDnCNN": STACK,
    "FFDNet": STACK,
    "ADNet": {"channels": 3, "num_features": 5},
    "DRUNet": {"channels": 3, "num_layers": 3, "num_blocks": 2, "num_features": 5},
    "NAFNet": {"num_features": 4, "encoder_blocks": [1, 2], "middle_blocks": 3, "decoder_blocks": [2, 1]},
    "Restormer": {"num_features": 8, **LEVELS},
    "SwinIR": {**WINDOWS, "num_groups": 2, "num_heads": 4, "expansion": 1.5},
    "SCUNet": {**WINDOWS, "head_features": 4},
}


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda one: one.target.rpartition(".")[2])
def test_every_known_architecture_is_recognised_at_any_size(tmp_path, architecture):
    title = architecture.target.rpartition(".")[2]
    network = randomize(build({"_target_": architecture.target, **SIZES[title]})).eval()
    state = network.state_dict()
    if title == "IRCNNBank":
        state = {key.replace("networks.", "").replace("body", "model"): tensor for key, tensor in state.items()}
    if title == "ADNet":
        names = {key: published_adnet(key) for key in state}
        state = {names[key]: tensor for key, tensor in state.items()}
    torch.save({"params": with_prefix("module.", state)}, tmp_path / "x.pth")
    opened = open_network(tmp_path / "x.pth")
    assert type(opened.network) is type(network)
    assert opened.name == architecture.name
    noisy, level = torch.rand(1, 3, 16, 24), torch.full((1, 1, 1, 1), 1 / 255)
    with torch.no_grad():
        assert torch.equal(opened.network(noisy, level), network(noisy, level))


def published_adnet(key):
    where, number, *rest = key.split(".")
    if where == "attention":
        return key.replace("attention", "conv3")
    layer, part = divmod(int(number), 3)
    return f"conv1_{layer + 1}" + (f".{part}" if layer < 15 else "") + f".{rest[0]}"


def drop(state, key):
    return {name: tensor for name, tensor in state.items() if name != key}


BROKEN = {  # what is wrong → a file's content, and what is said of it
    "shape": (drunet_state() | {"m_tail.weight": rand(1, 5, 3, 3)}, ["is DRUNet", "m_tail.weight: (1, 5, 3, 3)"]),
    "missing": (drop(drunet_state(), "m_tail.weight"), ["nearest is DRUNet", "m_tail.weight: absent"]),
    "widths": (stack("model.", [1, 6, 5, 6, 1]), ["nearest is DnCNN", "below model", "body.2.weight"]),
    "ends": (stack("model.", [2, 6, 6, 6, 7]), ["nearest is"]),
    "activation": (stack("net.", [1, 6, 6, 1]) | {"net.1.weight": rand(1)}, ["nearest is", "body.1.weight"]),
    "another thing": ({"weights": torch.zeros(1)}, ["known (dncnn", "weights"]),
    "no tensors": ({"state_dict": {"a": 1}}, ["no state dict", "a"]),
    "a list": ([1, 2], ["no state dict", "list"]),
    "nothing": ({}, ["no state dict"]),
}


@pytest.mark.parametrize("wrong", BROKEN)
def test_unknown_files_name_the_nearest_architecture(tmp_path, wrong):
    content, messages = BROKEN[wrong]
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError) as error:
        denoisers.load(tmp_path / "x.pth")
    for message in ["x.pth", *messages]:
        assert message in str(error.value)


def test_damaged_safetensors_are_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="x.safetensors"):
        open_network(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("network", "left"),
    [
        (DnCNN(num_layers=5, num_features=6), 0),
        (DnCNN(num_layers=4, num_features=6, activation="xunit"), 3),  # an xUnit begins with one
        (DnCNN(num_layers=4, num_features=6, activation="xunit_d"), 0),
        (UNet(num_layers=2, num_features=6), 0),
        (ADNet(num_features=6), 0),
    ],
)
def test_folded_batch_norm_gives_the_same(network, left):
    randomize(network).eval()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    folded, noisy = fold_batch_norm(network), torch.rand(2, 1, 13, 16)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == left
    with torch.no_grad():
        expected = network(noisy)
        assert (folded(noisy) - expected).abs().max() < 1e-5 * expected.abs().max().clamp(min=1)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


class Curious(nn.Module):
    """Reads what a convolution puts out also beside the batch norm, or uses the convolution twice."""

    def __init__(self, twice: bool) -> None:
        super().__init__()
        self.twice, conv = twice, nn.Conv2d(1, 1, 3, padding=1)
        self.body = nn.Sequential(conv, nn.BatchNorm2d(1))
        self.other = nn.Sequential(conv) if twice else nn.Identity()

    def forward(self, noisy, level=None):
        return self.body(noisy) + (self.other(noisy) if self.twice else self.body[0](noisy))


@pytest.mark.parametrize("twice", [False, True])
def test_batch_norm_stays_where_folding_it_would_change_the_estimate(twice):
    network = randomize(Curious(twice)).eval()
    noisy = torch.rand(1, 1, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(folded_alike(network, 1)(noisy), network(noisy), atol=0, rtol=0)


def test_pictures_are_cleaned_by_folded_networks(teacher):
    path, network = teacher
    found = denoisers.load(path).network
    assert not any(isinstance(module, nn.BatchNorm2d) for module in found.modules())
    noisy = torch.rand(1, 1, 20, 30)
    with torch.no_grad():
        assert 0 < (found(noisy) - network(noisy)).abs().max() < 1e-5


def test_a_folded_dncnn_is_a_dncnn_without_norm(tmp_path):
    network = randomize(DnCNN(num_layers=5, num_features=6)).eval()
    torch.save(fold_batch_norm(network).state_dict(), tmp_path / "x.pth")
    opened, noisy = open_network(tmp_path / "x.pth"), torch.rand(1, 1, 9, 9)
    assert "norm=False" in opened.said
    torch.testing.assert_close(opened.network(noisy), network(noisy), atol=1e-5, rtol=1e-5)


def test_level_maps_say_where_the_noise_is():
    network = randomize(FFDNet(num_layers=3, num_features=4)).eval()
    noisy, level = torch.rand(1, 1, 20, 24), torch.full((1, 1, 20, 24), 0.1)
    level[..., 16:] = 0.3
    with torch.no_grad():
        mixed, low = network(noisy, level), network(noisy, level[..., :1, :1])
    assert torch.equal(mixed[..., :8], low[..., :8])
    assert not torch.equal(mixed[..., 16:], low[..., 16:])


def test_drunet_pads_to_its_resolutions():
    network = randomize(DRUNet(num_blocks=1, num_features=4)).eval()
    noisy, level = torch.rand(1, 1, 13, 17), torch.full((1, 1, 1, 1), 0.1)
    padded = F.pad(noisy, (0, 7, 0, 3), mode="replicate")
    with torch.no_grad():
        torch.testing.assert_close(network(noisy, level), network(padded, level)[..., :13, :17])


# --- where a checkpoint is taken


@pytest.fixture
def ffdnet(tmp_path):
    torch.save(stack("model.", [5, 6, 6, 4]), tmp_path / "ffdnet.pth")
    return tmp_path / "ffdnet.pth"


def test_load_takes_published_files_and_asks_for_the_level(ffdnet):
    denoiser, image = denoisers.load(ffdnet), np.random.default_rng(0).random((9, 11), dtype=np.float32)
    with pytest.raises(LevelError, match=r"FFDNet has to be told .* level"):
        denoiser(image)
    state = torch.load(ffdnet, weights_only=True)
    expected = plain_ffdnet(state, "model.", torch.from_numpy(image)[None, None], 0.1).clamp(0, 1)[0, 0]
    np.testing.assert_allclose(denoiser(image, 0.1), expected, atol=1e-5)
    np.testing.assert_allclose(denoiser(image, torch.full((1, 1, 9, 11), 0.1)), expected, atol=1e-5)


def test_denoise_takes_published_files_and_asks_for_sigma(ffdnet, tmp_path, monkeypatch, capfd):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    arguments = [f"checkpoint={ffdnet}", f"input={tmp_path / 'in.png'}", f"output={tmp_path / 'out.png'}"]
    code, printed = call(monkeypatch, capfd, experiments.denoise.main, *arguments)
    assert code == 2
    assert "FFDNet has to be told how strong the noise is: add sigma=" in printed
    code, printed = call(monkeypatch, capfd, experiments.denoise.main, *arguments, "sigma=much")
    assert code == 2
    assert "sigma=much" in printed
    code, printed = call(monkeypatch, capfd, experiments.denoise.main, *arguments, "sigma=25")
    assert not code, printed
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), denoisers.load(ffdnet)(pixels, 25 / 255))


def test_evaluate_takes_published_files(ffdnet, tmp_path, monkeypatch, capfd):
    folder, run = tmp_path / "pictures", tmp_path / "e"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 23), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    arguments = [f"checkpoint={ffdnet}", "data=folder", f"data.path={folder}", "noise=sigma50", "metrics=[psnr]"]
    code, printed = call(monkeypatch, capfd, experiments.evaluate.main, *arguments, f"run_dir={run}")
    assert code == 0, printed
    assert "FFDNet(channels=1, num_layers=3" in printed
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["model"], summary["trained"], summary["channels"]) == ("ffdnet", None, 1)
    assert Path(summary["checkpoint"]).resolve() == ffdnet.resolve()
    clean = to_tensor(pixels[..., None])
    noisy, _ = Kair()(GaussianNoise(sigma=50), clean, eval_seed=0)
    estimate = plain_ffdnet(torch.load(ffdnet, weights_only=True), "model.", noisy[None], 50 / 255)
    [result] = summary["results"].values()
    assert result["psnr"] == pytest.approx(Score()(estimate, clean[None])["psnr"].item(), abs=1e-3)
    Image.fromarray(pixels).save(tmp_path / "n.png")
    arguments = [f"checkpoint={ffdnet}", "data=noisy", f"data.path={folder}", "noise=none", f"run_dir={tmp_path / 'n'}"]
    code, printed = call(monkeypatch, capfd, experiments.evaluate.main, *arguments)
    assert code == 2
    assert "FFDNet has to be told" in printed


# --- on published weights

REAL = {  # file → set, σ, (state, noisy) → estimate
    "kair/dncnn_25.pth": ("BSD68", 25, lambda s, x: x - plain_stack(s, "model.", x, conv=torch_conv)),
    "kair/dncnn_color_blind.pth": ("CBSD68", 50, lambda s, x: x - plain_stack(s, "model.", x, conv=torch_conv)),
    "kair/ffdnet_gray.pth": ("BSD68", 15, lambda s, x: plain_ffdnet(s, "model.", x, 15 / 255, conv=torch_conv)),
    "kair/ffdnet_color.pth": ("CBSD68", 25, lambda s, x: plain_ffdnet(s, "model.", x, 25 / 255, conv=torch_conv)),
    "saoyan/dncnn_s25.pth": ("Set12", 25, lambda s, x: x - plain_stack(s, "module.dncnn.", x, conv=torch_conv)),
    "saoyan/dncnn_s50.pth": ("Set12", 50, lambda s, x: x - plain_stack(s, "module.dncnn.", x, conv=torch_conv)),
}


@pytest.mark.slow
@pytest.mark.parametrize("file", REAL)
def test_real_weights_against_a_plain_forward(real_data, file):
    """Two images each; ``python -m experiments.ledger`` scores whole sets."""
    path, (set_name, sigma, plain) = real_data / "weights" / file, REAL[file]
    if not path.is_file():
        pytest.skip(f"no published weights: {path}")
    network, state = open_network(path).network, torch.load(path, weights_only=True, map_location="cpu")
    for item in images_of(set_name, str(real_data))[:2]:
        clean = to_tensor(decode(item.clean))
        noisy, level = Kair()(GaussianNoise(sigma=sigma), clean, eval_seed=0)
        with torch.no_grad():
            estimate = network(noisy[None], level[None])
            reference = plain(state, noisy[None])
        assert (estimate - reference).abs().max() < 1e-5
        gain = Score()(estimate, clean[None])["psnr"] - Score()(noisy[None], clean[None])["psnr"]
        assert gain.item() > {15: 3, 25: 5, 50: 8}[sigma]
