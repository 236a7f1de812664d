"""Each family of noise against closed forms: mean, variance law, rates, correlation, spectrum; tolerances far below the
effect, so that no strength, twice the strength or another law would fail.
"""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from datamodules.noise.correlated import CorrelatedGaussianNoise
from datamodules.noise.gaussian import GaussianMapNoise, GaussianNoise
from datamodules.noise.impulse import ImpulseNoise, SaltAndPepperNoise
from datamodules.noise.jpeg import Jpeg
from datamodules.noise.mixed import ChainNoise, MixedNoise
from datamodules.noise.poisson_gaussian import PoissonGaussianNoise
from datamodules.noise.quantize import Clip, Quantize
from datamodules.noise.raw import GAMMA, RawNoise
from datamodules.noise.rician import RicianNoise
from datamodules.noise.speckle import SpeckleNoise
from datamodules.noise.tomography import TomographyNoise


def flat(value, batch=64, channels=1, side=128):
    return torch.full((batch, channels, side, side), float(value))


def ramp(batch=64, channels=1, side=128):
    return torch.linspace(0.1, 0.9, side).expand(batch, channels, side, side).clone()


def correlation(field, down, across):
    """Of values that far apart, over a batch of fields [B, C, H, W]."""
    height, width = field.shape[-2:]
    one, other = field[..., : height - down, : width - across], field[..., down:, across:]
    return (one * other).mean() / field.square().mean()


def test_each_channel_may_have_its_own_sigma():
    noisy, level = GaussianNoise(sigma=[5, 50], per_channel=True).corrupt(flat(0.5, channels=3))
    measured = (noisy - 0.5).std(dim=(2, 3))
    assert (measured.amax(1) / measured.amin(1)).median() > 1.3
    torch.testing.assert_close(measured.square().mean(1).sqrt(), level.flatten(), rtol=0.03, atol=0)


def test_a_map_of_sigma_is_the_noise_it_says():
    noise = GaussianMapNoise(sigma=[0, 50], cells=2)
    clean = flat(0.5, batch=1, side=96)
    params = noise.forward_parameters(clean.shape)
    squares = torch.stack([(noise(clean, params) - clean).square()[0, 0] for _ in range(400)])
    level = noise.level(clean, params)[0, 0]
    assert level.max() > 1.5 * level.min()
    torch.testing.assert_close(squares.mean(0).sqrt(), level, rtol=0.2, atol=1e-3)  # a standard error is 3.5 %
    assert abs((squares.mean() / level.square().mean()).item() - 1) < 0.01
    corners = level[::95, ::95].flatten()
    torch.testing.assert_close(corners, params["knots"][0, 0, ::2, ::2].flatten())
    assert level.diff(dim=0).abs().max() <= 50 / 255 / 47  # smooth: from knot to knot in 47 pixels


def test_logarithmic_ranges_bring_all_orders_of_magnitude_alike():
    noise = PoissonGaussianNoise(gain=[1e-4, 1e-1], read=[1, 10], spacing="log")
    params = noise.generate_parameters((20_000, 1, 1, 1))
    for values, middle in ((params["gain"], 10**-2.5), (params["read"] * 255, 10**0.5)):
        assert values.median().item() == pytest.approx(middle, rel=0.1)
    shares = torch.histc(params["gain"].log10(), 3, -4, -1) / 20_000
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3), rtol=0.05, atol=0)


def test_impulses_hit_channels_together_or_each_on_its_own():
    clean = flat(0.5, channels=3)
    together = SaltAndPepperNoise(amount=0.2).corrupt(clean)[0] != 0.5
    apart = SaltAndPepperNoise(amount=0.2, per_channel=True).corrupt(clean)[0] != 0.5
    for hit, all_three in ((together, 0.2), (apart, 0.2**3)):
        assert hit.float().mean().item() == pytest.approx(0.2, rel=0.02)
        assert hit.all(dim=1).float().mean().item() == pytest.approx(all_three, rel=0.05)
    whole = (ImpulseNoise(amount=0.2).corrupt(clean)[0] != 0.5).all(dim=1).float().mean().item()
    assert whole == pytest.approx(0.2, rel=0.02)


