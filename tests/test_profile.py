"""Noise profiles: fitted to pairs whose noise is known, they say what it is and make more of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from command_line import call
from PIL import Image

from datamodules.images import DataError
from datamodules.noise import profile
from datamodules.noise.profile import BINS, Moments, ProfileNoise, fit
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
    return fit(pairs)


@pytest.fixture(scope="module")
def file(fitted, tmp_path_factory):
    """Profiles of two groups: half as many pixels, and noise of twice the strength."""
    path = tmp_path_factory.mktemp("profiles") / "profiles.json"
    strong = [[4 * value for value in row] for row in fitted.variance]
    groups = {"a": replace(fitted, pixels=fitted.pixels // 2), "b": replace(fitted, variance=strong)}
    profile.save(path, groups)
    return path


def lag(field, other, down, across):
    """Correlation of two fields [H, W], the other one that far below and to the right."""
    height, width = field.shape
    one, two = field[: height - down, : width - across], other[down:, across:]
    return (one * two).mean() / (field.square().mean() * other.square().mean()).sqrt()


def test_a_fit_finds_the_variance_at_each_intensity(fitted):
    centres = (np.arange(BINS) + 0.5) / BINS
    inside = (centres > 0.12) & (centres < 0.88)  # of the intensities that the pictures have
    line = 0.004 * centres + 0.02**2
    for row in np.array(fitted.variance):
        np.testing.assert_allclose(row[inside], line[inside], rtol=0.15)
        assert np.polyfit(centres[inside], row[inside], 1) == pytest.approx([0.004, 0.0004], rel=0.1, abs=1e-4)
    assert fitted.pixels == 12 * 160**2


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
    "text", ["", "[]", '{"format": "other"}', '{"format": "noise profiles, 1", "groups": {"a": {}}}']
)
def test_files_of_another_kind_are_named(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match="not a file of noise profiles"):
        ProfileNoise(file=str(tmp_path / "x.json"), channels=3)


def test_too_few_values_are_named():
    with pytest.raises(DataError, match="no intensity is met by"):
        Moments(1).curve()


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
    low, high = map(float, printed.split("found ")[1].split("\n")[0].split(" to "))
    assert 0.7 < low < 1 < high < 1.3
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
