"""The contract of every noise, by glob; the noises of most papers against closed forms; evaluation noise."""

import numpy as np
import pytest
import torch
from conftest import choices

from datamodules import seeds
from datamodules.noise.gaussian import GaussianNoise
from datamodules.noise.impulse import SaltAndPepperNoise
from datamodules.noise.poisson_gaussian import PoissonGaussianNoise, photons
from datamodules.realisation import ContentSeeded, Kair


def ramp(batch=64, channels=1, side=128):
    """Every intensity in [0.1, 0.9], the same in each sample."""
    return torch.linspace(0.1, 0.9, side).expand(batch, channels, side, side).clone()


@pytest.mark.parametrize("noise", choices("noise"))
def test_contract(build_noise, noise):
    augmentation, clean = build_noise(noise, channels=3), ramp(4, 3)
    before = clean.clone()
    with seeds.seeded(1, clean.device):
        noisy, level = augmentation.corrupt(clean)
    with seeds.seeded(1, clean.device):
        again, _ = augmentation.corrupt(clean)
    assert noisy.shape == clean.shape
    assert noisy.dtype == clean.dtype
    assert level.shape in ((4, 1, 1, 1), (4, 1, 128, 128))
    assert torch.equal(clean, before), "the input was changed"
    assert noisy.data_ptr() != clean.data_ptr()
    assert torch.equal(noisy, again), "the same seed drew other noise"
    # the level it reports is the root-mean-square that it made; salt-and-pepper's own spread here is 1.2 %
    measured, reported = (square.mean(dim=(1, 2, 3)).sqrt() for square in ((noisy - clean).square(), level.square()))
    torch.testing.assert_close(measured, reported, rtol=0.06, atol=0)
    for shape in [(1, 3, 1, 1), (2, 3, 7, 13)]:
        noisy, level = augmentation.corrupt(torch.rand(shape))
        assert noisy.shape == shape
        assert noisy.isfinite().all()
        assert level.isfinite().all()
    assert augmentation.corrupt(clean.double())[0].dtype == torch.float64


@pytest.mark.parametrize("noise", [name for name in choices("noise") if name != "none"])
def test_every_range_is_drawn_anew(build_noise, noise):
    """Two batches meet other noise, each sample other parameters, wherever there is a range to draw from."""
    augmentation, clean = build_noise(noise, channels=3), torch.rand(8, 3, 16, 16)
    first, second = (augmentation.forward_parameters(clean.shape) for _ in range(2))
    for key in first.keys() - {"batch_prob", "forward_input_shape"}:
        values = first[key].flatten(1) if first[key].ndim > 1 else first[key][:, None]
        if (values != values[0]).any():
            assert not torch.equal(first[key], second[key])
            assert len({tuple(row) for row in values.tolist()}) == (8 if key != "choice" else len(values.unique()))


@pytest.mark.parametrize("noise", [name for name in choices("noise") if name != "none"])
def test_samples_and_draws_are_independent(build_noise, noise):
    augmentation, clean = build_noise(noise, channels=1), torch.full((2, 1, 128, 128), 0.5)
    residuals = [augmentation.corrupt(clean)[0] - clean for _ in range(2)]
    fields = torch.stack([residuals[0][0], residuals[0][1], residuals[1][0]]).flatten(1)
    correlation = torch.corrcoef(fields) - torch.eye(3)
    assert correlation.abs().max() < 0.05  # six standard errors at 16,384 values


@pytest.mark.parametrize("sigma", [15, 25, 50])
def test_gaussian_mean_and_variance(sigma):
    clean = ramp()
    residual = GaussianNoise(sigma=sigma).corrupt(clean)[0] - clean
    n = residual.numel()
    assert abs(residual.mean()) < 5 * sigma / 255 / n**0.5
    assert residual.std().item() * 255 == pytest.approx(sigma, rel=0.01)
    # nothing is clipped, and white: neighbours do not correlate
    assert GaussianNoise(sigma=50).corrupt(torch.zeros(1, 1, 64, 64))[0].min() < 0
    pairs = torch.stack([residual[..., :-1].flatten(), residual[..., 1:].flatten()])
    assert abs(torch.corrcoef(pairs)[0, 1]) < 0.01
    # Gaussian: a share 0.3173 outside one σ
    assert (residual.abs() > sigma / 255).float().mean().item() == pytest.approx(0.3173, abs=0.003)


def test_a_sigma_range_is_drawn_per_sample():
    clean = ramp(512, side=32)
    noisy, level = GaussianNoise(sigma=[0, 55]).corrupt(clean)
    measured = (noisy - clean).std(dim=(1, 2, 3)) * 255
    torch.testing.assert_close(measured, level.flatten() * 255, rtol=0.12, atol=0.1)
    assert level.unique().numel() == 512
    # uniform on [0, 55]: mean 27.5 with standard error 0.7, deviation 15.9
    assert level.mean().item() * 255 == pytest.approx(27.5, abs=3)
    assert level.std().item() * 255 == pytest.approx(15.9, abs=1.5)


