"""Image files: their headers and pixels, and the declared rules of colour, transparency and size."""

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from PIL import Image

from datamodules.checks import check_headers, ruled
from datamodules.images import DataError, decode, decode_as, read, read_header, resize, to_channels, to_tensor
from datamodules.parting import Item, Splits


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 3)])
@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "uint16"])
def test_deep_tiffs_are_read_with_16_bits(tmp_path, shape, kind):
    import tifffile

    values = np.random.default_rng(0).random(shape)
    stored = (values * 65535).round().astype(np.uint16) if kind == "uint16" else values.astype(kind)
    tifffile.imwrite(tmp_path / "x.tif", stored)
    header, pixels = read_header(tmp_path / "x.tif"), decode(tmp_path / "x.tif")
    assert (header.height, header.width, header.channels) == pixels.shape == (9, 7, 1 if len(shape) == 2 else 3)
    assert header.bits == 16
    assert pixels.dtype == np.uint16
    np.testing.assert_allclose(pixels.squeeze() / 65535, values, atol=5e-4 if kind == "float16" else 8e-6)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (np.full((9, 7), 1.5, np.float32), r"from 1.5 to 1.5; float images must lie in \[0, 1\]"),
        (np.full((9, 7), np.nan, np.float32), "float images must lie in"),
        (np.zeros((9, 7, 5), np.float32), "its pixels have 5 values each"),
        (np.zeros((4, 9, 7), np.uint8), "it holds 4 pages"),
        (np.zeros((9, 7), np.int32), "not supported"),
    ],
)
def test_tiffs_of_other_values_are_named(tmp_path, values, named):
    import tifffile

    samples = {"planarconfig": "contig"} if values.shape[2:] == (5,) else {}
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="minisblack", **samples)
    with pytest.raises(DataError, match=rf"x.tif.*{named}"):  # the header says it, or else the pixels do
        decode_as(tmp_path / "x.tif", read_header(tmp_path / "x.tif"), 1)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "CMYK", "1"])
def test_every_8_bit_mode_becomes_grey_or_rgb(tmp_path, mode):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)).convert(mode)
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    picture.save(path)
    channels = 1 if mode in ("L", "LA", "1") else 3
    header, pixels = read_header(path), decode(path)
    assert (header.height, header.width, header.channels) == pixels.shape == (9, 7, channels)
    assert header.alpha == mode.endswith("A")
    assert header.bits == 8
    assert np.array_equal(pixels.squeeze(), np.asarray(picture.convert("L" if channels == 1 else "RGB")))