def test_impulses_are_any_value():
    noisy, level = ImpulseNoise(amount=0.25, per_channel=True).corrupt(flat(2))
    values = noisy[noisy != 2]
    assert len(values) / noisy.numel() == pytest.approx(0.25, rel=0.01)
    assert values.mean().item() == pytest.approx(0.5, abs=0.005)
    assert values.var().item() == pytest.approx(1 / 12, rel=0.01)
    assert level.mean().item() == pytest.approx((0.25 * (1.5**2 + 1 / 12)) ** 0.5, rel=1e-5)


@pytest.mark.parametrize(("distribution", "skewness"), [("gaussian", 0), ("gamma", 0.6)])
def test_speckle_grows_with_brightness(distribution, skewness):
    clean = ramp()
    residual = SpeckleNoise(deviation=0.3, distribution=distribution).corrupt(clean)[0] - clean
    relative = residual / clean
    assert abs(relative.mean()) < 0.002
    assert relative.square().mean().sqrt().item() == pytest.approx(0.3, rel=0.01)
    assert (relative.pow(3).mean() / relative.std() ** 3).item() == pytest.approx(skewness, abs=0.03)
    variance = residual.square().mean(dim=(0, 1, 2)).log()
    slope = np.polyfit(clean[0, 0, 0].log().numpy(), variance.numpy(), 1)[0]
    assert slope == pytest.approx(2, abs=0.02)  # variance is its square


@pytest.mark.parametrize("sigma", [5, 25])
def test_rician_noise_is_scipys(sigma):
    s = sigma / 255
    for value in (0.0, 0.02, 0.1, 0.6):
        noisy, level = RicianNoise(sigma=sigma).corrupt(flat(value))
        law = stats.rice(value / s, scale=s)
        assert noisy.mean().item() == pytest.approx(law.mean(), rel=0.002)
        assert noisy.std().item() == pytest.approx(law.std(), rel=0.005)
        assert noisy.square().mean().item() == pytest.approx(value**2 + 2 * s**2, rel=0.005)
        error = law.var() + (law.mean() - value) ** 2
        torch.testing.assert_close(level, torch.full_like(level, error**0.5), rtol=1e-3, atol=0)
    assert RicianNoise(sigma=sigma).corrupt(flat(0))[0].mean().item() == pytest.approx(
        s * (np.pi / 2) ** 0.5, rel=0.002
    )


def test_rician_noise_of_no_strength_has_no_level():
    noisy, level = RicianNoise(sigma=0).corrupt(flat(0.5))
    assert torch.equal(noisy, flat(0.5))
    assert level.max() < 1e-5


@pytest.mark.parametrize("length", [1.5, 3])
def test_correlation_falls_as_it_says_and_the_strength_does_not_depend_on_it(length):
    clean = flat(0.5, channels=3)
    field = CorrelatedGaussianNoise(sigma=25, length=length).corrupt(clean)[0] - clean
    assert abs(field.mean()) < 5 * 25 / 255 * length * 1.8 / field.numel() ** 0.5
    assert field.std().item() * 255 == pytest.approx(25, rel=0.01)
    border = torch.cat([field[..., 0], field[..., -1], field[..., 0, :], field[..., -1, :]])
    assert border.std().item() * 255 == pytest.approx(25, rel=0.03)
    for down, across in [(1, 0), (0, 1), (2, 0), (0, 2), (2, 1), (3, 0), (0, 6)]:
        expected = np.exp(-(down**2 + across**2) / length**2)
        assert correlation(field, down, across).item() == pytest.approx(expected, abs=0.01)
    channels = torch.corrcoef(field.transpose(0, 1).flatten(1)) - torch.eye(3)
    assert channels.abs().max() < 0.02


def test_each_sample_has_its_own_length():
    clean = flat(0.5, batch=200, side=48)
    noise = CorrelatedGaussianNoise(sigma=[5, 50], length=[0.5, 4])
    field = noise.corrupt(clean)[0] - clean
    near = torch.stack([correlation(one[None], 0, 1) for one in field])
    length = noise._params["length"]
    fine = length > 1  # below that the grid is too coarse for the formula
    torch.testing.assert_close(near[fine], torch.exp(-1 / length[fine].square()), rtol=0, atol=0.15)
    assert near[length < 0.6].abs().max() < 0.15
    torch.testing.assert_close(field.std(dim=(1, 2, 3)), noise._params["sigma"], rtol=0.3, atol=0)


