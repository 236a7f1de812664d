"""TIFF files whose strips or tiles are exchanged: every layout, every page, every tag."""

import numpy as np
import pytest
import tifffile
from odd_files import pixels
from PIL import Image, TiffImagePlugin
from test_pictures import PROFILE, again, band, inverse  # noqa: F401

from datamodules.errors import DataError
from datamodules.pictures import open_picture

ZLIB = {"compression": "zlib"}
LAYOUTS = [{}, {"rowsperstrip": 7}, ZLIB, ZLIB | {"predictor": 2, "rowsperstrip": 10}]
LAYOUTS += [{"tile": (16, 32)}, ZLIB | {"tile": (32, 16)}, {"bigtiff": True}, {"byteorder": ">"}]
MODES = [("L", 2), ("RGBA", 2), ("I;16", 2), ("F", 3), ("LA", 1), ("P", 1), ("1", 1)]  # and their predictors


@pytest.mark.usefixtures("band")
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float16", "float32", "float64"])
def test_tiff_keeps_every_pixel_and_alpha(tmp_path, kind, layout):
    if layout.get("predictor") and kind.startswith("float"):
        layout = layout | {"predictor": None}  # tifffile writes none for floats; Pillow's are below
    for samples, planar in ((1, None), (3, "contig"), (3, "separate"), (2, "contig"), (4, "contig"), (4, "separate")):
        values = pixels(kind, samples, (37, 29))
        stored = values[..., 0] if samples == 1 else values.transpose(2, 0, 1) if planar == "separate" else values
        options = layout | ({"planarconfig": planar} if planar else {})
        options |= {"extrasamples": ["unassalpha"]} if samples in (2, 4) else {}
        path, colours = tmp_path / "x.tif", 1 if samples < 3 else 3
        tifffile.imwrite(path, stored, photometric="rgb" if colours == 3 else "minisblack", metadata=None, **options)
        target, opened = again(path)
        assert (opened.channels, opened.alpha) == (colours, samples in (2, 4))
        assert np.array_equal(opened.pixels(), values[..., :colours].astype(opened.dtype))
        if kind != "float64":
            assert np.array_equal(tifffile.imread(target), stored)
        target, _ = again(path, inverse)
        found = tifffile.imread(target)
        found = found.transpose(1, 2, 0) if planar == "separate" else found.reshape(37, 29, -1)
        expected = inverse(values[..., :colours].astype(opened.dtype)).astype(kind)
        assert np.array_equal(found[..., :colours], expected)
        assert np.array_equal(found[..., colours:], values[..., colours:])


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "packbits", "zstd", "tiff_deflate", "tiff_adobe_deflate"])
@pytest.mark.parametrize(("mode", "predictor"), MODES)
def test_tiff_as_pillow_writes_and_reads_it(tmp_path, mode, predictor, compression):
    values = pixels("uint8", 4, (37, 29))
    image = Image.fromarray(values).convert("L" if mode in ("F", "I;16") else mode)
    if mode in ("F", "I;16"):
        image = Image.fromarray(np.asarray(image).astype({"F": "float32", "I;16": "uint16"}[mode]) * 200)
    info = TiffImagePlugin.ImageFileDirectory_v2()
    if compression not in ("raw", "packbits") and predictor > 1:
        info[317] = predictor
    image.save(tmp_path / "x.tif", compression=compression, tiffinfo=info)
    target, opened = again(tmp_path / "x.tif", inverse)
    expected = np.atleast_3d(np.asarray(image.convert({"P": "RGB", "1": "L"}.get(mode, mode))))
    found = np.atleast_3d(np.asarray(Image.open(target)))
    assert np.array_equal(found[..., : opened.channels], inverse(expected[..., : opened.channels]))
    assert np.array_equal(found[..., opened.channels :], expected[..., opened.channels :])
    assert bool(opened.notes) == (mode in "P1")
    with tifffile.TiffFile(tmp_path / "x.tif") as before, tifffile.TiffFile(target) as after:
        assert after.pages.first.compression == before.pages.first.compression
        assert after.pages.first.predictor == before.pages.first.predictor


def test_white_may_be_zero(tmp_path):
    values = pixels("uint16", 1)[..., 0]
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="miniswhite")
    target, opened = again(tmp_path / "x.tif")
    assert np.array_equal(opened.pixels()[..., 0], 65535 - values)
    assert np.array_equal(tifffile.imread(target), values)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_every_page_is_written_and_every_tag_kept(tmp_path, compression):
    random, path = np.random.default_rng(1), tmp_path / "x.tif"
    pages = [(random.random((20 + n, 30 - n)) * 65535).astype(np.uint16) // (1 + 30 * (n % 2)) for n in range(5)]
    extra = [(274, "H", 1, 6, True), (65000, "s", 0, "mine", True), (700, "B", 9, b"<x>xmp<x>", True)]
    with tifffile.TiffWriter(path) as writer:
        for number, page in enumerate(pages):
            writer.write(
                page,
                compression=compression,
                rowsperstrip=6,
                resolution=(300, 200),
                description=f"page {number}",
                iccprofile=PROFILE,
                extratags=extra,
                metadata=None,
            )
        writer.write(pages[0][::2, ::2].copy(), subfiletype=1, metadata=None)  # a preview
    rng = np.random.default_rng(2)
    opened = open_picture(path)
    assert opened.pages == 5
    assert [page.shape[:2] for page in opened.sheets] == [page.shape for page in pages]
    new = [(rng.random(page.shape) * 65535).astype(np.uint16) for page in pages]  # packs worse: goes to the end
    opened.write(tmp_path / "y.tif", (page[..., None] for page in new))
    moving = {"StripOffsets", "StripByteCounts"}
    with tifffile.TiffFile(path) as before, tifffile.TiffFile(tmp_path / "y.tif") as after:
        assert len(after.pages) == 6
        for old, page in zip(before.pages, after.pages, strict=True):
            assert {tag.name: tag.value for tag in old.tags if tag.name not in moving} == {
                tag.name: tag.value for tag in page.tags if tag.name not in moving
            }
        for page, expected in zip(after.pages, [*new, pages[0][::2, ::2]], strict=True):
            assert np.array_equal(page.asarray(), expected)
        assert opened.notes == ("its previews stay as they are",)


def test_pages_that_share_their_strips_part(tmp_path):
    values = pixels("uint8", 1, (20, 20))[..., 0]
    tifffile.imwrite(tmp_path / "x.tif", np.stack([values, values]), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(tmp_path / "x.tif", mode="r+") as file:
        first, second = file.pages
        second.tags["StripOffsets"].overwrite(first.tags["StripOffsets"].value)
    opened = open_picture(tmp_path / "x.tif")
    opened.write(tmp_path / "y.tif", [values[..., None] // 2, values[..., None] // 3])
    found = tifffile.imread(tmp_path / "y.tif", key=[0, 1])
    assert np.array_equal(found, np.stack([values // 2, values // 3]))


def test_stacks_of_one_header_are_named(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((5, 9, 9), np.uint8), truncate=True, photometric="minisblack")
    with pytest.raises(DataError, match="x.tif: a stack of pictures that has one header for all"):
        open_picture(tmp_path / "x.tif")
