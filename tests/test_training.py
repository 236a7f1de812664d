"""Every trainable combination of the axes composes and trains; presets, budgets and accumulation."""

import itertools
import random

import numpy as np
import pytest
import torch
import yaml
from conftest import CONF, TRAINABLE, choices, takes_activation
from omegaconf import OmegaConf
from PIL import Image

import train
from denoisers.activations import ACTIVATIONS
from experiments.cli import UserError, flat
from experiments.strips import Strips

AXES = {
    "model": [model for model in TRAINABLE if takes_activation(model)],
    "model.activation": sorted(ACTIVATIONS),
    # level by formula, map or measurement; test_noise.py has all
    "noise": ["none", "sigma25", "gaussian_map", "poisson_gaussian", "salt_and_pepper", "raw", "mixed"],
    "loss": choices("loss"),
    "optimizer": choices("optimizer"),
    "scheduler": choices("scheduler"),
    "channels": ["1", "3"],
}


def covering_combinations():
    """Combinations in which every pair of choices of two axes occurs (greedy, from a fixed seed)."""
    pool = random.Random(0)
    keys = list(AXES)
    missing = {((a, x), (b, y)) for a, b in itertools.combinations(keys, 2) for x in AXES[a] for y in AXES[b]}

    def covered(row):
        return {((a, row[a]), (b, row[b])) for a, b in itertools.combinations(keys, 2)}

    while missing:
        first = dict(min(missing))
        candidates = [{k: first.get(k) or pool.choice(AXES[k]) for k in keys} for _ in range(60)]
        best = max(candidates, key=lambda row: len(covered(row) & missing))
        missing -= covered(best)
        yield best


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Six small colour pictures."""
    folder = tmp_path_factory.mktemp("tiny")
    for index in range(6):
        ramp = np.linspace(40, 200, 24 * 24 * 3).reshape(24, 24, 3) + 10 * index
        Image.fromarray(ramp.astype(np.uint8)).save(folder / f"{index}.png")
    return [
        "data=folder",
        f"data.path={folder}",
        "data.patch_size=20",  # LPIPS needs 17
        "data.crops_per_image=4",
        "data.batch_size=4",
        "trainer.max_steps=2",
        "trainer=cpu",
        "~callbacks.progress",
        "~callbacks.card",
        "trainer.enable_progress_bar=false",
        "trainer.log_every_n_steps=1",
    ]


def fit(compose, tmp_path, *overrides, **options):
    """Builds and fits as train.py does."""
    cfg = compose(*overrides, f"run_dir={tmp_path}")
    train.free_the_other_budget(cfg, list(overrides))
    torch.manual_seed(cfg.seed)
    datamodule, module, trainer = train.build(cfg)
    trainer.fit(module, datamodule, weights_only=True, **options)
    return datamodule, module, trainer


@pytest.mark.parametrize("row", covering_combinations(), ids=lambda row: "-".join(row.values()))
def test_every_pair_of_choices_trains(compose, tiny, weights_root, tmp_path, row):
    overrides = [f"{key}={value}" for key, value in row.items()]
    overrides += ["model.num_features=4", f"data_root={weights_root}"]
    _, module, trainer = fit(compose, tmp_path, *tiny, *overrides)
    assert trainer.global_step == 2
    assert trainer.callback_metrics["train/loss"].isfinite()
    # the last convolution's weight began at zero, where without noise it is right already
    assert bool(list(module.network.parameters())[-2].any()) or row["noise"] == "none"
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.parametrize("trainer", choices("trainer"))
@pytest.mark.parametrize("logger", choices("logger"))
def test_every_trainer_and_logger_composes(compose, trainer, logger):
    cfg = compose(f"trainer={trainer}", f"logger={logger}")
    assert "csv" in cfg.logger  # always on
    OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize("preset", choices("experiment"))
def test_every_preset_composes_and_its_keys_win(compose, preset):
    cfg = compose(f"experiment={preset}")
    OmegaConf.to_container(cfg, resolve=True)
    written = yaml.safe_load((CONF / "experiment" / f"{preset}.yaml").read_text())
    written.pop("hydra", None)
    for override in written.pop("defaults", []):
        [(axis, choice)] = override.items()
        assert cfg.axes[axis.removeprefix("override /")] == choice
    for key, value in flat(written).items():
        if not isinstance(value, dict):
            assert OmegaConf.select(cfg, key) == OmegaConf.select(OmegaConf.merge(cfg, {"_": value}), "_")


@pytest.mark.parametrize(
    ("typed", "steps", "epochs"),
    [
        ([], 520, -1),
        (["trainer.max_epochs=3"], -1, 3),
        (["trainer.max_steps=7"], 7, -1),
        (["trainer.max_steps=7", "trainer.max_epochs=3"], 7, 3),
        (["experiment=debug", "trainer.max_epochs=2"], -1, 2),
    ],
)
def test_setting_one_budget_frees_the_other(compose, typed, steps, epochs):
    cfg = compose(*typed)
    train.free_the_other_budget(cfg, typed)
    assert (cfg.trainer.max_steps, cfg.trainer.max_epochs) == (steps, epochs)


@pytest.mark.parametrize("typed", [["trainer.max_steps=0"], ["trainer.max_epochs=-1"], ["trainer.max_steps=1.5"]])
def test_a_run_needs_an_end(compose, typed):
    with pytest.raises(UserError, match="trainer.max_"):
        train.free_the_other_budget(compose(*typed), typed)


def test_training_denoises(compose, tiny, tmp_path):
    """Sixty steps remove most of the noise from smooth pictures; nothing but learning could."""
    overrides = ["model=dncnn", "model.num_layers=4", "model.num_features=16", "trainer.max_steps=60"]
    _, _, trainer = fit(compose, tmp_path, *tiny, *overrides)
    assert trainer.callback_metrics["val/psnr"] > 23  # the noisy pictures have 20.2 dB


def test_the_last_step_is_validated_and_kept(compose, tiny, tmp_path):
    _, _, trainer = fit(compose, tmp_path, *tiny, "model=dncnn", "model.num_features=4", "trainer.max_steps=5")
    assert trainer.num_training_batches == 4  # so step 5 is in the middle of an epoch
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 5


def test_accumulation_draws_fresh_noise_for_each_micro_batch(compose, tiny, tmp_path):
    drawn = []

    def fields(accumulate):
        cfg = compose(*tiny, "model=dncnn", "model.num_features=4", f"run_dir={tmp_path / str(accumulate)}")
        cfg.trainer.accumulate_grad_batches = accumulate
        cfg.trainer.max_steps = 8 // accumulate
        datamodule, module, trainer = train.build(cfg)
        drawn.clear()
        original = datamodule.corrupt_training

        def spy(clean, index):
            made = original(clean, index)
            drawn.append((made["noisy"] - clean).clone())
            return made

        datamodule.corrupt_training = spy
        trainer.fit(module, datamodule)
        assert datamodule.micro_batches == 8
        return torch.stack(drawn)

    one, four = fields(1), fields(4)
    torch.testing.assert_close(one, four, atol=1e-6, rtol=0)
    assert len({round(field.sum().item(), 5) for field in one}) == 8


def test_a_run_is_a_function_of_its_seed(compose, tiny, tmp_path):
    def weights(name, seed):
        _, module, _ = fit(
            compose,
            tmp_path / name,
            *tiny,
            "model=xdncnn",
            "model.num_features=4",
            "trainer.max_steps=3",
            f"seed={seed}",
        )
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    first = weights("a", 0)
    assert torch.equal(first, weights("b", 0))
    assert not torch.equal(first, weights("c", 1))


def test_parts_that_are_null_are_left_out(compose, tiny, tmp_path):
    nulls = ["baselines.median=null", "callbacks.strips=null"]
    cfg = compose(*tiny, "model=dncnn", "model.num_features=4", f"run_dir={tmp_path}", *nulls)
    _, module, trainer = train.build(cfg)
    assert list(module.baselines) == ["noisy"]
    assert not any(isinstance(callback, Strips) for callback in trainer.callbacks)
    cfg.baselines = None
    assert train.parts(cfg.baselines) == {}


def test_compiled_training_keeps_its_keys(compose, tiny, tmp_path):
    cfg = compose(*tiny, "model=dncnn", "model.num_features=4", "model.num_layers=3", f"run_dir={tmp_path}")
    _, module, _ = train.build(cfg)
    keys = list(module.state_dict())
    module.network.compile(backend="eager")
    module.network(torch.rand(1, 3, 16, 16))
    assert list(module.state_dict()) == keys


def test_a_progress_bar_is_switched_off_by_its_key_alone(compose, tiny, tmp_path):
    overrides = [override for override in tiny if override != "~callbacks.progress"]
    _, _, trainer = train.build(compose(*overrides, f"run_dir={tmp_path}"))
    assert trainer.progress_bar_callback is None


def test_a_budget_measures_what_is_compiled(compose, tiny, tmp_path):
    """And so it is compiled where it is built."""
    *_, trained = (train.build(compose(*tiny, f"run_dir={tmp_path}", f"compile={on}"))[1] for on in ("false", "true"))
    assert trained.network._compiled_call_impl is not None


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("noise", [name for name in choices("noise") if name != "profile"])
def test_a_gpu_trains_and_draws_the_same_evaluation_noise(compose, tiny, tmp_path, noise):
    overrides = [*(o for o in tiny if o != "trainer=cpu"), "trainer=gpu", f"noise={noise}", "model.num_features=4"]
    datamodule, _, trainer = fit(compose, tmp_path, *overrides)
    assert trainer.global_step == 2
    clean, drawn = torch.rand(2, 3, 16, 16), []
    for device in ("cuda", "cuda", "cpu"):
        drawn.append(datamodule.corrupt_training(clean.to(device), 0)["noisy"])
        assert drawn[-1].device.type == device
    assert torch.equal(drawn[0], drawn[1])
    of_two = {"realisation": [0, 0]}
    on_gpu = datamodule.on_after_batch_transfer(of_two | {"clean": clean.cuda()}, 0)["noisy"]
    assert torch.equal(on_gpu.cpu(), datamodule.on_after_batch_transfer(of_two | {"clean": clean}, 0)["noisy"])
