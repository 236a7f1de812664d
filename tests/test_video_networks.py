"""Networks that see time: their contract, moving crops of single images, windows, tiles, flicker, and a run of each."""

import csv
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command_line import call
from conftest import CONF, choices, model_file, randomize
from hydra.utils import get_class, instantiate
from PIL import Image
from test_videos import assert_same_on_the_device
from torch import nn

import denoisers
import experiments.denoise
import experiments.evaluate
from datamodules import catalog, parting, splits
from datamodules.datasets import Crops, WholeImages, wander
from datamodules.images import DataError
from denoisers.clips import estimated, frames, reach_of
from denoisers.layers import LevelError, level_map, mirror_to_multiple, mirrored
from denoisers.metrics import Score
from denoisers.module import DenoisingModule
from denoisers.networks.conv3d_unet import Conv3d
from denoisers.networks.dncnn import DnCNN
from denoisers.networks.fastdvd import FastDVDnet
from denoisers.objectives.supervised import Supervised
from denoisers.ranged import ranged
from denoisers.tiles import tiled, windows
from experiments import results
from train import main as train

SMALL = {"fastdvd": {"num_features": 4, "frame_features": 3}, "conv3d_unet": {"num_features": 4, "num_layers": 2}}
TEMPORAL = sorted(SMALL)


def lively(network, seed=0):
    """Random weights with which a pixel counts as far as it reaches."""
    torch.manual_seed(seed)
    for module in randomize(network, seed).modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return network.eval()


def small(model, **options):
    return lively(get_class(model_file(model)["_target_"])(channels=1, **SMALL[model] | options))


def clip_and_level(batch, length, height, width, channels=1):
    return torch.rand(batch, length, channels, height, width), torch.rand(batch, length, 1, 1, 1)


# --- the networks --------------------------------------------------------------------------------------------------


def test_the_networks_that_see_time_are_those():
    with torch.device("meta"):
        found = [m for m in choices("model") if m in SMALL or "networks" not in model_file(m)["_target_"]]
        seeing = {m for m in found if reach_of(get_class(model_file(m)["_target_"])) or m in SMALL}
    assert seeing == set(TEMPORAL)
    assert all(reach_of(small(model)) for model in TEMPORAL)
    assert reach_of(DnCNN(num_layers=2, num_features=2)) is None
    assert reach_of(ranged(small("fastdvd"), [-1, 1])) == (2, 80)
    assert reach_of(ranged(DnCNN(num_layers=2, num_features=2), [-1, 1])) is None


def test_the_paper_has_as_many_parameters():
    with torch.device("meta"):
        assert sum(p.numel() for p in FastDVDnet().parameters()) == 2_479_096  # the authors: 2.48 million
        alone = FastDVDnet(neighbours=False)
    assert sum(p.numel() for p in alone.parameters()) == 2_479_096