@pytest.mark.parametrize(("gain", "read"), [(0.01, 5), (0.002, 0), (0.002, 20), (0.05, 20)])
def test_poisson_gaussian_variance_is_its_line(gain, read):
    clean = ramp(256)
    residual = PoissonGaussianNoise(gain=gain, read=read).corrupt(clean)[0] - clean
    assert abs(residual.mean()) < 5 * residual.std() / residual.numel() ** 0.5
    columns = residual.square().mean(dim=(0, 1, 2)).numpy()  # variance at each intensity
    slope, intercept = np.polyfit(clean[0, 0, 0].numpy(), columns, 1)
    average = 0.5 * gain + (read / 255) ** 2  # a standard error is 0.3 % of it for the slope, 0.2 % for the intercept
    assert slope == pytest.approx(gain, abs=max(0.02 * gain, 0.015 * average))
    assert intercept == pytest.approx((read / 255) ** 2, abs=0.01 * average)


def test_photons_are_the_same_from_any_number_of_threads():
    before, drawn = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            torch.manual_seed(5)
            drawn.append(photons(torch.full((5, 1, 60, 60), 7.0)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(drawn[0], other) for other in drawn[1:])
    samples = drawn[0].flatten(1)
    assert (torch.corrcoef(samples) - torch.eye(5)).abs().max() < 0.06
    assert samples.mean().item() == pytest.approx(7, abs=0.1)
    assert samples.var().item() == pytest.approx(7, abs=0.3)
    assert not torch.equal(photons(torch.full((5, 1, 60, 60), 7.0)), drawn[0])


@pytest.mark.parametrize("channels", [1, 3])
def test_salt_and_pepper_rates(channels):
    clean = torch.full((32, channels, 128, 128), 0.5)
    noisy, _ = SaltAndPepperNoise(amount=0.1, salt_ratio=0.3).corrupt(clean)
    assert (noisy == 1).float().mean().item() == pytest.approx(0.03, rel=0.05)
    assert (noisy == 0).float().mean().item() == pytest.approx(0.07, rel=0.05)
    assert (noisy == 0.5).float().mean().item() == pytest.approx(0.9, rel=0.01)
    assert torch.equal(noisy, noisy[:, :1].expand_as(noisy))  # a pixel is hit in all its channels


def test_salt_and_pepper_ranges_are_drawn_per_sample():
    clean = torch.full((64, 1, 128, 128), 0.5)
    noisy, _ = SaltAndPepperNoise(amount=[0.0, 0.4], salt_ratio=[0, 1]).corrupt(clean)
    hit = (noisy != 0.5).float().mean(dim=(1, 2, 3))
    assert hit.min() < 0.08
    assert hit.max() > 0.32


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: GaussianNoise(sigma=-1), "sigma"),
        (lambda: GaussianNoise(sigma=[30, 10]), "sigma"),
        (lambda: GaussianNoise(sigma=[1, 2, 3]), "sigma"),
        (lambda: PoissonGaussianNoise(gain=0, read=1), "gain"),
        (lambda: SaltAndPepperNoise(amount=1.5, salt_ratio=0.5), "amount"),
        (lambda: SaltAndPepperNoise(amount=0.5, salt_ratio=[-0.1, 0.5]), "salt_ratio"),
    ],
)
def test_impossible_strengths_are_named(build, named):
    with pytest.raises(ValueError, match=named):
        build()


def test_kair_is_numpys_legacy_generator_reseeded_for_each_image():
    for channels in (1, 3):
        clean = torch.rand(channels, 20, 31)
        noisy, level = Kair()(GaussianNoise(sigma=25), clean, eval_seed=7)
        np.random.seed(0)  # noqa: NPY002
        expected = clean.permute(1, 2, 0).numpy().astype(np.float64)
        expected = expected + np.random.normal(0, 25 / 255, expected.shape)  # noqa: NPY002
        np.testing.assert_allclose(noisy.permute(1, 2, 0), expected, atol=1e-6)
        assert level.item() == pytest.approx(25 / 255)


@pytest.mark.parametrize("noise", choices("noise"))
def test_evaluation_noise_depends_on_content_and_eval_seed_alone(build_noise, noise):
    augmentation, clean = build_noise(noise, channels=1), torch.rand(1, 24, 24)
    drawn = []
    for seed in (1, 2):  # whatever the global generator has seen
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        drawn.append(ContentSeeded()(augmentation, clean, 0)[0])
        assert torch.equal(torch.get_rng_state(), state), "the global generator was disturbed"
    assert torch.equal(*drawn)
    if noise != "none":
        assert not torch.equal(drawn[0], ContentSeeded()(augmentation, clean, 1)[0])
        other = clean.roll(1, dims=2)
        residual = ContentSeeded()(augmentation, other, 0)[0] - other
        assert not torch.allclose(drawn[0] - clean, residual, atol=1e-3)
