"""Large pictures: what is done piece by piece gives what is done at once, and no piece is large."""

import copy

import numpy as np
import pytest
import torch
from conftest import TRAINABLE, randomize, small
from hydra.utils import instantiate
from skimage.metrics import structural_similarity
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from datamodules.noise.gaussian import GaussianNoise
from datamodules.realisation import ROWS, Kair
from denoisers import memory
from denoisers.inference import Denoiser
from denoisers.metrics import Score, psnr, ssim
from denoisers.module import DenoisingModule
from denoisers.objectives.supervised import Supervised
from denoisers.receptive import Sight, halo_of, sight_of
from denoisers.tiles import Plan, bands, faded, least_tile, neighbours, plan_for, rounded, tiled
from denoisers.views import EIGHT
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


class Strided(nn.Module):
    """Subtracts means of each so many columns and rows, and beside it the mean of neighbours, by a kernel that wide."""

    def __init__(self, stride, gain=1.0, wide=1, centred=False):
        super().__init__()
        self.stride, self.gain, self.wide, self.centred = stride, gain, wide, centred

    def forward(self, noisy, level=None):
        height, width = noisy.shape[-2:]
        down, right = -height % self.stride, -width % self.stride
        up, left = (down // 2, right // 2) if self.centred else (0, 0)
        padded = nn.functional.pad(noisy, (left, right - left, up, down - up), mode="replicate")
        means = nn.functional.interpolate(nn.functional.avg_pool2d(padded, self.stride), scale_factor=self.stride)
        blurred = nn.functional.avg_pool2d(noisy, (1, self.wide), 1, (0, self.wide // 2))
        blurred = nn.functional.avg_pool2d(blurred, (self.wide, 1), 1, (self.wide // 2, 0))
        return noisy - self.gain * means[..., up : up + height, left : left + width] - blurred


@pytest.mark.parametrize(
    ("tile", "halo", "alignment"),
    [(832, 64, 64), (128, 32, 64), (64, 0, 64), (256, 96, 64), (145, 17, 1), (530, 33, 2), (99, 9, 3), (168, 44, 8)],
)
def test_tiles_give_every_pixel_once_and_see_beyond_it(tile, halo, alignment):
    plan = Plan(tile, halo, alignment)
    for length in [*range(1, 400), 2999, 3000, 3001, 4000]:
        given, shown = [], 0
        for piece in plan.pieces(length):
            given += range(piece.start, piece.stop)
            for turned in (False, True):
                seen = plan.seen(piece, length, turned)
                assert seen.start == 0 or piece.start - seen.start >= halo
                assert seen.stop == length or seen.stop - piece.stop >= halo
                first, last = (length - seen.stop, length - seen.start) if turned else (seen.start, seen.stop)
                assert first % alignment == 0  # as the network sees it
                assert last % alignment == 0 or last == length
                assert last - first <= tile + alignment * turned
            seen = plan.seen(piece, length)
            shown += seen.stop - seen.start
        assert given == list(range(length))
        assert shown == length + 2 * halo * (len(plan.pieces(length)) - 1)  # nothing more than the overlap


def test_overlaps_are_no_larger_than_what_a_network_sees():
    assert [rounded(Sight(17, alignment)) for alignment in (1, 2, 3, 4, 8, 64)] == [17, 17, 18, 18, 20, 32]
    plan = Plan(526, rounded(Sight(17, 1)), 1)
    seen = [plan.seen(piece, 2000) for piece in plan.pieces(2000)]
    assert len(seen) == 4
    assert sum(piece.stop - piece.start for piece in seen) == 2000 + 3 * 34


@pytest.mark.parametrize("gain", [1.0, 0.0])
@pytest.mark.parametrize("stride", [1, 2, 3, 8, 48, 64])
def test_the_alignment_is_found(stride, gain):
    assert sight_of(Strided(stride, gain), 1).alignment == stride


def test_the_alignment_is_found_though_what_is_aligned_reaches_less_far():
    assert sight_of(Strided(4, wide=21), 1) == (10, 4)


@pytest.mark.parametrize("network", [Strided(5), Strided(8, centred=True)], ids=["stride 5", "centred"])
def test_what_no_multiple_keeps_in_phase_is_blended(network):
    assert sight_of(network, 1) == (None, 64)
    assert plan_for(network, 1, (900, 900), torch.device("cpu"), tile=256).blended


@pytest.mark.parametrize(("tile", "size"), [(32, (241, 303)), (100, (270, 271))])
@pytest.mark.parametrize("network", [Strided(1, wide=9), Strided(3), Strided(4, wide=21), Strided(8), Strided(48)])
@torch.inference_mode()
def test_odd_pictures_in_odd_tiles_are_the_whole_picture(network, tile, size):
    noisy = torch.rand(2, 1, *size)
    plan, shapes = plan_for(network, 1, size, noisy.device, tile=tile), []
    hook = network.register_forward_pre_hook(lambda module, given: shapes.append(given[0].shape))
    found = torch.cat([part for _, part in bands(network, noisy, None, plan, EIGHT)], dim=-2)
    hook.remove()
    assert len(shapes) > 8
    views = [view.undo(network(view.of(noisy).contiguous())) for view in EIGHT]
    torch.testing.assert_close(found, torch.stack(views).mean(0), atol=1e-5, rtol=0)


def test_blended_tiles_fade_into_one_another():
    plan = Plan(256, None)
    for length in [*range(200, 900, 7), 4000]:
        weights = torch.zeros(length)
        for piece, before, after in neighbours(plan.pieces(length)):
            assert piece.stop - piece.start <= 256
            weights[piece] += faded(piece, before, after, weights)
        torch.testing.assert_close(weights, torch.ones(length))


@pytest.mark.parametrize("model", TRAINABLE)
@torch.inference_mode()
def test_tiles_equal_the_whole_picture(spec, model):
    network = lively(instantiate(small(spec(model))))
    sight, level = sight_of(network, 1), torch.full((1, 1, 1, 1), 0.1)
    halo, least = sight.halo, least_tile(sight)
    noisy, shapes = torch.rand(1, 1, 8, 600 if halo is None else 2 * least + 111), []
    whole = network(noisy, level)
    hook = network.register_forward_pre_hook(lambda module, given: shapes.append(given[0].shape[-1]))
    estimate = tiled(network, noisy, level, tile=32)
    hook.remove()
    assert len(shapes) > 2
    assert max(shapes) <= least
    scale = max(1, whole.abs().max())
    if halo is None:  # the stated exception: the whole picture counts
        assert 1e-5 * scale < (estimate - whole).abs().max() < 1e3 * scale
        return
    assert (estimate - whole).abs().max() <= 1e-5 * scale
    if halo > 8:  # and is it needed?
        seams = (tiled(network, noisy, level, tile=32, halo=0) - whole).abs().max()
        assert seams > 1e-4 * (whole - noisy).std()


def test_a_network_may_say_itself_how_far_it_sees():
    network = Seen()
    assert halo_of(network, 1) == 0
    declared = Seen()
    declared.receptive_field = 35
    assert sight_of(declared, 1) == (18, 64)
    declared.alignment = 2
    assert sight_of(declared, 1) == (18, 2)
    declared.whole_image = True
    assert halo_of(declared, 1) is None


@pytest.mark.parametrize(
    ("model", "reach"), [("dncnn", 17), ("dncnn_b", 20), ("xdncnn", 41), ("unet", 47), ("median", 1), ("drunet", 185)]
)
def test_how_far_networks_see(compose, model, reach):
    network = instantiate(compose(f"model={model}", "channels=3").model).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert halo_of(network, 3) == reach  # untrained, which is the identity, and in training mode
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("model", "alignment"),
    [("dncnn", 1), ("xdncnn", 1), ("adnet", 1), ("ffdnet", 2), ("unet", 8), ("swinir", 4)],
)
def test_where_networks_may_be_cut(spec, model, alignment):
    network = instantiate(small(spec(model)))
    assert sight_of(network, 1).alignment == alignment  # untrained, which is the identity
    assert sight_of(lively(copy.deepcopy(network)), 1) == sight_of(network, 1)


@pytest.mark.parametrize("model", ["res_unet", "light_unet", "cbam_unet", "danet", "nafnet32", "restormer"])
def test_what_pools_or_attends_to_the_whole_picture_sees_all_of_it(spec, model):
    assert halo_of(instantiate(small(spec(model))), 1) is None


@torch.inference_mode()
def test_a_level_is_cut_along():
    noisy, level, level_map = torch.rand(2, 1, 100, 200), torch.rand(2, 1, 1, 1), torch.rand(2, 1, 100, 200)
    for given in (None, level, level_map):
        network = Seen()
        torch.testing.assert_close(tiled(network, noisy, given, tile=64), network(noisy, given), atol=0, rtol=0)
        assert len(network.shapes) > 4


@torch.inference_mode()
def test_pictures_go_whole_up_to_the_size_of_a_tile():
    network = Seen()
    tiled(network, torch.rand(2, 1, 32, 128), tile=64, halo=16)
    tiled(network, torch.rand(2, 1, 33, 129), tile=64, halo=16)
    assert network.shapes[0] == (2, 1, 32, 128)
    assert max(width for *_, width in network.shapes[1:]) == 128


@pytest.mark.parametrize("limit", [512, 256, 100])
@torch.inference_mode()
def test_where_memory_runs_out_tiles_are_halved(limit, caplog):
    class Greedy(Seen):
        def forward(self, noisy, level=None):
            if noisy.numel() > limit**2:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
            return super().forward(noisy, level)

    network, noisy = Greedy(), torch.rand(1, 1, 700, 900)
    if limit == 100:  # less than the least tile
        with pytest.raises(RuntimeError, match="allocate"):
            tiled(network, noisy, tile=1024)
        return
    denoiser = Denoiser(network, channels=1, tile=1024)
    assert torch.equal(denoiser(noisy), noisy)
    assert denoiser.plan.tile <= limit
    assert f"tiles of {denoiser.plan.tile} pixels" in caplog.text
    caplog.clear()
    assert torch.equal(denoiser(noisy), noisy)
    assert not caplog.text  # it remembers
    assert torch.equal(tiled(network, noisy, tile=1024), noisy)


def test_the_largest_tile_that_fits_is_chosen(compose, monkeypatch):
    network, cpu = (
        instantiate(compose("model=dncnn", "model.num_features=256", "channels=1").model),
        torch.device("cpu"),
    )
    cost = memory.bytes_per_pixel(network, 1)
    assert 2 * 256 * 4 <= cost / memory.SCRATCH < 2.5 * 256 * 4  # two maps of 256 features
    monkeypatch.setattr(memory, "available", lambda device: 2 * memory.BUDGET)
    plan = plan_for(network, 1, (5000, 5000), cpu)
    assert plan.tile**2 * cost <= memory.BUDGET < (plan.tile + 64) ** 2 * cost
    monkeypatch.setattr(memory, "available", lambda device: 1e9)
    assert plan_for(network, 1, (5000, 5000), cpu).tile ** 2 * cost <= 0.5e9
    monkeypatch.setattr(memory, "available", lambda device: 0)
    assert plan_for(network, 1, (5000, 5000), cpu).blended
    assert not plan_for(network, 1, (5000, 5000), cpu, tile=64).blended
    monkeypatch.undo()
    assert memory.available(cpu) > 1e8


def test_memory_is_counted_without_drawing_from_the_generator_of_others():
    network, before = Seen(), torch.get_rng_state()
    memory.bytes_per_pixel(network, 1)
    assert network.shapes
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("model", ["dncnn", "ffdnet"])
@torch.inference_mode()
def test_eight_views_of_tiles_are_those_of_the_whole_picture(spec, model):
    network, noisy = lively(instantiate(small(spec(model)))), torch.rand(1, 1, 141, 171) * 0.1 + 0.4
    found, level = [], torch.full((1, 1, 1, 1), 0.1)
    for turns in range(4):
        for flipped in (False, True):
            view = noisy.rot90(turns, (-2, -1)).flip(-1) if flipped else noisy.rot90(turns, (-2, -1))
            estimate = network(view, level)
            found.append((estimate.flip(-1) if flipped else estimate).rot90(-turns, (-2, -1)))
    expected = torch.stack(found).mean(0)
    plan = plan_for(network, 1, noisy.shape[-2:], noisy.device, tile=32)
    parts = [part for _, part in bands(network, noisy, level, plan, EIGHT)]
    assert len(parts) > 1
    scale = max(1, expected.abs().max())
    torch.testing.assert_close(torch.cat(parts, -2) / scale, expected / scale, atol=1e-5, rtol=0)
    assert (expected - found[0]).abs().max() > 1e-3 * scale
    whole = Denoiser(network, channels=1, ensemble=True)(noisy, 0.1)
    torch.testing.assert_close(whole, expected.clamp(0, 1), atol=1e-5 * scale, rtol=0)


def test_training_and_inference_go_by_tiles(monkeypatch):
    monkeypatch.setattr(memory, "BUDGET", 1e9)
    noisy = torch.rand(1, 3, 1300, 1300)
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