@pytest.mark.parametrize("model", TEMPORAL)
@torch.inference_mode()
def test_any_length_and_size_keeps_its_shape(model):
    network = small(model)
    for length, height, width in itertools.product([1, 2, 3, 7], [1, 13], [1, 6]):
        noisy, level = clip_and_level(2, length, height, width)
        estimate = network(noisy, level)
        assert estimate.shape == noisy.shape
        assert estimate.isfinite().all()
        assert (estimate - noisy).abs().max() > 1e-3
        alone = network(noisy[1:], level[1:])
        torch.testing.assert_close(estimate[1:], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("model", TEMPORAL)
@torch.inference_mode()
def test_an_image_is_a_clip_of_one_frame(model):
    network, (noisy, level) = small(model), clip_and_level(2, 1, 9, 10)
    torch.testing.assert_close(network(noisy[:, 0], level[:, 0]), network(noisy, level)[:, 0], atol=0, rtol=0)


@pytest.mark.parametrize("neighbours", [True, False])
def test_an_estimate_of_fastdvd_depends_on_exactly_five_frames(neighbours):
    network = small("fastdvd", neighbours=neighbours, activation="gelu").double()
    noisy, level = (part.double() for part in clip_and_level(1, 11, 8, 8))
    noisy.requires_grad_()
    (gradient,) = torch.autograd.grad(network(noisy, level)[:, 5].square().sum(), noisy)
    seen = gradient.abs().amax(dim=(0, 2, 3, 4)).nonzero().flatten().tolist()
    assert seen == ([3, 4, 5, 6, 7] if neighbours else [5])


@pytest.mark.parametrize(("model", "beyond"), [("fastdvd", 2), ("conv3d_unet", 6)])
@torch.inference_mode()
def test_networks_reach_as_far_as_they_say(model, beyond):
    network = small(model)
    assert network.reach[0] == beyond
    length = 2 * beyond + 5
    noisy, level = clip_and_level(1, length, 4, 8)
    noisy[:, beyond + 2] = torch.nan
    reached = network(noisy, level).isnan().any(dim=4).any(dim=3).flatten().nonzero().flatten()
    assert reached.tolist() == list(range(2, length - 2))
    furthest = 0
    for column in range(96, 104):
        noisy, level = clip_and_level(1, 1, 4, 200)
        noisy[..., column] = torch.nan
        columns = network(noisy, level).isnan().any(dim=3).flatten().nonzero()
        furthest = max(furthest, column - int(columns.min()), int(columns.max()) - column)
    assert furthest == network.reach[1]


def literal(network, noisy, level, t):
    """FastDVDnet's estimate of one frame, from its own five frames alone, as the paper's figure draws it."""
    last = noisy.shape[1] - 1
    x, height, width = [], *noisy.shape[-2:]
    for place in range(t - 2, t + 3):
        while not 0 <= place <= last:
            place = (-place if place < 0 else 2 * last - place) if last else 0
        shown = torch.cat([noisy[:, place], level_map(level[:, place], noisy[:, place], "")], dim=1)
        x.append(mirror_to_multiple(shown, 4))
    maps = [frame[:, -1:] for frame in x]
    between = [torch.cat([network.first(torch.cat(x[n - 1 : n + 2], dim=1)), maps[n]], dim=1) for n in (1, 2, 3)]
    return network.second(torch.cat(between, dim=1))[..., :height, :width]


@pytest.mark.parametrize("length", [1, 2, 3, 6])
@torch.inference_mode()
def test_shared_first_steps_are_those_of_each_window(length):
    network, (noisy, level) = small("fastdvd"), clip_and_level(2, length, 7, 10)
    estimate = network(noisy, level)
    for t in range(length):
        torch.testing.assert_close(estimate[:, t], literal(network, noisy, level, t), atol=1e-5, rtol=1e-5)
    calls = []
    network.first.register_forward_hook(lambda module, given, output: calls.append(len(output)))
    network(noisy, level)
    assert calls == [2 * (length + 2)]


def test_frames_beyond_an_end_are_mirrored():
    found = {length: mirrored(length, 2, 2, torch.device("cpu")).tolist() for length in (1, 2, 3, 5)}
    assert found == {
        1: [0, 0, 0, 0, 0],
        2: [0, 1, 0, 1, 0, 1],
        3: [2, 1, 0, 1, 2, 1, 0],
        5: [2, 1, 0, 1, 2, 3, 4, 3, 2],
    }


def test_fastdvd_is_told_the_level_of_each_frame_or_is_blind():
    network, (noisy, level) = small("fastdvd"), clip_and_level(1, 3, 8, 8)
    with torch.inference_mode():
        estimate = network(noisy, level)
        torch.testing.assert_close(network(noisy, level.expand(-1, -1, 1, 8, 8)), estimate, atol=1e-6, rtol=1e-6)
        other = level.clone()
        other[:, 0] += 0.1
        assert not torch.equal(network(noisy, other)[:, 0], estimate[:, 0])
        with pytest.raises(LevelError, match="FastDVDnet has to be told"):
            network(noisy)
        blind = small("fastdvd", told=False)
        assert torch.equal(blind(noisy), blind(noisy, level))


@torch.inference_mode()
def test_the_same_frame_thrice_is_what_a_network_of_single_frames_sees():
    alone, (noisy, level) = small("fastdvd", neighbours=False), clip_and_level(2, 4, 8, 8)
    seeing = small("fastdvd")
    seeing.load_state_dict(alone.state_dict())
    estimate = alone(noisy, level)
    for t in range(4):
        still = noisy[:, t : t + 1].expand(-1, 5, -1, -1, -1), level[:, t : t + 1].expand(-1, 5, -1, -1, -1)
        torch.testing.assert_close(estimate[:, t], seeing(*still)[:, 2], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_a_3d_convolution_is_pytorchs():
    conv, x = Conv3d(3, 5), torch.rand(2, 4, 3, 9, 8)  # [B, T, C, H, W]
    weight = conv.conv.weight.unflatten(1, (3, 3)).transpose(1, 2)  # [out, in, 3, k, k]
    padded = F.pad(x.transpose(1, 2), (0, 0, 0, 0, 1, 1), mode="replicate")
    expected = F.conv3d(padded, weight, conv.conv.bias, padding=(0, 1, 1)).transpose(1, 2)
    torch.testing.assert_close(conv(x.flatten(0, 1), 4).unflatten(0, (2, 4)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "xunit", "xunit_d"])
@pytest.mark.parametrize("model", TEMPORAL)
def test_clips_teach_every_parameter(model, activation):
    network = small(model, activation=activation).train()
    network(*clip_and_level(2, 3, 8, 8)).square().sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(name.endswith("bias") for name in idle)  # one before batch norm cannot matter


# --- windows of frames and tiles -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "beyond"), [(8, 2), (1, 0), (3, 6), (1, 2)])
def test_windows_give_every_frame_once(window, beyond):
    for length in range(1, 60):
        given = []
        for seen, kept in windows(length, window, beyond):
            assert 0 < seen.stop - seen.start <= window + 2 * beyond
            first, last = seen.start + kept.start, seen.start + kept.stop
            assert first - seen.start == beyond or seen.start == 0
            assert seen.stop - last == beyond or seen.stop == length
            given += range(first, last)
        assert given == list(range(length))


@pytest.mark.parametrize(("model", "length", "width"), [("fastdvd", 6, 780), ("conv3d_unet", 14, 200)])
@torch.inference_mode()
def test_windows_and_tiles_equal_the_whole_clip(model, length, width):
    network, (noisy, level) = small(model), clip_and_level(1, length, 48, width)
    whole, shapes = network(noisy, level), []
    hook = network.register_forward_pre_hook(lambda module, given: shapes.append(given[0].shape))
    found = tiled(network, noisy, level.expand(-1, -1, 1, 48, width), window=1, tile=64)
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)
    assert max(shape[1] for shape in shapes) == 1 + 2 * network.reach[0] < length
    assert max(shape[4] for shape in shapes) < width
    hook.remove()
    noisy, level, whole = noisy[..., :120], level, network(noisy[..., :120], level)
    torch.testing.assert_close(tiled(network, noisy, level, window=1), whole, atol=1e-5, rtol=1e-5)
    for reach in [(1, network.reach[1]), (network.reach[0], 0)]:
        network.reach = reach  # the overlaps are needed
        assert (tiled(network, noisy, level, window=1, tile=32) - whole).abs().max() > 1e-3


@torch.inference_mode()
def test_images_of_networks_that_see_time_are_tiled_by_their_reach():
    network, noisy, level = small("fastdvd"), torch.rand(1, 1, 150, 360), torch.rand(1, 1, 1, 1)
    whole, shapes = network(noisy, level), []
    network.register_forward_pre_hook(lambda module, given: shapes.append(given[0].shape))
    torch.testing.assert_close(tiled(network, noisy, level, tile=224), whole, atol=1e-5, rtol=1e-5)
    assert len(shapes) > 2


@torch.inference_mode()
def test_the_module_gives_whole_clips_to_networks_that_see_time():
    (noisy, level), network = clip_and_level(2, 4, 8, 8), small("fastdvd")
    module = DenoisingModule(
        network,
        objective=Supervised(),
        loss=nn.MSELoss(),
        optimizer=torch.optim.SGD,
        scheduler=None,
        score=Score(),
    )
    torch.testing.assert_close(module(noisy, level), network(noisy, level), atol=0, rtol=0)
    images = lively(DnCNN(num_layers=3, num_features=4))
    torch.testing.assert_close(estimated(images, noisy, level).flatten(0, 1), images(frames(noisy)))
    inside = ranged(small("fastdvd"), [-1, 1])
    expected = (inside.network(2 * noisy - 1, 2 * level) + 1) / 2
    torch.testing.assert_close(estimated(inside, noisy, level), expected)


# --- moving crops --------------------------------------------------------------------------------------------------


def pictures(count, size=(40, 50)):
    """Images whose pixels tell where they are, and their items."""
    places = np.stack([*np.indices(size)], axis=-1).astype(np.uint8)  # [H, W, 2]
    images = [(np.concatenate([places, np.full((*size, 1), n, np.uint8)], axis=-1),) for n in range(count)]
    return images, [parting.Item("set", f"{n}", CONF / "x.png") for n in range(count)]


def moving(images, items, motion=3.0, length=4, seed=1):
    return Crops(images, items, patch_size=8, crops_per_image=25, seed=seed, frames=length, motion=motion)


def test_moving_crops_show_the_images_own_pixels_along_a_path():
    images, items = pictures(3)
    crops = moving(images, items)
    assert len(crops) == 75
    steps, corners = [], []
    for index in range(75):
        sample, places = crops[0, index], crops.draw((0, index))
        assert sample["clean"].shape == (4, 3, 8, 8)
        assert sample["name"] == items[index % 3].name
        pixels = (sample["clean"] * 255).round().int().permute(0, 2, 3, 1).numpy()  # [T, H, W, (row, column, image)]
        for frame, (number, top, left, turn, flip) in zip(pixels, places, strict=True):
            expected = np.rot90(images[number][0][top : top + 8, left : left + 8], turn)
            assert np.array_equal(frame, expected[:, ::-1] if flip else expected)
        assert len({tuple(place) for place in places[:, [0, 3, 4]]}) == 1
        path = places[:, 1:3]
        assert path.min() >= 0
        assert (path.max(0) <= (32, 42)).all()
        steps.append(np.diff(path, axis=0))
        corners += path.tolist()
    steps = np.array(steps)
    assert np.abs(steps).max() in (3, 4)  # the jitter's pixel included
    assert {-1, 0, 1} <= set(np.unique(np.sign(steps)))
    assert np.linalg.norm(steps.mean(axis=1), axis=1).max() <= 3 + 1
    assert np.ptp(corners, axis=0).min() > 25  # all over the image


def test_a_path_is_about_straight_and_within_its_span():
    random = np.random.default_rng(0)
    paths = np.array([wander(random, 7, 2.5) for _ in range(2000)])
    assert paths.min() == 0
    assert paths.max() == 15  # 6 · 2.5
    velocity = (paths[:, -1] - paths[:, 0]) / 6
    straight = paths[:, :1] + np.arange(7)[None, :, None] * velocity[:, None]
    assert np.abs(paths - straight).max() <= 2
    assert np.linalg.norm(velocity, axis=1).max() < 2.5 + 0.5
    angles = np.arctan2(*velocity[np.linalg.norm(velocity, axis=1) > 1].T)
    assert np.histogram(angles, bins=8, range=(-np.pi, np.pi))[0].min() > 80
    assert not wander(random, 7, 0).any()


def test_moving_crops_are_a_function_of_seed_epoch_and_index():
    images, items = pictures(3)
    one, again, other = moving(images, items), moving(images, items), moving(images, items, seed=2)
    keys = [(epoch, index) for epoch in range(2) for index in range(12)]
    for key in keys:
        assert np.array_equal(one.draw(key), again.draw(key))
        assert torch.equal(one[key]["clean"], again[key]["clean"])
    assert len({one.draw(key).tobytes() for key in keys}) == len(keys)
    assert any(not np.array_equal(one.draw(key), other.draw(key)) for key in keys)


def test_moving_crops_on_the_device_are_the_loaders_bit_for_bit():
    images, items = pictures(4)
    crops = moving(images, items)
    assert_same_on_the_device(crops, 12, (4, 4, 3, 8, 8))


def test_videos_come_whole_and_pictures_between_them_alone():
    images, items = pictures(4)
    items = [items[0], *(parting.Item("set", i.name, i.clean, video="a") for i in items[1:3]), items[3]]
    batches = WholeImages(images, items)
    assert [tuple(batches[n]["clean"].shape) for n in range(3)] == [
        (1, 3, 40, 50),
        (1, 2, 3, 40, 50),
        (1, 3, 40, 50),
    ]


@pytest.fixture
def sets(tmp_path, monkeypatch):
    """A root with a set of pictures and a video, which the catalogue knows as Train400 and carphone; half the size."""
    random = np.random.default_rng(0)
    for name, count, size in (("Stills", 6, (40, 48)), ("clip", 5, (20, 24))):
        (tmp_path / "root" / name).mkdir(parents=True)
        for number in range(count):
            coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8))
            coarse.resize(size[::-1], Image.Resampling.BICUBIC).save(tmp_path / "root" / name / f"{number}.png")
    known = {"mode": "RGB", "terms": "", "cite": "", "about": ""}
    listed = {
        "Stills": catalog.ImageSet(name="Stills", folder="Stills", count=6, use="training", **known),
        "clip": catalog.ImageSet(name="clip", folder="clip", count=5, use="test", video=True, **known),
    }
    monkeypatch.setattr(catalog, "sets", lambda: listed)
    return tmp_path / "root"