def test_tomography_has_its_spectrum():
    clean = flat(0.5, batch=256)
    field = TomographyNoise(sigma=20).corrupt(clean)[0] - clean
    assert field.std().item() * 255 == pytest.approx(20, rel=0.01)
    power = torch.fft.fft2(field).abs().square().mean(dim=(0, 1)) / 128**2  # of each frequency
    step = torch.fft.fftfreq(128)
    frequency = torch.hypot(step[:, None], step)
    law = frequency * torch.cos(torch.pi * frequency.clamp(max=0.5)).pow(4)
    law *= (20 / 255) ** 2 * 128**2 / law.sum()
    for low in np.arange(0.05, 0.45, 0.05):
        ring = (frequency >= low) & (frequency < low + 0.05)
        assert power[ring].mean().item() == pytest.approx(law[ring].mean().item(), rel=0.03)
    assert power[frequency > 0.5].max() < 1e-6 * power.max()
    odd = TomographyNoise(sigma=20).corrupt(flat(0.5, side=63))[0] - 0.5
    assert odd.std().item() * 255 == pytest.approx(20, rel=0.02)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [20, 60, 90])
def test_jpeg_is_near_pillows_file(channels, quality):
    smooth = CorrelatedGaussianNoise(sigma=40, length=8).corrupt(flat(0.5, batch=1, channels=channels))[0].clamp(0, 1)
    noisy, level = Jpeg(quality=quality).corrupt(smooth)
    pixels = (smooth[0].permute(1, 2, 0) * 255).round().byte().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    theirs = torch.from_numpy(np.asarray(Image.open(file)).reshape(pixels.shape) / 255).permute(2, 0, 1)
    apart = (noisy[0] - theirs).square().mean().sqrt()
    assert apart < 0.5 * (theirs - smooth[0]).square().mean().sqrt() + 1 / 255
    assert level.item() == pytest.approx((theirs - smooth[0]).square().mean().sqrt().item(), rel=0.2)


def test_quantizing_and_clipping_are_exact():
    values = torch.tensor([-0.2, 0, 0.1, 0.49, 0.51, 1, 1.3]).view(1, 1, 1, -1)
    assert torch.equal(Quantize(bits=1)(values).flatten(), torch.tensor([0.0, 0, 0, 0, 1, 1, 1]))
    assert Quantize(bits=8)(values).flatten().tolist() == [
        pytest.approx(v / 255) for v in (0, 0, 26, 125, 130, 255, 255)
    ]
    assert torch.equal(Clip()(values), values.clamp(0, 1))
    # rounding to steps of q adds q² / 12
    clean = torch.rand(8, 1, 128, 128)
    assert Quantize(bits=4).corrupt(clean)[1].square().mean().item() == pytest.approx(1 / 15**2 / 12, rel=0.01)


def test_raw_noise_without_noise_is_the_picture_itself():
    clean = torch.rand(8, 3, 64, 64)
    noise = RawNoise(shot=0.01)
    params = noise.forward_parameters(clean.shape)
    silent = params | {name: torch.zeros_like(params[name]) for name in ("shot", "read")}
    torch.testing.assert_close(noise(clean, silent), clean, atol=2e-4, rtol=0)  # black is 10⁻⁸ before the gamma
    red, green, blue = params["gains"].T
    assert ((red / green >= 1.9) & (red / green <= 2.4)).all()
    assert ((blue / green >= 1.5) & (blue / green <= 1.9)).all()


def test_raw_noise_is_a_line_before_development():
    clean = ramp(256).clamp(0.3, 0.8)  # far from both ends, where pictures are clipped
    noise = RawNoise(shot=0.002, exposure=1)
    params = noise.forward_parameters(clean.shape)
    params["read"] = torch.full_like(params["read"], 1e-4)

    def undeveloped(x):
        return (0.5 - torch.sin(torch.asin(1 - 2 * x.double()) / 3)).pow(GAMMA)

    signal = undeveloped(clean)
    residual = undeveloped(noise(clean, params)) - signal
    columns = slice(33, 110)
    variance = residual.square().mean(dim=(0, 1, 2))[columns].numpy()
    slope, intercept = np.polyfit(signal[0, 0, 0, columns].numpy(), variance, 1)
    assert slope == pytest.approx(0.002, rel=0.02)
    assert intercept == pytest.approx(1e-4, rel=0.05)


