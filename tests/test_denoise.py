"""Single pictures through experiments.denoise: what is written, what is done to them, and how mistakes end."""

import numpy as np
import pytest
from cleaned import noise, report, saved
from PIL import Image
from torch import nn

import denoisers
from denoisers.inference import Denoiser
from denoisers.sigma import estimate_sigma

FFDNET = {"_target_": "denoisers.networks.ffdnet.FFDNet", "channels": 1, "num_layers": 3, "num_features": 4}


def test_a_picture_becomes_one_of_the_same_kind(teacher, tmp_path, denoise):
    checkpoint, _ = teacher
    for name, mode, size in [("g.png", "L", (13, 17)), ("c.jpg", "RGB", (31, 9)), ("one.png", "L", (1, 1))]:
        noise(tmp_path / name, size, mode)
        target = tmp_path / "out" / name
        code, printed = denoise(checkpoint, tmp_path / name, target)
        assert code == 0, printed
        assert (Image.open(target).size, Image.open(target).mode) == (size, mode)
    given, cleaned = (np.asarray(Image.open(p)) for p in (tmp_path / "g.png", tmp_path / "out" / "g.png"))
    assert np.array_equal(denoisers.load(checkpoint)(given), cleaned)
    assert not np.array_equal(given, cleaned)
    # an existing output and the input itself stay as they are
    for target, said in [("out/g.png", "overwrite=true"), ("g.png", "never overwritten"), ("x.xyz", "not a picture")]:
        code, printed = denoise(checkpoint, tmp_path / "g.png", tmp_path / target)
        assert code == 2
        assert said in printed
    assert denoise(checkpoint, tmp_path / "g.png", tmp_path / "out" / "g.png", "overwrite=true")[0] == 0


def test_a_picture_may_become_another_kind_if_that_holds_as_much(identity, tmp_path, denoise):
    pixels = noise(tmp_path / "a.jpg", (31, 9))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.webp", lossless=True, exif=exif)
    for name in ("a.jpg", "turned.webp"):
        code, printed = denoise(identity, tmp_path / name, tmp_path / "out" / f"{name}.png")
        assert code == 0, printed
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / f"{name}.png")), pixels)
    assert Image.open(tmp_path / "out" / "turned.webp.png").getexif()[0x0112] == 6
    # a scan's own tags, of any size, are none of a photograph's
    tags = {0x0112: 3, 270: "x" * 70000}
    Image.fromarray(pixels).save(tmp_path / "scan.tif", tiffinfo=tags, icc_profile=b"profile" * 20000)
    code, printed = denoise(identity, tmp_path / "scan.tif", tmp_path / "scan.jpg")
    assert code == 0, printed
    found = Image.open(tmp_path / "scan.jpg")
    assert dict(found.getexif()) == {0x0112: 3}
    assert found.info["icc_profile"] == b"profile" * 20000
    noise(tmp_path / "long.png", (20000, 1))
    code, printed = denoise(identity, tmp_path / "long.png", tmp_path / "long.webp")
    assert code == 2, printed
    assert "cannot become such a file" in printed
    Image.fromarray(np.zeros((4, 5), np.uint16)).save(tmp_path / "deep.png")
    code, printed = denoise(identity, tmp_path / "deep.png", tmp_path / "deep.jpg")
    assert code == 2
    assert "only an 8-bit picture" in printed
    assert not (tmp_path / "deep.jpg").exists()


def test_mistakes_are_named_before_anything_is_done(identity, tmp_path, denoise):
    noise(tmp_path / "in" / "a.png")
    told = saved(tmp_path / "told.ckpt", FFDNET, network=denoisers.checkpoint.build(FFDNET))
    two = {"_target_": "denoisers.networks.dncnn.DnCNN", "channels": 2, "num_layers": 2, "num_features": 1}
    two = saved(tmp_path / "two.ckpt", two, channels=2, network=denoisers.checkpoint.build(two))
    (tmp_path / "not.ckpt").write_bytes(b"no checkpoint")
    source, target = tmp_path / "in", tmp_path / "out"
    for arguments, said in [
        ((identity, source, source / "clean"), "lies inside"),
        ((identity, source, source), "lies inside"),
        ((identity, source / "a.png", source / "."), "never overwritten"),
        ((identity, tmp_path / "in" / "**" / "*.png", source / "clean"), "lies inside"),
        ((identity, source, source / "a.png"), "is a file"),
        ((identity, tmp_path / "nothing", target), "no such file or folder"),
        ((identity, source / "*.tif", target), "no pictures or videos"),
        ((tmp_path / "not.ckpt", source, target), "not.ckpt"),
        ((tmp_path / "absent.ckpt", source, target), "no checkpoint at"),
        ((two, source, target), "2 channels"),
        ((identity, source / "a.png", tmp_path / "a.mp4"), "a picture becomes a picture"),
        ((identity, source / "a.png", tmp_path / "not.ckpt" / "a.png"), "name another place"),
        ((identity, source / "a.png", tmp_path / f"{'n' * 300}.png"), "too long"),
        ((told, source, target), "sigma=auto"),
        ((identity, source, target, "strength=1.5"), "between 0"),
        ((identity, source, target, "sigma=-1"), "from 0"),
        ((identity, source, target, "sigma=strong"), "or auto"),
        ((identity, source, target, "colour=blue"), "luminance"),
        ((identity, source, target, "tile=10"), "from 64"),
    ]:
        code, printed = denoise(*arguments)
        assert code == 2, (arguments, printed)
        assert said in printed, (said, printed)
        assert not target.exists()
    assert [path.name for path in source.iterdir()] == ["a.png"]