def test_16_bits_are_kept(tmp_path):
    grey = np.arange(0, 65536, 409, dtype=np.uint16)[:160].reshape(10, 16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert read_header(tmp_path / "grey.png").bits == 16
    assert np.array_equal(decode(tmp_path / "grey.png")[..., 0], grey)
    from kornia_rs.io import write_image_png_u16

    colour = np.stack([grey, grey[::-1], grey.T.reshape(10, 16)], axis=2).copy()
    write_image_png_u16(str(tmp_path / "colour.png"), colour, "rgb")
    assert read_header(tmp_path / "colour.png").bits == 16
    assert decode(tmp_path / "colour.png").dtype == np.uint16
    assert np.array_equal(decode(tmp_path / "colour.png"), colour)
    tensor = to_tensor(colour)
    assert tensor.shape == (3, 10, 16)
    torch.testing.assert_close(tensor[0], torch.from_numpy(grey.astype(np.float32) / 65535))


def test_exif_orientation_is_applied(tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    header = read_header(tmp_path / "turned.png")
    assert (header.height, header.width) == (24, 16)
    assert np.array_equal(decode(tmp_path / "turned.png"), np.rot90(np.asarray(picture), -1))


def test_colour_becomes_grey_as_pillow_does_it():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    assert np.array_equal(to_channels(pixels, 1)[..., 0], np.asarray(Image.fromarray(pixels).convert("L")))
    white = np.full((1, 1, 3), 65535, np.uint16)
    assert to_channels(white, 1).item() == 65535
    with pytest.raises(DataError, match="grey"):
        to_channels(pixels[..., :1], 3)


# --- transparency --------------------------------------------------------------------------------------------------


def transparent(path, mode):
    """A picture of which every other column is half or wholly transparent; → colours [9, 8, C] and alpha [9, 8]."""
    random = np.random.default_rng(0)
    alpha = np.tile(np.array([255, 128, 0, 255], np.uint8), (9, 2))
    if mode == "P":
        picture = Image.fromarray(random.integers(0, 4, (9, 8), dtype=np.uint8), "P")
        picture.putpalette([10, 200, 30, 40, 50, 60, 70, 180, 90, 255, 255, 255])
        picture.save(path, transparency=1)
        shown = picture.convert("RGB")
        return np.asarray(shown), np.where(np.asarray(picture) == 1, 0, 255)
    colours = random.integers(0, 256, (9, 8, 1 if mode == "LA" else 3), dtype=np.uint8)
    Image.fromarray(np.dstack([colours, alpha]), mode).save(path)
    return colours, alpha


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
@pytest.mark.parametrize(("rule", "backdrop"), [("black", 0), ("white", 255), ("drop", None)])
def test_transparent_parts_show_what_the_rule_says(tmp_path, mode, rule, backdrop, caplog):
    path = tmp_path / "x.png"
    colours, alpha = transparent(path, mode)
    with caplog.at_level(logging.INFO):
        [header] = ruled({path: read_header(path)}, rule).values()
    assert header.alpha
    assert ("data.alpha=drop: 1 of 1 images have transparent parts" in caplog.text) == (rule == "drop")
    share = 1 if backdrop is None else (alpha / 255)[..., None]
    expected = colours * share + (backdrop or 0) * (1 - share)
    np.testing.assert_allclose(decode_as(path, header, colours.shape[2]), expected, atol=1)


def test_transparent_images_are_refused_where_that_is_asked_for_and_others_are_not(tmp_path):
    transparent(tmp_path / "x.png", "RGBA")
    Image.new("RGB", (8, 9)).save(tmp_path / "y.png")
    headers = {path: read_header(path) for path in sorted(tmp_path.iterdir())}
    with pytest.raises(DataError, match=r"1 of 2 images have transparent parts.*data.alpha=black(.|\n)*x.png"):
        ruled(headers, "refuse")
    with pytest.raises(DataError, match="data.alpha=grey: must be drop, black, white or refuse"):
        ruled(headers, "grey")
    opaque = {tmp_path / "y.png": headers[tmp_path / "y.png"]}
    assert ruled(opaque, "refuse") == opaque


# --- size ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize("size", [(20, 30), (40, 15), (90, 96)])
def test_images_are_resized_as_pytorch_resizes_them(kind, size):
    top = np.iinfo(kind).max
    smooth = np.random.default_rng(0).random((5, 6, 3)).repeat(8, 0).repeat(8, 1)  # [40, 48, 3], with overshoots
    pixels = (smooth * top).astype(kind)
    found = resize(pixels, *size)
    assert found.dtype == kind
    assert found.shape == (*size, 3)
    planes = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float64))[None]
    expected = F.interpolate(planes, size, mode="bicubic", antialias=True, align_corners=False)[0].clamp(0, top)
    # other constants: Pillow's cubic has a = -0.5 when antialiased, as PyTorch's
    np.testing.assert_allclose(found.transpose(2, 0, 1), expected, atol=1 + 2e-6 * top)


def test_every_image_of_a_run_is_resized_and_kept_so_in_the_cache(compose, tmp_path):
    random = np.random.default_rng(0)
    for number in range(7):
        pixels = random.integers(0, 256, (30 + number, 60, 3), dtype=np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")

    def sizes(*overrides):
        common = ["data=folder", f"data.path={tmp_path / 'photos'}", "data.patch_size=8", "data.batch_size=4"]
        data = instantiate(compose(*common, f"data.cache_dir={tmp_path / 'cache'}", *overrides).datamodule)
        data.setup("fit")
        data.setup("test")
        decoded = [views[0] for split in ("train", "val", "test") for views in data._decoded[split]]
        return sorted(image.shape for image in decoded), sum(int(image.sum()) for image in decoded)

    assert sizes("data.resize=15")[0] == sorted((15, round(60 * 15 / (30 + n)), 3) for n in range(7))
    for cache in ("false", "true"):
        assert sizes("data.resize=[24,20]", f"data.cache={cache}") == sizes("data.resize=[24,20]")
        assert sizes(f"data.cache={cache}")[0] == [(30 + n, 60, 3) for n in range(7)]
    for wrong in ("0", "[3,-1]", "[1,2,3]", "0.5"):
        with pytest.raises(Exception, match=r"data.resize=.*the shorter side, or \[height,width\]"):
            sizes(f"data.resize={wrong}")


def test_images_that_bring_their_noise_are_not_resized(tmp_path):
    Image.new("L", (20, 20)).save(tmp_path / "x.png")
    pair = Item("set", "x", tmp_path / "x.png", tmp_path / "x.png")
    with pytest.raises(DataError, match=r"data.resize=12 would change the noise.*\n.*x.png"):
        check_headers(Splits([], [], [pair]), 1, resize=12)
    assert read(tmp_path / "x.png", 1).shape == (1, 20, 20)
