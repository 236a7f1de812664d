"""Checkpoints: nothing in them runs, nothing foreign is built, and what does not fit is named."""

import os

import numpy as np
import pytest
import torch
from conftest import randomize
from hydra.utils import instantiate

import denoisers
from denoisers import checkpoint
from denoisers.checkpoint import CheckpointError
from denoisers.module import DenoisingModule
from denoisers.objectives.supervised import Supervised


def save(path, compose, *overrides, **changes):
    cfg = compose("model=dncnn", "model.num_features=4", "model.num_layers=3", *overrides)
    network = randomize(instantiate(cfg.model))
    model = dict(cfg.model)
    content = {
        "state_dict": {f"network.{key}": value for key, value in network.state_dict().items()},
        "record": {"config": {"model": model | changes, "channels": cfg.channels}},
    }
    torch.save(content, path)
    return network.eval()


def test_load_rebuilds_the_network(compose, tmp_path):
    network = save(tmp_path / "x.ckpt", compose)
    image = torch.rand(1, 1, 17, 9)
    with torch.no_grad():
        expected = network(image).clamp(0, 1)
    torch.testing.assert_close(denoisers.load(tmp_path / "x.ckpt")(image), expected)


def test_a_network_meets_a_picture_of_other_channels_by_its_rule(compose, tmp_path):
    grey, colour = torch.rand(1, 1, 9, 7), torch.rand(1, 3, 9, 7)
    one = save(tmp_path / "1.ckpt", compose, "channels=1")
    three = save(tmp_path / "3.ckpt", compose, "channels=3")
    with torch.no_grad():
        by_channel = torch.cat([one(colour[:, i : i + 1]) for i in range(3)], dim=1).clamp(0, 1)
        mean = three(torch.cat([grey, grey, grey], dim=1)).mean(dim=1, keepdim=True).clamp(0, 1)
    torch.testing.assert_close(denoisers.load(tmp_path / "1.ckpt")(colour), by_channel)
    torch.testing.assert_close(denoisers.load(tmp_path / "3.ckpt")(grey), mean)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 1), (9, 7, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_arrays_come_back_as_they_came(compose, tmp_path, channels, shape, dtype):
    save(tmp_path / "x.ckpt", compose, f"channels={channels}")
    denoiser = denoisers.load(tmp_path / "x.ckpt")
    random = np.random.default_rng(0)
    image = random.integers(0, 256, shape).astype(np.uint8) if dtype == np.uint8 else random.random(shape).astype(dtype)
    clean = denoiser(image)
    assert (clean.shape, clean.dtype) == (image.shape, image.dtype)
    assert not np.array_equal(clean, image)
    planes = torch.from_numpy(image.reshape(*shape[:2], -1).astype(np.float32)).permute(2, 0, 1)
    through = denoiser(planes / (255 if dtype == np.uint8 else 1)).permute(1, 2, 0).numpy().reshape(shape)
    np.testing.assert_allclose(
        clean / (255 if dtype == np.uint8 else 1), through, atol=0.51 / 255 if dtype == np.uint8 else 1e-6
    )


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 2)),
        np.zeros(4),
        np.zeros((4, 4), dtype=np.int64),
        torch.zeros(2, 4, 4),
        torch.zeros(1, 4, 4).int(),
    ],
)
def test_other_shapes_and_types_are_refused(compose, tmp_path, image):
    save(tmp_path / "x.ckpt", compose)
    with pytest.raises(ValueError, match="with C = 1 or 3|of uint8"):
        denoisers.load(tmp_path / "x.ckpt")(image)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    victim = tmp_path / "victim"
    torch.save({"state_dict": Malicious(str(victim)), "record": {"config": {}}}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=r"x\.ckpt is refused.*could run any code"):
        denoisers.load(tmp_path / "x.ckpt")
    assert not victim.exists()


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "shutil.copy",
        "torch.load",
        "torch.nn.Linear",
        "denoisers.inference.load",
        "denoisers.checkpoint.pickle.loads",
        "denoisers.networks.dncnn.nn.Linear",
        "denoisers.networks.dncnn.Linear",
        "denoisers.metrics.Score",
        "denoisers.networks.dncnn.same_conv",
        "denoisersx.networks.dncnn.DnCNN",
        "denoisers",
        "",
    ],
)
def test_only_networks_of_ours_are_built_from_a_file(compose, tmp_path, monkeypatch, target):
    monkeypatch.setattr("denoisers.networks.dncnn.Linear", torch.nn.Linear, raising=False)  # imported there, not ours
    save(tmp_path / "x.ckpt", compose, _target_=target)
    with pytest.raises(CheckpointError, match="only networks under denoisers|not in this version"):
        denoisers.load(tmp_path / "x.ckpt")


def test_damaged_and_foreign_files_are_refused(compose, tmp_path):
    save(tmp_path / "x.ckpt", compose)
    whole = (tmp_path / "x.ckpt").read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.ckpt").write_bytes(b"")
    (tmp_path / "text.ckpt").write_text("hello")
    foreign = [
        {"weights": torch.zeros(1)},
        [1],
        {"state_dict": {}, "record": 5},
        {"state_dict": 3, "record": {"config": {}}},
    ]
    foreign.append({"state_dict": {"network.x": 5}, "record": {"config": {"model": {}, "channels": 1}}})
    for index, content in enumerate(foreign):
        torch.save(content, tmp_path / f"foreign{index}.ckpt")
    for name in ("half", "empty", "text", *(f"foreign{index}" for index in range(len(foreign)))):
        with pytest.raises(CheckpointError, match=rf"{name}\.ckpt"):
            checkpoint.read(tmp_path / f"{name}.ckpt")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        checkpoint.read(tmp_path / "absent.ckpt")
    with pytest.raises(CheckpointError, match=r"checkpoints/best\.ckpt"):
        checkpoint.read(tmp_path)


def test_weights_of_another_network_are_named(compose, tmp_path):
    save(tmp_path / "x.ckpt", compose, channels=3)
    with pytest.raises(CheckpointError, match=r"body\.0\.weight: \(4, 1, 3, 3\).*\(4, 3, 3, 3\)"):
        denoisers.load(tmp_path / "x.ckpt")
    save(tmp_path / "x.ckpt", compose, num_layers=3.5)
    with pytest.raises(CheckpointError, match="refuses its arguments"):
        denoisers.load(tmp_path / "x.ckpt")


def test_a_module_refuses_the_checkpoint_of_another_architecture(compose):
    def module(*overrides):
        cfg = compose("model.num_features=4", *overrides)
        return DenoisingModule(
            instantiate(cfg.model),
            objective=Supervised(),
            loss=torch.nn.MSELoss(),
            optimizer=torch.optim.Adam,
            scheduler=instantiate(cfg.scheduler),
            score=instantiate(cfg.protocol.score),
            record={"config": {"model": dict(cfg.model)}},
        )

    there, here = module("model=xdncnn"), module("model=dncnn", "channels=3")
    saved = {"state_dict": there.state_dict()}
    there.on_save_checkpoint(saved)
    there.on_load_checkpoint(saved)
    with pytest.raises(CheckpointError) as error:
        here.on_load_checkpoint(saved)
    assert "DnCNN(channels=1, num_layers=9" in str(error.value)
    assert "DnCNN(channels=3, num_layers=17" in str(error.value)
    assert "network.body.0.weight: (4, 1, 3, 3)" in str(error.value)
