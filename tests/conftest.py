"""What the tests share: configurations composed as the command line composes them, and real data where it is there."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import backbones
import hydra
import pytest
import torch
from cleaned import IDENTITY, saved
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from datamodules.noise import profile
from datamodules.noise.moments import BINS
from experiments.networks import CLASSICAL

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
REAL_DATA = Path(os.environ.get("DENOISERS_DATA", ROOT.parent / "shared" / "data")).resolve()

THREADS = max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
torch.set_num_threads(THREADS)
os.environ["OMP_NUM_THREADS"] = str(THREADS)  # of the commands that tests start
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # in the background of a shell; what tests start would ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)
with contextlib.suppress(ImportError):  # OpenVINO uses it; Hydra has it close what pytest has put in place of stderr
    import absl.logging

    absl.logging.get_absl_handler().python_handler.setStream(sys.__stderr__)


def choices(group: str) -> list[str]:
    """The choices of an axis, found from its folder."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def model_file(model: str) -> Any:
    """What the file of a choice of the model axis says, with what the one it is made from says; no import's seconds."""
    cfg = OmegaConf.load(CONF / "model" / f"{model}.yaml")
    return OmegaConf.merge(model_file(cfg.defaults[0]), cfg) if "defaults" in cfg else cfg


def learns(model: str) -> bool:
    """Whether a choice of the model axis has anything to train."""
    return not model_file(model)._target_.startswith(CLASSICAL)


def takes_activation(model: str) -> bool:
    """Whether a choice of the model axis has an activation to choose."""
    return "activation" in model_file(model)


TRAINABLE = [name for name in choices("model") if learns(name)]
SMALL = {  # argument → at most
    "num_features": 8,
    "num_layers": 5,
    "num_groups": 2,
    "num_blocks": 2,
    "middle_blocks": 1,
    "refinement_blocks": 1,
    "num_heads": 2,
    "head_features": 2,
    "window_size": 4,
}
BRIEF = [  # a training of seconds, of pictures of 20 × 20 pixels
    "data=folder",
    "channels=1",
    "data.patch_size=12",
    "data.crops_per_image=6",
    "data.batch_size=4",
    "model=dncnn",
    "model.num_features=4",
    "model.num_layers=3",
    "trainer=cpu",
    "trainer.log_every_n_steps=1",
    "trainer.enable_progress_bar=false",
    "~callbacks.progress",
    "~callbacks.card",
    "~callbacks.strips",
]
SPECS: dict[str, dict[str, Any]] = {}  # model → its configuration


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Statistics are tested on the same draws every time."""
    torch.manual_seed(0)


@pytest.fixture
def compose() -> Callable[..., DictConfig]:
    """``compose("model=dncnn", …)`` → the configuration of ``train.py``, with what Hydra itself would fill in."""

    def composed(*overrides: str) -> DictConfig:
        GlobalHydra.instance().clear()
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = hydra.compose("train", list(overrides), return_hydra_config=True)
        with open_dict(cfg):
            cfg.hydra.runtime.output_dir = "."
        HydraConfig.instance().set_config(cfg)
        OmegaConf.set_struct(cfg, False)
        cfg.pop("hydra")
        return cfg

    return composed


@pytest.fixture
def spec(compose: Callable[..., DictConfig]) -> Callable[..., dict[str, Any]]:
    """``spec("dncnn", channels=3)`` → the model's configuration, as plain containers."""

    def found(model: str, channels: int = 1) -> dict[str, Any]:
        if model not in SPECS:
            composed: Any = OmegaConf.to_container(compose(f"model={model}", "channels=1").model, resolve=True)
            SPECS[model] = composed
        return SPECS[model] | ({"channels": channels} if "channels" in SPECS[model] else {})

    return found


def small(spec: dict[str, Any]) -> dict[str, Any]:
    """The same with fewer and narrower layers."""

    def reduced(key: str, value: Any) -> Any:
        if isinstance(value, list) and key.endswith("blocks"):
            return [1] * len(value)
        if key in SMALL and not isinstance(value, list):
            return SMALL[key] if value is None else min(value, SMALL[key])
        return value

    return {key: reduced(key, value) for key, value in spec.items()}


@pytest.fixture
def build_noise(compose: Callable[..., DictConfig], tmp_path: Path) -> Callable[..., Any]:
    """``build_noise("raw", channels=3)`` → the noise; noise=profile gets a file."""

    def built(name: str, channels: int) -> Any:
        file, overrides = tmp_path / "profiles.json", [f"noise={name}", f"channels={channels}"]
        if name == "profile":
            kernel = torch.eye(channels)[:, :, None, None].tolist()
            profile.save(
                file, {"all": profile.Profile(1, 25.5, [[[0.01] * profile.TEXTURES] * BINS] * channels, kernel)}
            )
            overrides.append(f"noise.file={file}")
        return instantiate(compose(*overrides).noise)

    return built


@pytest.fixture(scope="session")
def weights_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root that holds random weights for the losses that look for published ones."""
    root = tmp_path_factory.mktemp("data_root")
    backbones.write(root / "weights" / "lpips", "squeeze", "vgg")
    return root


@pytest.fixture
def teacher(tmp_path: Path) -> tuple[Path, torch.nn.Module]:
    """A trained network's checkpoint, and the network."""
    arguments = {"_target_": "denoisers.networks.dncnn.DnCNN", "num_layers": 4, "num_features": 7}
    network = randomize(instantiate(arguments)).eval()
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state, "record": {"config": {"model": arguments, "channels": 1}}}, tmp_path / "t.ckpt")
    return tmp_path / "t.ckpt", network


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    """The checkpoint of a network that changes nothing."""
    return saved(tmp_path / "identity.ckpt", IDENTITY)


@pytest.fixture
def denoise(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """``denoise(checkpoint, input, output, …)`` → exit code and what was printed."""
    from command_line import call  # which needs this file

    import experiments.denoise

    def run(checkpoint: Path, source: Path | str, output: Path, *more: str) -> tuple[int, str]:
        arguments = [f"checkpoint={checkpoint}", f"input='{source}'", f"output='{output}'", *more]
        return call(monkeypatch, capfd, experiments.denoise.main, *arguments)

    return run


@pytest.fixture
def real_data() -> Path:
    """The folder of real images and published weights; the test skips where it is absent."""
    if not (REAL_DATA / "BSD68").is_dir():
        pytest.skip(f"no real images: {REAL_DATA} holds no BSD68 (set DENOISERS_DATA)")
    return REAL_DATA


def randomize(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random weights and norm statistics: a zero-initialised residual network would be the identity."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.1, generator=generator)
    for name, buffer in network.named_buffers():
        if "running_mean" in name:
            buffer.normal_(0, 0.1, generator=generator)
        elif "running_var" in name:
            buffer.uniform_(0.5, 1.5, generator=generator)
    return network
