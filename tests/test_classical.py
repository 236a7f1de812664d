"""The classical methods: against direct calls of the libraries, and what they share."""

import re
import sys

import numpy as np
import pytest
import torch
from command_line import call
from conftest import choices, learns
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from scipy import ndimage
from skimage import data, restoration
from torch import nn

from datamodules.images import decode, to_tensor
from denoisers.classical.base import Tuned
from denoisers.classical.gaussian_filter import GaussianFilter
from denoisers.classical.mean import Mean
from denoisers.classical.median import Median
from denoisers.classical.nlm import NonLocalMeans
from denoisers.classical.tv import TotalVariation
from denoisers.classical.wavelet import Wavelet
from denoisers.metrics import psnr
from denoisers.tiles import tiled
from experiments import tune
from experiments.cli import explanation

CLASSICAL = [name for name in choices("model") if not learns(name) and name != "identity"]
QUICK = [name for name in CLASSICAL if name != "bm3d"]  # which takes seconds
SIGMA = 20 / 255
TABLE = {10: 0.6, 30: 0.8}  # 0.7 at σ = 20


def picture(channels: int, size: int = 128) -> torch.Tensor:
    """Clean [1, C, size, size] in [0, 1]: the camera man's head, or the astronaut's."""
    pixels = (
        data.camera()[60 : 60 + size, 180 : 180 + size, None]
        if channels == 1
        else data.astronaut()[:size, 160 : 160 + size]
    )
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255


def corrupted(clean: torch.Tensor, sigma: float = SIGMA) -> torch.Tensor:
    return clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))


def given(sigma: float) -> torch.Tensor:
    return torch.full((1, 1, 1, 1), sigma)


def build(compose, model, *overrides):
    if model == "bm3d":
        pytest.importorskip("bm3d", reason="the optional package bm3d is missing")
    return instantiate(compose(f"model={model}", *overrides).model)


def middle(image):
    return ndimage.median_filter(image, (5, 5, 1)[: image.ndim], mode="nearest")


def nl_means(image):
    axis = -1 if image.ndim == 3 else None
    options = {"patch_size": 5, "patch_distance": 6, "h": 0.7 * SIGMA, "sigma": SIGMA, "channel_axis": axis}
    return restoration.denoise_nl_means(image, fast_mode=True, **options)


def total_variation(image):
    return restoration.denoise_tv_chambolle(image, 0.7 * SIGMA, channel_axis=-1 if image.ndim == 3 else None)


