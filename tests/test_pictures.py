"""Picture files: pixels out and in again, and what must stay as it was; read by other programs than wrote it."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from kornia_rs.io import read_image_png_u16
from odd_files import chunk, interlaced, pixels, png
from PIL import Image, ImageCms, ImageOps

from datamodules.errors import DataError
from datamodules.images import decode, read_header
from datamodules.pictures import open_picture, picture, tiff
from datamodules.pictures import png as png_module

COLOURS = {1: 0, 3: 2, 2: 4, 4: 6}  # PNG's colour type of so many samples
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(params=[1 << 20, 700], ids=["one band", "bands"])
def band(request, monkeypatch):
    """Rows at a time: all, or a few, so that borders between them are tested, too."""
    for module in (picture, png_module, tiff):
        monkeypatch.setattr(module, "BAND", request.param)


def exif(orientation):
    """EXIF of a camera."""
    data = Image.Exif()
    data[0x0112], data[0x010F] = orientation, "Camera & Sons"
    data.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0a comment"
    return data.tobytes()


def again(path, change=lambda page: page):
    """The path of a file that was written from the one that is given, and its picture."""
    opened = open_picture(path)
    target = path.with_name("again" + path.suffix)
    opened.write(target, (change(opened.pixels(page)) for page in range(opened.pages)), overwrite=True)
    return target, opened


def inverse(page):
    return page.max() - page if page.dtype.kind == "f" else np.iinfo(page.dtype).max - page


def read_png(path, samples, kind):
    """[H, W, C] by Pillow, kornia_rs, or, of 16-bit grey with alpha, FFmpeg."""
    if kind == "uint8":
        return np.atleast_3d(np.asarray(Image.open(path)))
    if samples == 2:
        av = pytest.importorskip("av")
        frame = next(av.open(str(path)).decode(video=0))
        assert frame.format.name == "ya16be"
        return np.frombuffer(frame.planes[0], ">u2").reshape(frame.height, -1, 2)[:, : frame.width]
    values = np.asarray(read_image_png_u16(str(path), {1: "mono", 3: "rgb", 4: "rgba"}[samples]))
    return values.reshape(*values.shape[:2], -1)


@pytest.mark.usefixtures("band")
@pytest.mark.parametrize("make", [png, interlaced])
@pytest.mark.parametrize("samples", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_png_keeps_every_pixel_and_alpha(tmp_path, kind, samples, make):
    values = pixels(kind, samples, (37, 29))
    values[10:] = np.sort(values[10:], axis=1)  # smooth: other filters
    path, colours = tmp_path / "x.png", 1 if samples < 3 else 3
    path.write_bytes(make(values, COLOURS[samples]))
    target, opened = again(path)
    facts = opened.channels, opened.alpha, opened.dtype, opened.height, opened.width
    assert facts == (colours, samples in (2, 4), np.dtype(kind), 37, 29)
    assert not opened.notes
    assert np.array_equal(opened.pixels(), values[..., :colours])
    assert np.array_equal(read_png(target, samples, kind), values)
    target, _ = again(path, inverse)
    found = read_png(target, samples, kind)
    assert np.array_equal(found[..., :colours], inverse(values[..., :colours]))
    assert np.array_equal(found[..., colours:], values[..., colours:])


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize("samples", [1, 3, 4])
def test_filters_of_other_writers_are_undone(tmp_path, samples, kind, monkeypatch):
    monkeypatch.setattr(png_module, "BAND", 900)
    smooth = np.indices((60, 50)).sum(0)[..., None] * np.arange(1, 1 + samples) * (40 if kind == "uint16" else 1)
    values = (smooth + pixels("uint8", samples, (60, 50)) % 5).astype(kind)
    path = tmp_path / "x.png"
    if kind == "uint16":
        from kornia_rs.io import write_image_png_u16

        write_image_png_u16(str(path), values, {1: "mono", 3: "rgb", 4: "rgba"}[samples])
    else:
        Image.fromarray(values.squeeze()).save(path)
    opened = open_picture(path)
    assert np.array_equal(np.concatenate(list(opened.bands(0))), values)


def test_each_filter_is_undone():
    """Against the specification's sums, byte by byte."""
    lines = pixels("uint8", 1, (5, 24))[..., 0]
    above = pixels("uint8", 1, (1, 24))[0, :, 0]
    for unit in (1, 2, 3, 4, 6, 8):
        filtered, up = np.empty((5, 25), np.uint8), above
        for kind, line in enumerate(lines):
            for place, value in enumerate(map(int, line)):
                a = int(line[place - unit]) if place >= unit else 0
                b, c = int(up[place]), int(up[place - unit]) if place >= unit else 0
                nearest = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
                filtered[kind, 1 + place] = (value - (0, a, b, (a + b) // 2, nearest)[kind]) % 256
            filtered[kind, 0], up = kind, line
        assert np.array_equal(png_module.unfiltered(filtered, above, unit), lines)
        best = png_module.filtered(lines, above, unit)
        assert np.array_equal(png_module.unfiltered(best, above, unit), lines)


@pytest.mark.parametrize("mode", ["1", "P", "L", "RGB"])
def test_few_bits_palettes_and_transparent_colours_become_whole_samples(tmp_path, mode):
    image = Image.fromarray(pixels(size=(37, 29))).convert(mode)
    first = np.asarray(image)[0, 0].tolist()
    key = {"1": None, "P": bytes(range(256)), "L": first, "RGB": tuple(np.atleast_1d(first).tolist())}[mode]
    image.save(tmp_path / "x.png", **({} if key is None else {"transparency": key}))
    target, opened = again(tmp_path / "x.png")
    assert opened.notes
    expected = Image.open(tmp_path / "x.png").convert({"1": "L", "P": "RGBA", "L": "LA", "RGB": "RGBA"}[mode])
    assert Image.open(target).mode == expected.mode
    assert np.array_equal(np.asarray(Image.open(target)), np.asarray(expected))


@pytest.mark.parametrize("depth", [2, 4])
def test_grey_of_2_and_4_bits(tmp_path, depth):
    packed = pixels("uint8", 1, (9, 7))
    data = png(packed, 0, depth=depth, header=(9, 7 * 8 // depth - 1))
    (tmp_path / "x.png").write_bytes(data)
    assert np.array_equal(
        open_picture(tmp_path / "x.png").pixels()[..., 0], np.asarray(Image.open(tmp_path / "x.png").convert("L"))
    )


def test_png_chunks_are_kept_but_those_of_the_old_samples(tmp_path):
    before = [chunk(b"gAMA", struct.pack(">I", 45455)), chunk(b"iCCP", b"p\0\0" + zlib.compress(PROFILE))]
    before += [chunk(b"pHYs", b"\0\0\x0b\x13" * 2 + b"\1"), chunk(b"tEXt", b"Author\0me"), chunk(b"eXIf", exif(6)[6:])]
    path = tmp_path / "x.png"
    rest = [chunk(b"prVW", b"a view of it"), chunk(b"sBIT", b"\5\6\5")]
    path.write_bytes(png(pixels(), 2, extra=b"".join([*before, *rest])))
    target, opened = again(path)
    assert all(data in target.read_bytes() for data in before)
    assert opened.notes == ("its chunk prVW, which belongs to the old pixels, is left out",)
    assert b"prVW" not in target.read_bytes()
    assert target.read_bytes().startswith(path.read_bytes()[:33] + before[0])
    assert rest[1] in target.read_bytes()
    palette = chunk(b"PLTE", bytes(range(48))) + chunk(b"bKGD", b"\0\1\0\2\0\3")  # suggested, before the background
    path.write_bytes(png(pixels(), 2, extra=palette))
    assert palette in again(path)[0].read_bytes()
    path.write_bytes(png(pixels(), 2, extra=palette + chunk(b"tRNS", b"\0\1\0\2\0\3")))
    assert palette[:60] in again(path)[0].read_bytes()  # not the background: there is transparency now
    assert b"bKGD" not in again(path)[0].read_bytes()


# --- what is kept --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp"])
def test_pixels_stay_as_stored_and_so_does_the_orientation(tmp_path, suffix, orientation):
    path = tmp_path / f"x.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    smooth = np.indices((24, 32)).sum(0)[..., None] * [3, 2, 1]
    Image.fromarray(smooth.astype(np.uint8)).save(path, exif=exif(orientation), icc_profile=PROFILE, **options)
    target, opened = again(path)
    assert (opened.height, opened.width) == (24, 32)
    with Image.open(path) as before, Image.open(target) as after:
        assert after.getexif()[0x0112] == orientation
        assert after.info["icc_profile"] == PROFILE
        assert after.getexif().get_ifd(0x8769)[0x9286] == b"ASCII\0\0\0a comment"
        assert after.info.get("exif") == before.info.get("exif")
        difference = np.asarray(ImageOps.exif_transpose(before)).astype(int) - np.asarray(
            ImageOps.exif_transpose(after)
        )
    assert abs(difference).max() <= (2 if suffix == "jpg" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_deep_pictures_are_learnt_from_upright_and_with_all_bits(tmp_path, suffix, orientation):
    values = pixels("uint16", 4, (6, 9))
    if suffix == "png":
        (tmp_path / "x.png").write_bytes(png(values, 6, extra=chunk(b"eXIf", exif(orientation)[6:])))
    else:
        tags = {"extratags": [(274, "H", 1, orientation, True)], "extrasamples": ["unassalpha"]}
        tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb", metadata=None, **tags)
    path = tmp_path / f"x.{suffix}"
    high = Image.fromarray((values[..., :3] >> 8).astype(np.uint8))
    turned = Image.Exif()
    turned[0x0112] = orientation
    high.save(stream := io.BytesIO(), "PNG", exif=turned)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(stream)))
    header, found = read_header(path), decode(path)
    assert (header.height, header.width, header.channels, header.alpha, header.bits) == (*expected.shape, True, 16)
    assert found.dtype == np.uint16
    assert np.array_equal(found >> 8, expected)
    if orientation == 1:
        share = values[..., 3:] / 65535
        np.testing.assert_allclose(decode(path, 255), values[..., :3] * share + 65535 * (1 - share), atol=0.51)


@pytest.mark.parametrize("quality", [60, 95, 100])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_is_no_coarser_than_it_was_and_keeps_its_segments(tmp_path, quality, subsampling, progressive):
    path, smooth = tmp_path / "x.jpg", np.indices((48, 64)).sum(0)[..., None] * [2, 1, 1]
    icc = PROFILE * 200  # more than one segment takes
    options = {"quality": quality, "subsampling": subsampling, "progressive": progressive, "comment": b"hello"}
    image = Image.fromarray(smooth.astype(np.uint8))
    image.save(path, exif=exif(6), icc_profile=icc, dpi=(300, 300), xmp=b"<xmp/>", **options)
    target, opened = again(path)
    with Image.open(path) as before, Image.open(target) as after:
        for key in ("exif", "icc_profile", "comment", "dpi", "xmp", "jfif_density", "progressive"):
            assert after.info.get(key) == before.info.get(key), key
        assert [layer[1:3] for layer in after.layer] == [layer[1:3] for layer in before.layer]
        for number, table in after.quantization.items():
            assert max(np.subtract(table, before.quantization[number])) <= 0
        assert sum(after.quantization[0]) <= 369  # of quality 95
    assert np.abs(opened.pixels().astype(int) - open_picture(target).pixels()).mean() < 0.6


@pytest.mark.parametrize("lossless", [True, False])
def test_webp_keeps_alpha_and_stays_lossless_where_it_was(tmp_path, lossless):
    values = pixels(channels=4)
    Image.fromarray(values).save(tmp_path / "x.webp", lossless=lossless, exact=True)
    target, opened = again(tmp_path / "x.webp")
    with Image.open(tmp_path / "x.webp") as before, Image.open(target) as after:
        assert np.array_equal(np.asarray(after)[..., 3], values[..., 3])
        assert np.array_equal(np.asarray(after), np.asarray(before)) == lossless
    assert (b"VP8L" in target.read_bytes()) == lossless
    assert opened.alpha


# --- floats, and what is refused -----------------------------------------------------------------------------------


def test_floats_have_limits_of_their_own(tmp_path):
    inside, beyond = pixels("float32", 1, (9, 7))[..., 0], np.linspace(-3, 900, 63, dtype=np.float32).reshape(9, 7)
    tifffile.imwrite(tmp_path / "inside.tif", inside)
    tifffile.imwrite(tmp_path / "beyond.tif", np.stack([inside, beyond]), photometric="minisblack", metadata=None)
    assert open_picture(tmp_path / "inside.tif").limits == (0, 1)
    assert open_picture(tmp_path / "beyond.tif").limits == (-3, 900)
    (tmp_path / "x.png").write_bytes(png(pixels("uint16", 1), 0))
    assert open_picture(tmp_path / "x.png").limits == (0, 65535)


def test_no_file_is_lost(tmp_path):
    path, other = tmp_path / "x.png", tmp_path / "other.png"
    for file in (path, other):
        file.write_bytes(png(pixels(), 2))
    (tmp_path / "link.png").symlink_to(path)
    opened, before = open_picture(path), path.read_bytes()
    page = opened.pixels()
    for name in ("x.png", "link.png"):
        with pytest.raises(DataError, match=f"{name} is the picture itself, which is never overwritten"):
            opened.write(tmp_path / name, [page], overwrite=True)
    with pytest.raises(DataError, match="other.png exists"):
        opened.write(other, [page])
    with pytest.raises(DataError, match="y.jpg: the picture is a PNG file: name it .png"):
        opened.write(tmp_path / "y.jpg", [page])
    for pages in ([], [page, page], [page[1:]], [page.astype(np.uint16)]):
        with pytest.raises(ValueError, match="page"):
            opened.write(other, pages, overwrite=True)

    def broken():
        yield page
        raise RuntimeError("the network failed")

    with pytest.raises(RuntimeError):
        opened.write(other, broken(), overwrite=True)
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link.png", "other.png", "x.png"]
    opened.write(other, [page], overwrite=True)
    assert np.array_equal(np.asarray(Image.open(other)), page)