# --- what is done to a picture ----------------------------------------------------------------------------------------


class Darker(nn.Module):
    """Takes the level away, and notes the channels that it is shown."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, noisy, level=None):
        self.seen.append(noisy.shape[1])
        return noisy - 0.1


def test_strength_is_the_share_of_the_residual_that_goes():
    image = np.random.default_rng(0).random((7, 9, 3), dtype=np.float32) * 0.5 + 0.3
    for strength in (0, 0.25, 1):
        found = Denoiser(Darker(), channels=3, strength=strength)(image)
        np.testing.assert_allclose(found, image - 0.1 * strength, atol=1e-6)
    assert np.array_equal(Denoiser(Darker(), channels=3, strength=0)(image), image)
    for strength in (-0.1, 1.01):
        with pytest.raises(ValueError, match="strength"):
            Denoiser(Darker(), channels=3, strength=strength)


def test_a_grey_network_cleans_channels_or_luminance():
    class Flat(Darker):
        """Puts out the mean."""

        def forward(self, noisy, level=None):
            super().forward(noisy)
            return noisy.mean((2, 3), keepdim=True).expand_as(noisy)

    image = np.random.default_rng(0).random((40, 50, 3), dtype=np.float32) * 0.2 + 0.4
    each, luma = Denoiser(Flat(), channels=1), Denoiser(Flat(), channels=1, colour="luminance")
    np.testing.assert_allclose(each(image), np.broadcast_to(image.mean((0, 1)), image.shape), atol=1e-5)
    found = luma(image)
    assert (each.network.seen, luma.network.seen) == ([1, 1, 1], [1])
    ycbcr = [np.array(Image.fromarray((a * 255).astype(np.uint8)).convert("YCbCr")).astype(int) for a in (image, found)]
    assert np.abs(ycbcr[0][..., 1:] - ycbcr[1][..., 1:]).max() <= 2  # Pillow's own, of 8 bits
    assert ycbcr[1][..., 0].std() < 0.7 < ycbcr[0][..., 0].std()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_types_keep_every_value(identity, dtype):
    if dtype == np.float32:
        image = np.random.default_rng(0).random((300, 217, 3), dtype=np.float32)
    else:
        image = np.resize(np.arange(np.iinfo(dtype).max + 1).astype(dtype), (300, 217, 3))
    for options in ({}, {"tile": 128}, {"tile": 128, "ensemble": True}):
        found = denoisers.load(identity, **options)(image)
        assert found.dtype == dtype
        if "ensemble" in options and dtype == np.float32:
            np.testing.assert_allclose(found, image, atol=1e-6)
        else:
            assert np.array_equal(found, image)


def test_numbers_beyond_black_and_white_have_their_own_limits(identity):
    image = np.linspace(-3, 5000, 600, dtype=np.float32).reshape(20, 30, 1)
    found = denoisers.load(identity).clean(image, limits=(-3, 5000))
    np.testing.assert_allclose(found, image, rtol=1e-5, atol=1e-3)


def test_sigma_is_estimated_of_parts_of_large_pictures():
    rng = np.random.default_rng(0)
    for shape in [(300, 200, 1), (1700, 1100, 3)]:
        plain = np.linspace(60, 180, shape[1])[None, :, None]
        noisy = np.clip(plain + rng.normal(0, 20, shape), 0, 255).round().astype(np.uint8)
        assert 255 * estimate_sigma(noisy, (0, 255)) == pytest.approx(20, rel=0.05)
        assert 255 * estimate_sigma(noisy.astype(np.float32) * 10 - 7, (-7, 2543)) == pytest.approx(20, rel=0.05)


def test_sigma_auto_is_that_of_the_luminance_where_that_is_cleaned(tmp_path, denoise):
    checkpoint = saved(tmp_path / "told.ckpt", FFDNET, network=denoisers.checkpoint.build(FFDNET))
    noisy = np.random.default_rng(0).normal(128, 20, (200, 150, 3)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(tmp_path / "a.png")
    for colour, share in (("channels", 1), ("luminance", np.linalg.norm((0.299, 0.587, 0.114)))):
        assert denoise(checkpoint, tmp_path / "a.png", tmp_path / colour / "", "sigma=auto", f"colour={colour}")[0] == 0
        assert report(tmp_path / colour)["files"]["a.png"]["sigma"] == [pytest.approx(20 * share, rel=0.05)]


def test_sigma_auto_is_that_of_each_picture(tmp_path, denoise):
    told = saved(tmp_path / "told.ckpt", FFDNET, network=denoisers.checkpoint.build(FFDNET))
    for sigma in (10, 30):
        pixels = np.clip(np.random.default_rng(0).normal(128, sigma, (90, 80)), 0, 255).astype(np.uint8)
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{sigma}.png")
    code, printed = denoise(told, tmp_path / "in", tmp_path / "out", "sigma=auto")
    assert code == 0, printed
    for sigma in (10, 30):
        entry = report(tmp_path / "out")["files"][f"{sigma}.png"]
        assert entry["sigma"] == [pytest.approx(sigma, rel=0.1)]
        assert f"{sigma}.png: sigma {entry['sigma'][0]:.1f}" in printed
        given = np.asarray(Image.open(tmp_path / "in" / f"{sigma}.png"))
        expected = denoisers.load(told)(given, 255 * estimate_sigma(given[..., None], (0, 255)) / 255)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / f"{sigma}.png")), expected)
