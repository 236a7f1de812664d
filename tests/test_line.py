"""Gain, black level and read noise from one noisy picture whose noise is known."""

from importlib.resources import files

import numpy as np
import pytest
import torch
from command_line import call
from PIL import Image

from datamodules.images import DataError, decode, to_channels, to_tensor
from datamodules.noise.line import estimate, fit
from datamodules.noise.poisson_gaussian import PoissonGaussianNoise
from experiments import estimate as verb


def photograph(name):
    """[1, H, W], with edges and texture, not darker than a camera's black level."""
    picture = to_tensor(to_channels(decode(files("skimage") / "data" / name), 1))
    return 0.05 + 0.8 * picture


@pytest.mark.parametrize("name", ["astronaut.png", "coffee.png", "camera.png"])
@pytest.mark.parametrize(("gain", "read", "black"), [(0.01, 0, 0), (0.05, 0, 0.03), (0.005, 10, 0), (0.02, 5, 0)])
def test_the_line_of_a_photograph(name, gain, read, black):
    clean = photograph(name)
    noisy = PoissonGaussianNoise(gain=gain, read=read, black=black).corrupt(clean[None])[0][0]
    found = estimate(noisy)
    middle = gain * (0.4 - black) + (read / 255) ** 2
    assert found.gain * 0.4 + found.floor == pytest.approx(middle, rel=0.15)
    assert found.gain == pytest.approx(gain, rel=0.25)
    assert found.black == pytest.approx(black, abs=0.04)


def test_the_line_of_plain_steps_is_exact():
    steps = torch.linspace(0.1, 0.9, 16).repeat_interleave(64).expand(1, 1024, 1024)
    noisy = PoissonGaussianNoise(gain=0.02, read=8).corrupt(steps[None])[0][0]
    found = estimate(noisy)
    assert found.gain == pytest.approx(0.02, rel=0.03)
    assert found.read == pytest.approx(8, rel=0.1)
    assert found.black == 0


def test_gaussian_noise_has_no_gain():
    noisy = photograph("coffee.png") + 0.08 * torch.randn(1, 400, 600)
    found = estimate(noisy)
    assert found.gain < 0.0015
    assert found.read == pytest.approx(0.08 * 255, rel=0.06)


def test_a_falling_line_is_level():
    line = fit(np.linspace(0, 1, 10), np.linspace(0.02, 0.01, 10))
    assert line.gain == 0
    assert line.black == 0
    assert (line.read / 255) ** 2 == pytest.approx(0.015, rel=0.02)


@pytest.mark.parametrize(
    ("noisy", "named"),
    [
        (torch.rand(1, 40, 40), "too few"),
        (torch.ones(1, 400, 400), "0 blocks"),
        (torch.full((1, 400, 400), 0.5), "one brightness"),
    ],
)
def test_pictures_that_tell_nothing_are_named(noisy, named):
    with pytest.raises(DataError, match=named):
        estimate(noisy)


def test_the_command_draws_the_fit_beside_what_the_clean_picture_says(monkeypatch, capfd, tmp_path):
    clean = photograph("camera.png")
    noisy = PoissonGaussianNoise(gain=0.02, read=2).corrupt(clean[None])[0][0]
    for folder, picture in (("clean", clean), ("noisy", noisy)):
        for name in ("a", "b"):
            (tmp_path / folder).mkdir(exist_ok=True)
            pixels = (picture[0].clamp(0, 1) * 255).round().byte().numpy()
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
    where = [f"image={tmp_path / 'noisy'}", f"run_dir={tmp_path / 'out'}"]
    code, printed = call(monkeypatch, capfd, verb.main, *where, f"clean={tmp_path / 'clean'}")
    assert code == 0, printed
    row = next(line.split() for line in printed.splitlines() if line.strip().startswith("a "))
    assert float(row[1]) == pytest.approx(0.02, rel=0.25)
    assert float(row[4]) == pytest.approx(0.02, rel=0.1)  # against the clean one
    assert Image.open(tmp_path / "out" / "estimate.png").size[0] > 500
    (tmp_path / "clean" / "b.png").rename(tmp_path / "clean" / "c.png")
    code, printed = call(monkeypatch, capfd, verb.main, *where, f"clean={tmp_path / 'clean'}")
    assert code == 2
    assert "do not have the same names" in printed
    code, printed = call(monkeypatch, capfd, verb.main, f"image={tmp_path / 'nowhere.png'}", where[1])
    assert code == 2
    assert "no such file" in printed
