"""Reproduction presets compose and train, runs go on in slices, and the ledger's sums are right."""

import numpy as np
import pytest
import torch
from conftest import CONF, small
from omegaconf import OmegaConf
from PIL import Image
from torch.optim.lr_scheduler import CosineAnnealingLR

import train
from denoisers.losses import PSNR
from denoisers.metrics import psnr
from denoisers.schedulers import flat_cosine
from experiments.cli import flat

PRESETS = sorted(path.stem for path in (CONF / "experiment" / "reproduce").glob("*.yaml"))
TINY = [  # of a preset: what makes two steps of it quick
    "data.patch_size=16",
    "data.batch_size=2",
    "data.crops_per_image=16",
    "trainer.max_steps=2",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "trainer.log_every_n_steps=1",
    "~callbacks.progress",
    "~callbacks.card",
    "~callbacks.strips",
]


def written(preset):
    """What the file of a preset says, with what the one it is made from says: keys, and choices of the axes."""
    keys = OmegaConf.to_container(OmegaConf.load(CONF / "experiment" / "reproduce" / f"{preset}.yaml"))
    axes = {}
    for entry in keys.pop("defaults"):
        if isinstance(entry, str):
            base, axes = written(entry.removeprefix("reproduce/"))
            keys = OmegaConf.to_container(OmegaConf.merge(base, keys))
        else:
            axes |= {key.removeprefix("override /"): choice for key, choice in entry.items()}
    return keys, axes


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A folder for any set: three small pictures, of nothing that another set has; SIDD's as pairs."""
    folder, random = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)

    def picture(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
        return path

    for name in ["0", "1", "2", "3", "val_0"]:
        for side in ("clean", "noisy"):
            picture(folder / "SIDD" / side / f"{name}.png")
    return folder, lambda name, root: [picture(folder / name / f"{number}.png") for number in range(3)]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_reproduction_composes_its_keys_win_and_its_first_steps_run(compose, sets, monkeypatch, tmp_path, preset):
    folder, find = sets
    monkeypatch.setattr("datamodules.splits.find", find)
    cfg = compose(f"experiment=reproduce/{preset}")
    keys, axes = written(preset)
    assert ("ema" in cfg.callbacks) == (axes.pop("callbacks", None) == "ema")
    assert {axis: cfg.axes[axis] for axis in axes} == axes
    for key, value in flat(keys).items():
        if not isinstance(value, dict) and key != "run_dir":
            assert OmegaConf.select(cfg, key) == value, key
    assert cfg.run_dir == f"runs/reproduce/{preset}-{axes['noise']}-0"
    assert cfg.protocol.name == "kair"

    more = [f"data.noisy={folder}/SIDD/noisy", f"data.clean={folder}/SIDD/clean"] if preset == "nafnet32" else []
    more += ["data.splits.hold_out=1"] if not more else ["data.fractions=[0.5,0.25,0.25]"]
    more += ["data.progressive=[[0,16,2],[0.5,20,1]]"] if preset == "restormer" else []
    cfg = compose(f"experiment=reproduce/{preset}", *TINY, *more, f"run_dir={tmp_path}")
    cfg.model = OmegaConf.create(small(OmegaConf.to_container(cfg.model, resolve=True)))
    torch.manual_seed(0)
    datamodule, module, trainer = train.build(cfg)
    before = [p.detach().clone() for p in module.network.parameters()]
    trainer.fit(module, datamodule)
    assert trainer.global_step == 2
    assert trainer.callback_metrics["train/loss"].isfinite()
    assert any(not torch.equal(a, b) for a, b in zip(before, module.network.parameters(), strict=True))
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


def test_flat_cosine_holds_and_then_falls_as_pytorchs_cosine():
    def rates(build):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
        scheduler, found = build(optimizer), []
        for _ in range(20):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return found

    ours = rates(lambda optimizer: flat_cosine(optimizer, 20, hold=0.25, floor=0.1))
    assert ours[:6] == [0.2] * 6
    theirs = rates(lambda optimizer: CosineAnnealingLR(optimizer, T_max=15, eta_min=0.02))
    assert ours[5:] == pytest.approx(theirs[:15])


def test_the_psnr_loss_is_minus_psnr():
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(3, 1, 24, 24, generator=generator)
    estimate = clean + torch.tensor([0.05, 0.1, 0.2])[:, None, None, None] * torch.randn(
        clean.shape, generator=generator
    )
    assert PSNR()(estimate, clean).item() == pytest.approx(-psnr(estimate, clean).mean().item(), abs=1e-4)