def still_sets(root):
    return [
        "data=bsd432_moving",
        "data.splits.train=Stills",
        "data.splits.hold_out=2",
        "data.splits.test=[clip]",
        f"data_root={root}",
        "data.patch_size=16",
        "data.batch_size=2",
        "data.crops_per_image=2",
    ]


def test_a_named_video_is_one_of_frames_in_order(sets):
    items = splits.images_of("clip", str(sets))
    assert [(item.name, item.video) for item in items] == [(str(n), "clip") for n in range(5)]
    assert {item.video for item in splits.images_of("Stills", str(sets))} == {None}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.motion=8"], r"smaller than 48×48 (.|\n)*5 frames that move by up to 8 pixels each take 32 more"),
        (["data.frames=null"], r"data.motion=2 .* say how many, such as data.frames=5"),
        (["data.motion=-1"], r"data.motion=-1: must be a number of pixels"),
        (["data.motion=fast"], r"data.motion=fast: must be a number of pixels"),
        (["data.splits.train=clip", "data.splits.test=[Stills]"], r"frames of videos(.|\n)*leave data.motion out"),
    ],
)
def test_motion_that_cannot_be_is_refused_early(compose, sets, overrides, message):
    with pytest.raises(Exception, match=message) as error:
        instantiate(compose(*still_sets(sets), *overrides).datamodule)
    assert isinstance(error.value.__cause__ or error.value, DataError)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_batch_of_moving_crops_has_noise_of_its_own_in_each_frame(compose, sets, on_device):
    data = instantiate(compose(*still_sets(sets), f"data.on_device={on_device}").datamodule)
    data.setup("fit")
    clean = next(iter(data.train_dataloader()))["clean"]
    assert clean.shape == (2, 5, 3, 16, 16)
    noise = data.corrupt_training(clean, 0)
    assert noise["level"].shape == (2, 5, 1, 1, 1)
    assert ((noise["noisy"] - clean)[:, 0] - (noise["noisy"] - clean)[:, 1]).std() > 25 / 255


