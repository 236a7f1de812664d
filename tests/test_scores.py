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
    """Random, constant, at SSIM's smallest size, coloured, and larger than is measured at once; estimate and clean."""
    generator = torch.Generator().manual_seed(0)
    for shape in [(1, 11, 11), (1, 64, 48), (3, 40, 61), (3, 200, 300), (1, 700, 900), (3, 640, 801)]:
        clean = torch.rand(shape, generator=generator)
        yield clean, (clean + 0.1 * torch.randn(shape, generator=generator)).clamp(0, 1)
    yield torch.full((1, 16, 16), 0.3), torch.full((1, 16, 16), 0.4)
    yield (
        torch.full((3, 30, 20), 0.5),
        torch.full((3, 30, 20), 0.5) + 0.01 * torch.randn(3, 30, 20, generator=generator),
    )


@pytest.mark.parametrize(
    ("definition", "settings", "border"),
    [
        ("gaussian", {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}, 5),
        ("uniform", {}, 3),
    ],
)
@pytest.mark.parametrize(("clean", "estimate"), pairs(), ids=lambda image: "x".join(map(str, image.shape)))
def test_psnr_and_ssim_equal_scikit_images(clean, estimate, definition, settings, border):
    """scikit-image's valid region: what lies within half a window of the border is left out."""
    a, b = (image.permute(1, 2, 0).double().numpy() for image in (clean, estimate))
    scores = Score(quantize=False, ssim_window=definition)(estimate[None], clean[None])
    assert scores["psnr"].item() == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1), abs=1e-9)
    theirs = structural_similarity(a, b, data_range=1, channel_axis=2, full=True, **settings)[1]
    assert scores["ssim"].item() == pytest.approx(theirs[border:-border, border:-border].mean(), abs=1e-9)


@pytest.mark.parametrize(("clean", "estimate"), pairs(), ids=lambda image: "x".join(map(str, image.shape)))
def test_the_differentiable_metrics_are_the_same(clean, estimate):
    scores = Score(quantize=False)(estimate[None], clean[None])
    assert psnr(estimate[None], clean[None]).item() == pytest.approx(scores["psnr"].item(), abs=2e-5)
    assert ssim(estimate[None], clean[None]).item() == pytest.approx(scores["ssim"].item(), abs=2e-5)


def matlab_ssim(a, b):
    """The index as its authors' MATLAB program computes it, of images in 0–255: window, sums, constants, one by one."""
    x = np.arange(11) - 5
    window = np.exp(-(x[:, None] ** 2 + x[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    views = (np.lib.stride_tricks.sliding_window_view(image, (11, 11)) for image in (a, b))
    va, vb = (np.ascontiguousarray(view) for view in views)
    mu_a, mu_b = (np.einsum("hwij,ij->hw", view, window) for view in (va, vb))
    var_a, var_b = (
        np.einsum("hwij,ij->hw", (view - mu[..., None, None]) ** 2, window) for view, mu in ((va, mu_a), (vb, mu_b))
    )
    cov = np.einsum("hwij,hwij,ij->hw", va - mu_a[..., None, None], vb - mu_b[..., None, None], window)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    index = (2 * mu_a * mu_b + c1) * (2 * cov + c2) / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))
    return index.mean()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_ssim_of_kair_is_matlabs(compose, channels):
    score = instantiate(compose("protocol=kair").protocol.score)
    clean = torch.rand(1, channels, 90, 70).mul(255).round() / 255
    estimate = clean + 0.2 * torch.randn_like(clean)
    saved = estimate.clamp(0, 1).mul(255).round().double().numpy()[0]
    theirs = np.mean([matlab_ssim(a, b) for a, b in zip(saved, clean[0].double().numpy() * 255, strict=True)])
    assert score(estimate, clean)["ssim"].item() == pytest.approx(theirs, abs=1e-6)


def test_border_and_luma_are_left_out_before_anything_is_measured():
    clean, noise = torch.rand(1, 3, 40, 50), 0.1 * torch.randn(1, 3, 40, 50)
    framed = noise.clone()
    framed[..., 4:-4, 4:-4] = 0
    score = Score(quantize=False, border=4)
    assert score(clean + framed, clean)["psnr"].isinf()
    inner = (..., slice(4, -4), slice(4, -4))
    for metric, value in Score(quantize=False)((clean + noise)[inner], clean[inner]).items():
        assert score(clean + noise, clean)[metric].item() == pytest.approx(value.item(), abs=1e-9)
    colour = torch.tensor([1.0, -65.481 / 128.553, 0.0]).view(1, 3, 1, 1)  # changes no luma
    grey = clean * 0.4 + 0.3
    assert Score(quantize=False, luma=True)(grey + 0.1 * colour, grey)["psnr"] > 100
    assert Score(quantize=False, luma=True)(grey.mean(1, keepdim=True), grey.mean(1, keepdim=True))["psnr"].isinf()


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
