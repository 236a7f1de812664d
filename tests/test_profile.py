"""Noise profiles: fitted to pairs whose noise is known, they say what it is and make more of it."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from command_line import call
from PIL import Image

from datamodules.images import DataError
from datamodules.noise import profile
from datamodules.noise.moments import BINS, Moments
from datamodules.noise.profile import FEWEST, TEXTURES, ProfileNoise, Table, fit, looked_up, textures
from experiments import profile as verb

MIXING = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.5], [0.5, 0.0, 1.0]])  # of three fields into three channels


def clean_picture(number, side=160):
    """[3, side, side]: every intensity, smoothly, each picture and channel in its own order."""
    random = np.random.default_rng(number)
    rows, columns = np.meshgrid(*[np.linspace(0, 1, side)] * 2, indexing="ij")
    waves = [np.sin(6 * (a * rows + b * columns) + c) for a, b, c in random.uniform(0.3, 1, (3, 3)) * 3]
    return torch.from_numpy(np.stack(waves)).float() * 0.4 + 0.5


def coloured(clean, gain=0.004, read=0.02):
    """Noise of variance gain · clean + read², alike among neighbours in a row and among channels."""
    white = torch.randn(3, clean.shape[1], clean.shape[2] + 2)
    smooth = (white[..., :-2] + white[..., 1:-1] + white[..., 2:]) / 3**0.5
    field = torch.einsum("oi,ihw->ohw", MIXING, smooth) / 1.25**0.5
    return clean + field * (gain * clean + read**2).sqrt()


@pytest.fixture(scope="module")
def pairs():
    torch.manual_seed(0)
    cleans = [clean_picture(number) for number in range(12)]
    return [(coloured(clean), clean) for clean in cleans]


@pytest.fixture(scope="module")
def fitted(pairs):
    return fit({"all": pairs})["all"]


@pytest.fixture(scope="module")
def file(fitted, tmp_path_factory):
    """Profiles of two groups: half as many pixels, and noise of twice the strength."""
    path = tmp_path_factory.mktemp("profiles") / "profiles.json"
    strong = (4 * np.array(fitted.variance)).tolist()
    groups = {"a": replace(fitted, pixels=fitted.pixels // 2), "b": replace(fitted, variance=strong)}
    profile.save(path, groups)
    return path


def lag(field, other, down, across):
    """Correlation of two fields [H, W], the other one that far below and to the right."""
    height, width = field.shape
    one, two = field[: height - down, : width - across], other[down:, across:]
    return (one * two).mean() / (field.square().mean() * other.square().mean()).sqrt()


def test_a_fit_finds_the_variance_at_each_intensity_whatever_the_texture(pairs, fitted):
    centres = (np.arange(BINS) + 0.5) / BINS
    inside = (centres > 0.12) & (centres < 0.88)  # of the intensities that the pictures have
    line, count = 0.004 * centres + 0.02**2, Table(3, pairs).count
    for row, values in zip(np.array(fitted.variance), count, strict=True):
        many = values > 3000
        assert many[inside].sum() > 20
        np.testing.assert_allclose(row[many], np.broadcast_to(line[:, None], row.shape)[many], rtol=0.2)
        mean = (row * values).sum(1)[inside] / values.sum(1)[inside]
        assert np.polyfit(centres[inside], mean, 1) == pytest.approx([0.004, 0.0004], rel=0.1, abs=1e-4)
    assert fitted.pixels == 12 * 160**2
    noise = torch.cat([(noisy - clean).flatten() for noisy, clean in pairs])
    assert fitted.sigma == pytest.approx(255 * noise.square().mean().sqrt().item(), rel=1e-5)


def test_texture_is_the_octave_of_local_deviation():
    clean = torch.zeros(3, 20, 90)
    steps = [0, 0.6, 1.4, 3, 6, 12, 24, 60]  # of a chequerboard around its mean, 0–255 scale
    rows, columns = torch.meshgrid(torch.arange(20), torch.arange(10), indexing="ij")
    board = ((rows + columns) % 2).mul(2).sub(1)
    for number, step in enumerate(steps):
        clean[:, :, 10 * number : 10 * number + 10] = 0.5 + step * board / 255
    found = textures(clean)
    assert found.shape == (1, 20, 90)
    inside = [set(found[0, 1:-1, 10 * n + 1 : 10 * n + 9].flatten().tolist()) for n in range(len(steps))]
    assert inside == [{n} for n in range(TEXTURES)]
    one = clean.clone()
    one[0] -= 0.3  # a channel's brightness is no texture
    assert torch.equal(textures(one), found)


def rough(clean, texture_gain=9.0):
    """Noise of σ = 0.02, three times as strong where neighbours differ."""
    return clean + torch.randn_like(clean) * 0.02 * (1 + (texture_gain - 1) * (textures(clean) >= 5)).sqrt()


def test_noise_that_follows_texture_is_found_and_made_again(tmp_path):
    cleans = [clean_picture(number).clone() for number in range(6)]
    for clean in cleans:
        clean[:, :80] += 0.1 * torch.randn(1, 80, 160)
    fitted_ = fit({"all": [(rough(clean), clean) for clean in cleans]})
    profile.save(tmp_path / "p.json", fitted_)
    noise, clean = ProfileNoise(file=str(tmp_path / "p.json"), channels=3), torch.stack(cleans)
    noisy, level = noise.corrupt(clean)
    power = (noisy - clean).square()
    edge = (textures(clean) >= 5).expand_as(clean)
    assert 0.4 < edge.float().mean() < 0.8
    assert power[edge].mean().item() == pytest.approx(9 * 0.0004, rel=0.05)
    assert power[~edge].mean().item() == pytest.approx(0.0004, rel=0.1)
    torch.testing.assert_close(level.square().flatten(), power.mean(dim=(1, 2, 3)), rtol=0.05, atol=0)


def test_what_a_group_has_not_seen_is_taken_from_the_others_as_strong_as_its_own():
    many = [clean_picture(number) for number in range(6)]
    few = [clean[:, :11, :] * 0.2 + 0.4 for clean in many[:1]]  # of middle intensities only
    groups = {"many": [(rough(clean, 1), clean) for clean in many]}
    groups["few"] = [(clean + 2 * (rough(clean, 1) - clean), clean) for clean in few]
    found = {name: np.array(profile_.variance) for name, profile_ in fit(groups).items()}
    unseen = Table(3, groups["few"]).count == 0
    assert unseen.mean() > 0.5
    np.testing.assert_allclose(found["few"][unseen], 4 * found["many"][unseen], rtol=0.3)
    # a mean over pictures of all textures would not be that of flat ones alone
    seen = Table(3, groups["many"])
    share = seen.shrunk(np.full_like(seen.count, 1.0))[seen.count == 0]
    assert np.allclose(share, 1)
    assert np.allclose(seen.product()[seen.count > 5000], 0.0004, rtol=0.15)


def test_values_are_looked_up_by_intensity_between_the_bins_and_by_texture():
    table = torch.arange(BINS).float()[:, None] + 100 * torch.arange(TEXTURES).float()
    clean = torch.full((1, 1, 9, 9), (3 + 0.75) / BINS)
    assert looked_up(table[None, None], clean).unique().tolist() == pytest.approx([3.25])
    clean[0, 0, 4, 4] += 60 / 255
    assert looked_up(table[None, None], clean)[0, 0, 4, 4].item() == pytest.approx(
        (60 / 255 + 3.75 / BINS) * BINS - 0.5 + 100 * textures(clean)[0, 0, 4, 4].item(), abs=1e-3
    )


def test_noise_of_a_profile_is_the_noise_that_it_was_fitted_to(file):
    noise = ProfileNoise(file=str(file), channels=3, groups=["a"])
    clean = torch.full((16, 3, 128, 128), 0.5)
    noisy, level = noise.corrupt(clean)
    field = noisy - clean
    assert field.square().mean().item() == pytest.approx(0.004 * 0.5 + 0.02**2, rel=0.05)
    torch.testing.assert_close(level.flatten(), field.square().mean(dim=(1, 2, 3)).sqrt(), rtol=0.05, atol=0)
    border = torch.cat([field[..., :2].flatten(), field[..., -2:].flatten()])
    assert border.square().mean().item() == pytest.approx(0.0024, rel=0.08)
    joined = field.movedim(0, 2).flatten(2)  # pictures side by side: [C, H, B · W]
    for across, expected in ((1, 2 / 3), (2, 1 / 3), (3, 0), (6, 0)):
        for channel in range(3):
            assert lag(joined[channel], joined[channel], 0, across).item() == pytest.approx(expected, abs=0.03)
    for down in (1, 2):
        assert lag(joined[0], joined[0], down, 0).abs() < 0.03
    alike = (MIXING @ MIXING.T / 1.25)[0, 1].item()
    assert lag(joined[0], joined[1], 0, 0).item() == pytest.approx(alike, abs=0.03)
    assert lag(joined[0], joined[1], 0, 1).item() == pytest.approx(alike * 2 / 3, abs=0.03)


def test_variance_follows_intensity_between_the_bins(file):
    noise = ProfileNoise(file=str(file), channels=3, groups=["a"])
    clean = torch.linspace(0.15, 0.85, 128).expand(32, 3, 128, 128).contiguous()
    columns = (noise(clean) - clean).square().mean(dim=(0, 1, 2))
    slope, intercept = np.polyfit(clean[0, 0, 0].numpy(), columns.numpy(), 1)
    assert slope == pytest.approx(0.004, rel=0.1)
    assert intercept == pytest.approx(0.0004, abs=1.5e-4)


def test_groups_are_drawn_by_their_pixels_and_may_be_chosen(file):
    clean = torch.full((900, 3, 16, 16), 0.5)
    deviation = (ProfileNoise(file=str(file), channels=3)(clean) - clean).std(dim=(1, 2, 3))
    strong = deviation > 1.5 * 0.0024**0.5
    assert strong.float().mean().item() == pytest.approx(2 / 3, abs=0.06)
    only = ProfileNoise(file=str(file), channels=3, groups=["b"], strength=0.5)
    assert (only(clean) - clean).std().item() == pytest.approx(0.0024**0.5, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"file": None}, r"noise.file=FILE"),
        ({"file": "nowhere.json"}, "nowhere.json: No such file"),
        ({"channels": 1}, "fitted with channels=3"),
        ({"groups": ["c"]}, "has no c, only a, b"),
        ({"strength": -1}, "strength"),
    ],
)
def test_profiles_that_cannot_be_used_are_named(file, arguments, named):
    with pytest.raises(ValueError, match=named):
        ProfileNoise(**({"file": str(file), "channels": 3} | arguments))


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": "other"}', '{"format": "noise profiles, 2", "groups": {"a": {}}}']
)
def test_files_of_another_kind_are_named(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match="not a file of noise profiles"):
        ProfileNoise(file=str(tmp_path / "x.json"), channels=3)


def test_too_few_values_are_named():
    with pytest.raises(DataError, match=f"fewer than {FEWEST} values"):
        Table(1).product()
    pair = (torch.rand(1, 12, 12), torch.rand(1, 12, 12))
    with pytest.raises(DataError, match="b: there are fewer than"):
        fit({"a": [(torch.rand(1, 300, 300), torch.rand(1, 300, 300))], "b": [pair]})


def test_moments_are_of_each_bin():
    clean = torch.full((1, 40, 40), 0.3)
    noisy = clean + 0.1 + 0.02 * torch.randn(1, 40, 40)
    moments = Moments(1)
    for half in range(2):
        moments.add(noisy[:, 20 * half : 20 * half + 20], clean[:, 20 * half : 20 * half + 20])
    intensity, variance = moments.pooled()
    assert intensity.tolist() == [9.5 / BINS]
    assert variance[0] == pytest.approx(noisy.var().item(), rel=1e-3)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(pairs, tmp_path):
    """PNG pairs of two cameras, the second with noise twice as strong."""
    for number, (noisy, clean) in enumerate(pairs):
        camera = ("x", "y")[number % 2]
        strong = clean + (1 + number % 2) * (noisy - clean)
        for kind, picture in (("noisy", strong), ("clean", clean)):
            path = tmp_path / kind / f"{camera}_iso800_{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray((picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()).save(path)
    return [f"data.noisy={tmp_path / 'noisy'}", f"data.clean={tmp_path / 'clean'}"]


def test_the_command_fits_each_group_and_checks_it_on_others(monkeypatch, capfd, tmp_path, folders):
    groups = r"data.groups='^(.)_iso(\d+)'"
    code, printed = call(monkeypatch, capfd, verb.main, *folders, groups, f"run_dir={tmp_path / 'p'}")
    assert code == 0, printed
    fitted = profile.load(tmp_path / "p" / "profiles.json")
    assert list(fitted) == ["x_800", "y_800"]
    ratio = np.array(fitted["y_800"].variance)[:, 8:24] / np.array(fitted["x_800"].variance)[:, 8:24]
    assert ratio.mean() == pytest.approx(4, rel=0.1)
    for line in printed.splitlines():
        if "predicted variance" in line:
            low, high = map(float, re.findall(r"found ([\d.]+) to ([\d.]+)", line)[0])
            assert 0.7 < low < 1 < high < 1.3
            inside, all_ = re.findall(r"in (\d+) of (\d+) bins", line)[0]
            assert inside == all_
    assert printed.count("predicted variance") == 2
    assert Image.open(tmp_path / "p" / "profiles.png").size[0] > 1000
    code, printed = call(monkeypatch, capfd, verb.main, *folders, f"run_dir={tmp_path / 'q'}")
    assert list(json.loads((tmp_path / "q" / "profiles.json").read_text())["groups"]) == ["all"]


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        (["data.groups='('"], "not a regular expression"),
        (["data.groups=iso900"], "nothing of it in the name x_iso800"),
        (["data=bsd68"], "profiles are fitted to pairs"),
    ],
)
def test_mistakes_are_named(monkeypatch, capfd, tmp_path, folders, typed, named):
    given = folders if not typed[0].startswith("data=") else [f"data_root={tmp_path}"]
    if not given[0].startswith("data.noisy"):
        (tmp_path / "BSD68").mkdir()
        for number in range(68):
            Image.new("L", (32, 32)).save(tmp_path / "BSD68" / f"{number}.png")
    code, printed = call(monkeypatch, capfd, verb.main, *given, *typed, f"run_dir={tmp_path / 'p'}")
    assert code == 2
    assert named in printed
    assert not (tmp_path / "p").exists()