# --- flicker -------------------------------------------------------------------------------------------------------


def test_flicker_by_hand():
    clean = torch.full((3, 1, 2, 2), 100 / 255)
    estimate = clean.clone()
    estimate[1, 0, 0, 0] += 10 / 255
    estimate[2, 0] += torch.tensor([[10.0, 20], [0, 2]]) / 255
    found = Score().flicker(estimate, clean)
    assert found[0].isnan()
    # errors: 0; 10 at one pixel; 10, 20, 0, 2
    assert found[1:].tolist() == pytest.approx([np.sqrt(100 / 4), np.sqrt((400 + 4) / 4)])
    moved = clean + torch.arange(3).view(3, 1, 1, 1) * 20 / 255  # what moves in the clean video is no flicker
    assert Score().flicker(moved, moved)[1:].tolist() == [0, 0]
    constant = Score().flicker(clean + 0.1, clean)
    assert constant[1:].tolist() == pytest.approx([0, 0], abs=1e-5)


def test_flicker_is_of_what_a_file_would_hold():
    clean = torch.zeros(2, 3, 4, 4)
    estimate = torch.stack([clean[0] - 1, clean[0] + 0.3 / 255])  # clamped to 0; rounded to 0
    assert Score().flicker(estimate, clean)[1] == 0
    assert Score(quantize=False).flicker(estimate, clean)[1] == pytest.approx(0.3)
    estimate[:, :, 0] = torch.tensor([0.0, 1.0]).view(2, 1, 1)
    assert Score(border=1).flicker(estimate, clean)[1] == 0
    grey = Score(luma=True, quantize=False).flicker(torch.stack([clean[0], clean[0] + 0.1]), clean)
    assert grey[1] == pytest.approx(0.1 * 219, rel=1e-5)


