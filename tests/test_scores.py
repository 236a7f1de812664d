"""Metrics, losses and schedules against independent computations."""

import math

import backbones
import numpy as np
import pytest
import torch
from conftest import choices
from hydra.utils import instantiate
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from denoisers.metrics import Score, psnr, ssim
from denoisers.schedulers import warmup_cosine_factor


def pairs():
    generator = torch.Generator().manual_seed(0)
    for shape in [(1, 11, 11), (1, 64, 48), (3, 40, 61), (3, 200, 300)]:
        clean = torch.rand(shape, generator=generator)
        yield clean, (clean + 0.1 * torch.randn(shape, generator=generator)).clamp(0, 1)
    yield torch.full((1, 16, 16), 0.3), torch.full((1, 16, 16), 0.4)


@pytest.mark.parametrize(("clean", "estimate"), pairs())
def test_psnr_and_ssim_equal_scikit_images(clean, estimate):
    a, b = (image.permute(1, 2, 0).numpy() for image in (clean, estimate))
    assert psnr(estimate[None], clean[None]).item() == pytest.approx(
        peak_signal_noise_ratio(a, b, data_range=1), abs=1e-5
    )
    theirs = structural_similarity(
        a.astype(float),
        b.astype(float),
        data_range=1,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )[1][5:-5, 5:-5]
    assert ssim(estimate[None], clean[None]).item() == pytest.approx(theirs.mean(), abs=2e-5)


def test_the_mean_is_over_images_not_pixels():
    clean = torch.zeros(2, 1, 16, 16)
    estimate = clean + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    torch.testing.assert_close(psnr(estimate, clean), torch.tensor([20.0, 40.0]), atol=1e-4, rtol=0)


def test_score_measures_what_a_file_would_hold():
    clean = torch.rand(1, 1, 16, 16).mul(255).round() / 255
    off = clean + 0.4 / 255  # less than half a grey level: rounded away
    assert Score(quantize=True)(off, clean)["psnr"].isinf()
    assert Score(quantize=False)(off, clean)["psnr"].isfinite()
    beyond = torch.where(clean == clean.max(), 5.0, clean)  # clamped to 1
    assert Score()(beyond, clean)["psnr"] > 20


def test_ssim_below_its_window_says_so():
    with pytest.raises(ValueError, match="11×11"):
        ssim(torch.zeros(1, 1, 10, 20), torch.zeros(1, 1, 10, 20))


@pytest.mark.parametrize("loss", choices("loss"))
def test_losses(compose, weights_root, loss):
    criterion = instantiate(compose(f"loss={loss}", f"data_root={weights_root}").loss)
    clean, noise = torch.rand(2, 3, 24, 24), torch.randn(2, 3, 24, 24)
    weak = (clean + 0.05 * noise).requires_grad_()
    criterion(weak, clean).backward()
    assert criterion(weak, clean).shape == ()
    assert weak.grad.abs().min() >= 0
    assert weak.grad.any()
    assert criterion(clean, clean) < criterion(weak, clean) < criterion(clean + 0.2 * noise, clean)


def test_loss_values_by_hand(compose, weights_root):
    estimate, clean = torch.rand(2, 1, 20, 20), torch.rand(2, 1, 20, 20)
    a, b = estimate.double().numpy(), clean.double().numpy()
    value = {
        name: instantiate(compose(f"loss={name}", f"data_root={weights_root}").loss)(estimate, clean).item()
        for name in choices("loss")
    }
    assert value["mse"] == pytest.approx(((a - b) ** 2).mean(), rel=1e-5)
    assert value["l1"] == pytest.approx(np.abs(a - b).mean(), rel=1e-5)
    assert value["charbonnier"] == pytest.approx(np.sqrt((a - b) ** 2 + 1e-6).mean(), rel=1e-5)
    assert value["ssim"] == pytest.approx(1 - ssim(estimate, clean).mean().item(), rel=1e-5)
    assert value["l1_ssim"] == pytest.approx(0.16 * value["l1"] + 0.84 * value["ssim"], rel=1e-5)
    vgg, squeeze = backbones.random_backbone("vgg"), backbones.random_backbone("squeeze")
    a, b = (backbones.activations("vgg", vgg, 2 * image - 1)["relu3_3"] for image in (estimate, clean))
    assert value["perceptual"] == pytest.approx((a - b).square().mean().item(), rel=1e-5)
    distances = backbones.lpips("squeeze", squeeze, backbones.random_heads("squeeze"), estimate, clean)
    assert value["lpips"] == pytest.approx(distances.mean().item(), rel=1e-5)


def rates(compose, scheduler, *overrides, steps=100, epochs=10):
    """The learning rate in each unit that the schedule counts, for an optimiser whose own is 1."""
    schedule = instantiate(compose(f"scheduler={scheduler}", *overrides).scheduler)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    config = schedule.configure(optimizer, steps, epochs)
    seen = []
    for _ in range(steps if config["interval"] == "step" else epochs):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        config["scheduler"].step(*([0.0] if scheduler == "plateau" else []))
    return config, seen


def test_schedules_fit_their_budget(compose):
    curves = {name: rates(compose, name)[1] for name in choices("scheduler")}
    assert curves["constant"] == [1.0] * 100
    # step counts epochs: ×0.2 after every 3 of 10
    np.testing.assert_allclose(curves["step"], [0.2 ** (epoch // 3) for epoch in range(10)])
    np.testing.assert_allclose(curves["multistep"], [0.1 ** ((i >= 50) + (i >= 80)) for i in range(100)])
    np.testing.assert_allclose(curves["cosine"], [(1 + math.cos(math.pi * i / 100)) / 2 for i in range(100)], atol=1e-9)
    assert curves["cosine_warmup"][0] == pytest.approx(1 / 6)
    assert np.argmax(curves["cosine_warmup"]) == 5
    assert curves["cosine_warmup"][-1] < 0.001
    assert np.argmax(curves["onecycle"]) in (29, 30)
    assert max(curves["onecycle"]) == pytest.approx(1, abs=1e-3)
    assert curves["onecycle"][-1] < 0.01
    # nothing improves: ×0.5 after 3 patient epochs, then again
    assert curves["plateau"][:5] == [1, 1, 1, 1, 1]
    assert curves["plateau"][5] == 0.5


@pytest.mark.parametrize("scheduler", choices("scheduler"))
def test_every_schedule_says_what_it_counts_and_survives_one_step(compose, scheduler):
    config, seen = rates(compose, scheduler, steps=1, epochs=1)
    assert config["interval"] in ("step", "epoch")
    assert config.get("monitor") == ("val/psnr" if scheduler == "plateau" else None)
    assert seen[0] > 0


def test_warmup_factor():
    assert warmup_cosine_factor(0, 100, 0) == 1
    assert [warmup_cosine_factor(i, 100, 3) for i in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert warmup_cosine_factor(100, 100, 3) == pytest.approx(0)


@pytest.mark.parametrize(
    "override",
    ["scheduler=step scheduler.build.every=1.5", "scheduler=cosine_warmup scheduler.build.warmup=-0.1"],
)
def test_shares_beyond_the_run_are_named(compose, override):
    with pytest.raises(ValueError, match="share of the run"):
        rates(compose, *override.replace("scheduler=", "", 1).split())
