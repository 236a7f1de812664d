"""Large pictures: what is done piece by piece gives what is done at once, and no piece is large."""

import numpy as np
import pytest
import torch
from conftest import randomize
from hydra.utils import instantiate
from skimage.metrics import structural_similarity
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from datamodules.noise.gaussian import GaussianNoise
from datamodules.realisation import ROWS, Kair
from denoisers.inference import Denoiser
from denoisers.metrics import Score, psnr, ssim
from denoisers.module import DenoisingModule
from denoisers.objectives.supervised import Supervised
from denoisers.tiles import spans, tiled
from experiments import strips


class Tensors(TorchDispatchMode):
    """Notes the size of the largest tensor that is made."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result


class Seen(nn.Module):
    """Subtracts the level and notes what it is shown."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def forward(self, noisy, level=None):
        self.shapes.append(tuple(noisy.shape))
        return noisy if level is None else noisy - level


def lively(network):
    """Random weights with which a pixel counts as far as it reaches; with small norm weights it would fade."""
    for module in randomize(network).modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize(("tile", "halo"), [(832, 48), (160, 48), (32, 0), (64, 16)])
def test_tiles_give_every_pixel_once(tile, halo):
    for length in [*range(1, 400), 2999, 3000, 3001, 4000]:
        given = []
        for seen, to, at in spans(length, tile, halo):
            assert seen.start % 32 == 0
            assert seen.stop % 32 == 0 or seen.stop == length
            assert 0 < seen.stop - seen.start <= tile
            assert to.start - seen.start == at.start == (halo if seen.start else 0)
            assert to.stop - seen.start == at.stop
            assert seen.stop - to.stop == (halo if seen.stop < length else 0)
            given += range(to.start, to.stop)
        assert given == list(range(length))


@pytest.mark.parametrize(
    ("model", "reach"), [("dncnn", 17), ("dncnn_b", 20), ("xdncnn", 41), ("unet", 47), ("median", 1)]
)
@torch.inference_mode()
def test_tiles_equal_the_whole_picture(compose, model, reach):
    features = ["model.kernel_size=3"] if model == "median" else ["model.num_features=8"]
    network = lively(instantiate(compose(f"model={model}", "channels=3", *features).model))
    noisy = torch.rand(2, 3, 203, 331)
    whole = network(noisy)
    torch.testing.assert_close(tiled(network, noisy, tile=160), whole, atol=1e-5, rtol=1e-5)
    seams = (tiled(network, noisy, tile=64, halo=0) - whole).abs().max()
    assert seams > 0.01 * (whole - noisy).std()  # a halo is needed
    probe = noisy[:1].clone()
    probe[..., 96:128] = torch.nan
    # kornia's median answers with not-a-number where its window holds one
    reached = network(probe).isnan().any(dim=2).any(dim=1).flatten().nonzero()
    assert (96 - reached.min(), reached.max() - 127) == (reach, reach)


@torch.inference_mode()
def test_a_level_is_cut_along():
    noisy, level, level_map = torch.rand(2, 1, 100, 150), torch.rand(2, 1, 1, 1), torch.rand(2, 1, 100, 150)
    for given in (None, level, level_map):
        network = Seen()
        torch.testing.assert_close(
            tiled(network, noisy, given, tile=64, halo=16), network(noisy, given), atol=0, rtol=0
        )
        assert len(network.shapes) > 4


@torch.inference_mode()
def test_pictures_go_whole_up_to_the_size_of_a_tile():
    network = Seen()
    tiled(network, torch.rand(2, 1, 32, 128), tile=64, halo=16)
    tiled(network, torch.rand(2, 1, 33, 128), tile=64, halo=16)
    assert network.shapes[0] == (2, 1, 32, 128)
    assert max(width for *_, width in network.shapes[1:]) == 64


def test_training_and_inference_go_by_tiles():
    noisy = torch.rand(1, 3, 840, 850)
    module = DenoisingModule(
        Seen(),
        objective=Supervised(),
        loss=nn.MSELoss(),
        optimizer=torch.optim.SGD,
        scheduler=None,
        score=Score(),
        baselines={"other": Seen()},
    )
    batch = {"noisy": noisy, "clean": noisy, "level": torch.zeros(1, 1, 1, 1)}
    assert torch.equal(module.test_step(batch, 0)["estimate"], noisy)
    grey, colour = Denoiser(Seen(), channels=1), Denoiser(Seen(), channels=3)
    assert torch.equal(grey(noisy), noisy)
    torch.testing.assert_close(colour(noisy[:, :1]), noisy[:, :1])  # the mean of three equal numbers
    for network in (module.network, module.baselines["other"], grey.network, colour.network):
        assert len(network.shapes) >= 4
        assert all(height * width <= 832**2 for *_, height, width in network.shapes)