def test_means_of_flicker_leave_the_first_frames_out():
    rows = [
        {"image": f"{n}", "set": "v", "realisation": 0, "noise": "x", "protocol": "p", "psnr": 30.0, "flicker": value}
        for n, value in enumerate([None, 2.0, 4.0])
    ]
    still = {key: value for key, value in rows[0].items() if key != "flicker"} | {"set": "s"}
    rows = results.completed([still, *rows])
    assert rows[0]["flicker"] is None
    found = results.means(rows)
    assert found["v"]["flicker"] == 3
    assert found["s"]["flicker"] is None
    shown = results.table(rows, "net")
    assert shown.title.startswith("PSNR (dB) / flicker (of 255)")
    flickers = ["–", "–", "–", "2.00", "4.00", "3.00"]
    assert [*shown.columns[-1].cells] == [f"30.00 / {flicker}" for flicker in flickers]


# --- runs ----------------------------------------------------------------------------------------------------------


def rows_of(folder):
    return list(csv.DictReader((folder / "per_image.csv").open()))


@pytest.mark.parametrize("model", TEMPORAL)
def test_a_run_on_moving_crops_tests_the_video_and_its_checkpoint_is_the_network(
    sets, tmp_path, monkeypatch, capfd, model
):
    small_ = [f"model.{key}={value}" for key, value in SMALL[model].items()]
    arguments = [f"model={model}", *small_, *still_sets(sets), f"run_dir={tmp_path / 'r'}", "trainer.max_steps=3"]
    code, printed = call(monkeypatch, capfd, train, *arguments, "trainer=cpu")
    assert code == 0, printed
    assert "5×16×16" in printed
    assert "flicker" in printed
    rows = rows_of(tmp_path / "r")
    assert [row["image"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert rows[0]["flicker"] == rows[0]["noisy_flicker"] == rows[0]["median_flicker"] == ""
    assert all(float(row["flicker"]) > 0 and abs(float(row["noisy_flicker"]) - 33) < 3 for row in rows[1:])

    scored = ["data=carphone", "data.splits.names=[clip]", f"data_root={sets}", "noise=sigma25", "metrics=[psnr,ssim]"]
    for processes in (1, 2):
        folder = tmp_path / f"e{processes}"
        arguments = [f"checkpoint={tmp_path / 'r'}", *scored, f"run_dir={folder}", f"processes={processes}"]
        code, printed = call(monkeypatch, capfd, experiments.evaluate.main, *arguments)
        assert code == 0, printed
        for row, theirs in zip(rows, rows_of(folder), strict=True):
            same = ("image", "set", "psnr", "ssim", "flicker", "noisy_psnr", "noisy_flicker")
            assert [row[column] for column in same] == [theirs[column] for column in same]
    assert "flicker" in printed

    denoiser = denoisers.load(tmp_path / "r")
    clip = torch.rand(1, 3, 3, 12, 12)
    estimate = estimated(denoiser.network, clip, torch.full((1, 3, 1, 1, 1), 0.1))
    assert estimate.shape == clip.shape
    picture = next((sets / "Stills").iterdir())
    cleaned = [f"checkpoint={tmp_path / 'r'}", f"input={picture}", f"output={tmp_path / 'o.png'}", "sigma=25"]
    code, printed = call(monkeypatch, capfd, experiments.denoise.main, *cleaned)
    assert code == 0, printed