def shrunk(image):
    colour = {"channel_axis": -1, "convert2ycbcr": True} if image.ndim == 3 else {}
    total = 0
    for down, right in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        moved = np.roll(image, (down, right), axis=(0, 1))
        once = restoration.denoise_wavelet(moved, 0.7 * SIGMA, "db2", "soft", 3, **colour)
        total = total + np.roll(once, (-down, -right), axis=(0, 1))
    return total / 4


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("method", "direct"),
    [
        (Mean(kernel_size={10: 3, 22: 5}), lambda image: ndimage.uniform_filter(image, (5, 5, 1)[: image.ndim])),
        (Median(kernel_size={10: 3, 22: 5}), middle),
        (GaussianFilter(blur=TABLE), lambda image: ndimage.gaussian_filter(image, (0.7, 0.7, 0)[: image.ndim])),
        (NonLocalMeans(h=TABLE), nl_means),
        (TotalVariation(weight=TABLE), total_variation),
        (Wavelet(strength=TABLE, levels=3, shifts=1), shrunk),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_equals_the_library_at_the_tuned_value(method, direct, channels):
    noisy = corrupted(picture(channels, 64)).double()
    estimate = method(noisy, given(SIGMA))
    image = noisy[0].permute(1, 2, 0).numpy()
    expected = direct(image[..., 0] if channels == 1 else image).reshape(image.shape)
    torch.testing.assert_close(estimate[0].permute(1, 2, 0), torch.from_numpy(expected), atol=1e-7, rtol=0)
    assert (estimate - noisy).std() > 0.01


def test_tuned_values_are_found_between_the_levels():
    for table in ({30: 0.8, 10: 0.6}, {"10": 0.6, 30.0: 0.8}, OmegaConf.create({30: 0.8, 10: 0.6})):
        tuned = Tuned("h", table)
        assert [tuned.at(sigma / 255) for sigma in (0, 10, 15, 30, 99)] == pytest.approx([0.6, 0.6, 0.65, 0.8, 0.8])
        assert [tuned.nearest(sigma / 255) for sigma in (0, 19, 21, 99)] == [0.6, 0.6, 0.8, 0.8]
    assert Tuned("h", 0.7).at(SIGMA) == Tuned("h", 0.7).nearest(SIGMA) == 0.7


@pytest.mark.parametrize("wrong", [0, -1, {}, {15: 0}, {-5: 1}, "much", {"much": 1}, {15: None}])
def test_impossible_values_are_named(wrong):
    with pytest.raises(ValueError, match="h="):
        NonLocalMeans(h=wrong)


@pytest.mark.parametrize("wrong", ["guess", -1, float("nan")])
def test_an_impossible_sigma_is_named(wrong):
    with pytest.raises(ValueError, match="sigma="):
        NonLocalMeans(h=0.7, sigma=wrong)


@pytest.mark.parametrize("method", [Mean, Median])
def test_an_even_window_is_refused(method):
    with pytest.raises(ValueError, match="kernel_size=4"):
        method(kernel_size={15: 3, 25: 4})


def test_where_sigma_comes_from():
    noisy, clean = corrupted(picture(1)), picture(1)
    told, wrong = given(SIGMA), given(3 * SIGMA)
    right = TotalVariation(weight=0.7)(noisy, told)
    for level in (wrong, None):  # which a number overrules
        torch.testing.assert_close(TotalVariation(weight=0.7, sigma=20)(noisy, level), right, atol=1e-5, rtol=0)
    estimated = TotalVariation(weight=0.7, sigma="estimated")(noisy, wrong)
    assert torch.equal(TotalVariation(weight=0.7)(noisy), estimated)  # without a level
    assert not torch.equal(estimated, right)
    assert psnr(estimated, clean) == pytest.approx(psnr(right, clean), abs=0.1)
    spread = torch.tensor([0.6, 1.28**0.5 * 1.0]).repeat(64) * SIGMA  # of which the mean square is 0.82 σ²
    level_map = spread.expand(1, 1, 128, 128)
    rms = level_map.square().mean().sqrt().item()
    torch.testing.assert_close(
        TotalVariation(weight=0.7)(noisy, level_map), TotalVariation(weight=0.7)(noisy, given(rms))
    )


def test_sigma_is_estimated():
    method = TotalVariation(weight=0.7)
    for channels in (1, 3):
        for sigma in (10, 50):
            noisy = corrupted(picture(channels), sigma / 255)
            assert method.noise(noisy[0], None) * 255 == pytest.approx(sigma, abs=1.5)  # texture counts as noise


def test_samples_have_their_own_level():
    noisy, levels = corrupted(picture(1)).expand(2, -1, -1, -1), torch.tensor([10.0, 40.0]).view(2, 1, 1, 1) / 255
    both = TotalVariation(weight=0.7)(noisy, levels)
    assert torch.equal(both[1:], TotalVariation(weight=0.7)(noisy[1:], levels[1:]))
    assert both[1].std() < both[0].std()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("model", CLASSICAL)
def test_improves_by_a_margin(compose, model, channels):
    clean = picture(channels, 128 if model != "bm3d" else 48)
    gains = {"mean": 4, "median": 3, "gaussian_filter": 5, "wavelet": 6, "nlm": 6.5, "tv": 6.5, "bm3d": 6}
    method, level = build(compose, model), given(25 / 255)
    assert not list(method.parameters())
    noisy = corrupted(clean, 25 / 255)
    assert psnr(method(noisy, level), clean) - psnr(noisy, clean) > gains[model]


@pytest.mark.parametrize("model", QUICK)
def test_type_input_and_plain_pictures(compose, model):
    method = build(compose, model)
    noisy = corrupted(picture(3, 40)).double()
    before = noisy.clone()
    assert method(noisy, given(SIGMA).double()).dtype == torch.float64
    assert torch.equal(noisy, before)
    plain = torch.full((1, 3, 40, 40), 0.5)
    for level in (None, given(0.0), given(SIGMA)):
        torch.testing.assert_close(method(plain, level), plain, atol=1e-3, rtol=0)


@pytest.mark.parametrize("model", ["nlm", "tv", "wavelet"])
def test_no_noise_leaves_the_picture(compose, model):
    clean = picture(1, 48)
    torch.testing.assert_close(build(compose, model)(clean, given(0.0)), clean, atol=1e-3, rtol=0)


@pytest.mark.parametrize("model", ["nlm", "wavelet"])
def test_colours_are_cleaned_together(compose, model):
    clean, method = picture(3), build(compose, model)
    noisy = corrupted(clean)
    apart = torch.cat([method(plane, given(SIGMA)) for plane in noisy.split(1, dim=1)], dim=1)
    assert psnr(method(noisy, given(SIGMA)), clean) > psnr(apart, clean) + 0.3


class Counted(nn.Module):
    """Passes a method on and counts how often it is called."""

    def __init__(self, method):
        super().__init__()
        self.method, self.calls, self.whole = method, 0, method.whole

    def forward(self, noisy, level=None):
        self.calls += 1
        return self.method(noisy, level)


@pytest.mark.parametrize("model", QUICK)
def test_whole_pictures_are_not_cut(compose, model):
    counted, noisy = Counted(build(compose, model)), corrupted(picture(1))
    estimate = tiled(counted, noisy, given(SIGMA), tile=96, halo=16)
    torch.testing.assert_close(estimate, counted.method(noisy, given(SIGMA)), atol=1e-6, rtol=0)
    assert (counted.calls == 1) == counted.whole
    assert counted.whole or model == "median"


def test_one_window_for_all_levels_is_tiled():
    assert not any(method.whole for method in (Mean(kernel_size=3), Median(kernel_size=3), GaussianFilter(blur=1)))


def test_bm3d_takes_colour_pictures_that_are_grey(compose):
    method, plain = build(compose, "bm3d"), torch.full((1, 3, 20, 20), 0.5)
    assert method.whole
    torch.testing.assert_close(method(plain, given(SIGMA)), plain, atol=1e-3, rtol=0)


def test_a_missing_bm3d_is_named(compose, monkeypatch):
    monkeypatch.setitem(sys.modules, "bm3d", None)
    with pytest.raises(InstantiationException) as caught:
        instantiate(compose("model=bm3d").model)
    message = explanation(caught.value)
    assert message is not None
    assert "pip install bm3d" in message
    assert "non-commercial" in message


@pytest.mark.slow
def test_bm3d_on_a_published_image(compose, real_data):
    pytest.importorskip("bm3d", reason="the optional package bm3d is missing")
    cfg = compose("model=bm3d", "noise=sigma25")
    method, noise, score = instantiate(cfg.model), instantiate(cfg.noise), instantiate(cfg.protocol.score)
    values = []
    for name in ("test004",):
        clean = to_tensor(decode(real_data / "BSD68" / f"{name}.png"))
        noisy, level = instantiate(cfg.protocol.realisation)(noise, clean, 0)
        values.append(score.psnr(method(noisy[None], level[None]), clean[None]).item())
    assert values == pytest.approx([30.300], abs=0.02)  # measured with bm3d 4.0.3


def test_tune_finds_the_best_value_of_its_grid(monkeypatch, capfd):
    """A blur of 0.8 pixels is better than none at σ = 25, and none is better at σ = 5."""
    arguments = ["model=gaussian_filter", "data=sample", "images=2", "sigmas=[5,25]", "workers=2"]
    code, printed = call(monkeypatch, capfd, tune.main, *arguments, "grid.gaussian_filter.blur=[0.1,0.8]")
    assert code == 0, printed
    assert "blur: {5: 0.1, 25: 0.8}" in printed
    assert "kair" in printed
    code, printed = call(monkeypatch, capfd, tune.main, "model=dncnn")
    assert code == 2
    assert "has no grid for it" in printed


def test_tune_takes_pairs_as_they_are(monkeypatch, capfd, tmp_path):
    """Flat pictures with strong noise: the stronger blur is better; without their own noise neither would matter."""
    generator = np.random.default_rng(0)
    for folder in ("noisy", "clean"):
        (tmp_path / folder).mkdir()
    for number in range(3):
        clean = np.full((40, 40), 90 + 20 * number, np.uint8)
        Image.fromarray(clean).save(tmp_path / "clean" / f"{number}.png")
        noisy = clean + generator.normal(0, 20, clean.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(tmp_path / "noisy" / f"{number}.png")
    given = ["data=pairs", f"data.noisy={tmp_path / 'noisy'}", f"data.clean={tmp_path / 'clean'}", "channels=1"]
    grid = "grid.gaussian_filter.blur=[0.1,2]"
    code, printed = call(monkeypatch, capfd, tune.main, "model=gaussian_filter", *given, "noise=none", grid)
    assert code == 0, printed
    assert "inf" not in printed
    assert re.search(r"blur: \{\d[\d.]*: 2\}", printed)
    code, printed = call(monkeypatch, capfd, tune.main, "model=gaussian_filter", *given, grid)
    assert code == 2
    assert "add noise=none" in printed