@pytest.mark.parametrize("channels", [1, 3])
def test_scores_in_strips_are_those_of_the_whole_picture(channels):
    clean = torch.rand(2, channels, 57, 203).mul(255).round() / 255
    estimate = clean + 0.1 * torch.rand(2, channels, 57, 1) * torch.randn_like(clean)
    whole = Score()(estimate, clean)
    for pixels in (1, 203 * 7, 203 * 56):
        for metric, values in Score(pixels=pixels)(estimate, clean).items():
            torch.testing.assert_close(values, whole[metric], atol=1e-9, rtol=0)
    a, b = (image[0].double().permute(1, 2, 0).numpy() for image in (clean, (estimate.clamp(0, 1) * 255).round() / 255))
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    theirs = structural_similarity(a, b, data_range=1, channel_axis=2, full=True, **gaussian)[1][5:-5, 5:-5].mean()
    assert Score(pixels=203 * 20)(estimate, clean)["ssim"][0].item() == pytest.approx(theirs, abs=1e-7)
    error = ((a - b) ** 2).mean()
    assert Score(pixels=203 * 20)(estimate, clean)["psnr"][0].item() == pytest.approx(-10 * np.log10(error), abs=1e-5)


def test_smaller_pictures_are_scored_at_once():
    clean, estimate = torch.rand(1, 3, 99, 101), torch.rand(1, 3, 99, 101)
    scores = Score(quantize=False, pixels=99 * 101)(estimate, clean)
    torch.testing.assert_close(scores["psnr"], psnr(estimate.double(), clean.double()), atol=1e-6, rtol=0)
    torch.testing.assert_close(scores["ssim"], ssim(estimate.double(), clean.double()), atol=1e-12, rtol=0)


def test_strips_are_small_and_keep_what_is_special():
    clean = torch.rand(1, 3, 400, 100).mul(255).round() / 255
    estimate, score = clean * 0.9, Score(pixels=2000)
    with Tensors() as tensors:
        score(estimate, clean)
    assert tensors.largest <= 5 * 3 * (20 + 10) * 100  # the five moments of a strip and its overlap
    assert score(clean, clean)["psnr"].isinf()
    assert score(clean, clean)["ssim"] == pytest.approx(1)
    assert score(torch.where(clean == clean.max(), torch.nan, clean), clean)["psnr"].isnan()
    for shape in [(1, 1, 10, 500), (1, 1, 500, 10)]:
        with pytest.raises(ValueError, match="11×11"):
            score(torch.zeros(shape), torch.zeros(shape))


def test_kair_draws_in_rows_what_it_draws_at_once():
    clean, noise = torch.rand(3, 2 * ROWS + 7, 5), GaussianNoise(sigma=25)
    field = np.random.RandomState(0).standard_normal((2 * ROWS + 7, 5, 3))
    expected = torch.addcmul(clean, torch.from_numpy(field).float().permute(2, 0, 1), torch.tensor(25) / 255)
    noisy, _ = Kair()(noise, clean, 0)
    assert torch.equal(noisy, expected)
    assert "normal" not in noise._params  # or the field would outlive the image


def test_strips_are_painted_in_bands(monkeypatch):
    clean, noisy, estimate = torch.rand(3, 3, 50, 40).unbind()
    views = {"clean": clean, "noisy": noisy, "estimate": estimate}
    once = strips.strip(views)
    monkeypatch.setattr(strips, "BAND", 7)
    assert strips.strip(views).tobytes() == once.tobytes()
    panels = np.asarray(once)[strips.LABEL : strips.LABEL + 50].astype(int)
    error = panels[:, 3 * (40 + strips.GAP) :]
    theirs = np.abs(panels[:, 2 * (40 + strips.GAP) :][:, :40] - clean.permute(1, 2, 0).numpy() * 255) * 5
    assert np.abs(error - theirs.clip(0, 255)).max() < 0.51
