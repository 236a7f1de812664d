"""Reproduction presets compose and train, runs go on in slices, and the ledger's sums are right."""

import json
import re

import numpy as np
import pytest
import torch
from command_line import call
from conftest import CONF, choices, small
from omegaconf import OmegaConf
from PIL import Image
from torch.optim.lr_scheduler import CosineAnnealingLR

import train
from denoisers.losses import PSNR
from denoisers.metrics import psnr
from denoisers.schedulers import flat_cosine
from experiments import reproduction
from experiments.cli import flat
from experiments.ledger import published
from experiments.reproduction import gpu_hours, training_of

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
    more += ["data.progressive=[[0,16,2],[0.5,20,1]]", "trainer.accumulate_grad_batches=2"] * (preset == "restormer")
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


# --- the ledger -------------------------------------------------------------------------------------------------------


def dncnn_operations(layers, patch):
    """Multiply–accumulates of a crop by hand: 3×3, 64 features, grey."""
    return patch**2 * 9 * (64 + (layers - 2) * 64 * 64 + 64)


def test_gpu_hours_are_steps_times_crops_times_operations_over_throughput(compose):
    cfg = compose("experiment=reproduce/dncnn_s")
    model = OmegaConf.to_container(cfg.model, resolve=True)
    by_hand = 82_850 * 128 * dncnn_operations(17, 40) * 6 / 50e12 / 3600
    assert gpu_hours(model, 1, training_of(cfg), tflops=50) == pytest.approx(by_hand, rel=1e-6)
    more = ["data.progressive=[[0,20,8],[0.25,40,2]]", "trainer.accumulate_grad_batches=3", "trainer.max_steps=1000"]
    training = training_of(compose("experiment=reproduce/dncnn_s", *more))
    by_hand = 3 * (250 * 8 * dncnn_operations(17, 20) + 750 * 2 * dncnn_operations(17, 40)) * 6 / 50e12 / 3600
    assert gpu_hours(model, 1, training, tflops=50) == pytest.approx(by_hand, rel=1e-6)


def finished(folder, seed, typed=(), steps=82_850, **psnr):
    """A folder as a finished run leaves it."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("{}")
    (folder / "overrides.yaml").write_text("".join(f"- {override}\n" for override in typed))
    sets = {name: {"n": 2, "psnr": value, "ssim": 0.9} for name, value in psnr.items()}
    facts = {"seed": seed, "results": sets, "steps": steps, "train_seconds": 3725.0, "hardware": "a machine"}
    (folder / "summary.json").write_text(json.dumps(facts))


def test_the_ledger_sets_runs_beside_what_is_published(monkeypatch, capfd, tmp_path):
    typed = ["experiment=reproduce/dncnn_s", "noise=sigma25", "seed=1", "trainer.precision=bf16-mixed", "slice=9min"]
    finished(tmp_path / "runs" / "dncnn_s-sigma25-1", 1, typed, Set12=30.40, BSD68=29.251)
    finished(tmp_path / "runs" / "dncnn_b-blind0_55-0", 0, ["experiment=reproduce/dncnn_b"], Set12=1.0, BSD68=1.0)
    for name, score in {"Set12": 30.30, "BSD68": 29.10}.items():
        for sigma in (15, 25, 50):
            folder = tmp_path / "runs" / "dncnn_b-blind0_55-0" / "evaluations" / f"{name.lower()}-{sigma}"
            finished(folder, 0, [], **{name: score})
            (folder / "overrides.yaml").unlink()
    short = ["noise=sigma50", "trainer.max_steps=3104", "data.batch_size=16", "experiment=reproduce/xdncnn", "seed=2"]
    finished(tmp_path / "others" / "xdncnn-2", 2, short, steps=3104, Set12=26.0, BSD68=25.9)
    finished(tmp_path / "others" / "another", 0, ["experiment=reproduce/xdncnn", "noise=sigma15"], BSD68=1.0)
    (tmp_path / "runs" / "dncnn_s-sigma50-0").mkdir()
    (tmp_path / "runs" / "dncnn_s-sigma50-0" / "config.yaml").write_text("{}")
    left_out = [f"~presets.{preset}" for preset in PRESETS if "dncnn" not in preset]
    asked = [
        f"runs={tmp_path / 'runs'}",
        f"others=['{tmp_path / 'others'}']",
        f"output={tmp_path / 'page.md'}",
        f"run_dir={tmp_path / 'out'}",
        *left_out,
    ]
    assert call(monkeypatch, capfd, reproduction.main, *asked)[0] == 0
    page = (tmp_path / "page.md").read_text()
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in page.splitlines() if re.match(r"\| x?dncnn", line)]
    assert len(rows) == 8
    cells = {(row[0], row[2]): row[3:] for row in rows}
    published = "Set12 30.44, BSD68 29.23"
    measured, difference = "Set12 30.40, BSD68 29.25", "Set12 -0.04, BSD68 +0.02"
    assert cells["dncnn_s", "25"] == [
        *(published, measured, difference),
        *("1", "trainer.precision=bf16-mixed", "1 h 02 min", "a machine"),
    ]
    assert cells["dncnn_s", "15"][1] == "not run here"
    assert cells["dncnn_s", "15"][5] == "about 0.4 GPU-hours"
    assert cells["dncnn_s", "50"][1] == "begun, not finished"
    assert cells["xdncnn", "50"] == [
        *("BSD68 26.26", "Set12 26.00, BSD68 25.90", "BSD68 -0.36", "2"),
        *("shortened: 3,104 of 82,850 steps; data.batch_size=16", "1 h 02 min", "a machine"),
    ]
    assert cells["dncnn_b", "25"][1:3] == ["Set12 30.30, BSD68 29.10", "Set12 -0.06, BSD68 -0.06"]


def test_what_make_gpu_trains_is_looked_for():
    assert f"{OmegaConf.load(CONF / 'gpu.yaml').run_dir}/runs" in OmegaConf.load(CONF / "reproduction.yaml").others


def test_every_preset_is_in_the_ledger_with_noises_that_there_are():
    listed = OmegaConf.load(CONF / "reproduction.yaml").presets
    assert sorted(listed) == PRESETS
    assert {noise for entry in listed.values() for noise in entry.noises} <= set(choices("noise"))
    names = {key[0] for key in published()}
    assert {entry.published for entry in listed.values()} - {None} <= names