def test_read_noise_follows_shot_noise():
    params = RawNoise(shot=[1e-4, 0.012]).generate_parameters((20_000, 3, 1, 1))
    shot, read = params["shot"].log(), params["read"].log()
    assert np.polyfit(shot.numpy(), read.numpy(), 1) == pytest.approx([2.18, 1.2], abs=0.05)
    assert (read - 2.18 * shot - 1.2).std().item() == pytest.approx(0.26, rel=0.03)
    assert shot.mean().item() == pytest.approx(np.log(1e-4 * 0.012) / 2, abs=0.05)


def test_a_chain_goes_one_after_the_other():
    twice = ChainNoise(steps={"a": GaussianNoise(sigma=15), "b": GaussianNoise(sigma=20), "c": None})
    noisy, level = twice.corrupt(flat(0.5))
    assert (noisy - 0.5).std().item() * 255 == pytest.approx(25, rel=0.01)
    torch.testing.assert_close(level.flatten() * 255, torch.full((64,), 25.0), rtol=0.03, atol=0)
    assert len(list(twice.parts)) == 2
    last = ChainNoise(steps={"a": GaussianNoise(sigma=15), "b": Quantize(bits=3)}).corrupt(flat(0.5))[0]
    first = ChainNoise(steps={"b": Quantize(bits=3), "a": GaussianNoise(sigma=15)}).corrupt(flat(0.5))[0]
    assert last.unique().numel() <= 8 < first.unique().numel()


def test_a_mixture_draws_by_its_weights():
    choices = {
        "weak": GaussianNoise(sigma=5),
        "strong": GaussianNoise(sigma=50),
        "dots": SaltAndPepperNoise(amount=0.1),
        "never": GaussianNoise(sigma=200),
    }
    noise = MixedNoise(choices=choices, weights={"weak": 3, "dots": 2, "never": 0})
    noisy, level = noise.corrupt(flat(0.5, batch=3000, side=16))
    kept = (noisy == 0.5).float().mean(dim=(1, 2, 3))
    dots = kept > 0.5
    measured = (noisy - 0.5).std(dim=(1, 2, 3)) * 255
    weak, strong = ~dots & (measured < 15), ~dots & (measured > 35) & (measured < 65)
    for found, share in ((weak, 3 / 6), (strong, 1 / 6), (dots, 2 / 6)):
        assert found.float().mean().item() == pytest.approx(share, abs=0.04)
    assert (weak | strong | dots).all()  # nothing in between, and nothing of weight 0
    torch.testing.assert_close(level.flatten(), (noisy - 0.5).square().mean(dim=(1, 2, 3)).sqrt())


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: GaussianMapNoise(sigma=[0, 50], cells=0), "cells=0"),
        (lambda: PoissonGaussianNoise(gain=[0.01, 0.1], read=[0, 5], spacing="log"), "read=.*above 0"),
        (lambda: PoissonGaussianNoise(gain=0.1, read=5, spacing="root"), "spacing=root"),
        (lambda: ImpulseNoise(amount=-0.1), "amount"),
        (lambda: SpeckleNoise(deviation=0), "deviation=0"),
        (lambda: SpeckleNoise(deviation=0.1, distribution="beta"), "distribution=beta"),
        (lambda: RicianNoise(sigma=-1), "sigma"),
        (lambda: CorrelatedGaussianNoise(sigma=5, length=0), "length=0"),
        (lambda: TomographyNoise(sigma=[9, 1]), "sigma"),
        (lambda: Jpeg(quality=0), "quality=0"),
        (lambda: Quantize(bits=0), "bits=0"),
        (lambda: RawNoise(shot=0), "shot=0"),
        (lambda: RawNoise(shot=0.1, red=0), "red=0"),
        (lambda: ChainNoise(steps={"a": None}), "at least one"),
        (lambda: MixedNoise(choices={"a": GaussianNoise(sigma=5)}, weights={"b": 1}), "b: no such noise"),
        (lambda: MixedNoise(choices={"a": GaussianNoise(sigma=5)}, weights={"a": 0}), "weights"),
    ],
)
def test_impossible_strengths_are_named(build, named):
    with pytest.raises(ValueError, match=named):
        build()
