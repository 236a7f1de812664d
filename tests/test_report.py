"""The report: what it says of runs, evaluations, comparisons and sweeps, and what it has room for."""

import io
import json
import logging
import re
import shutil
import subprocess
import sys
from urllib.parse import unquote

import numpy as np
import pytest
import report_folders as build
from conftest import ROOT
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from experiments.report import folders, markdown, page, pictures, scores
from experiments.report.__main__ import main


def both(folder):
    """The page and the Markdown of a folder."""
    study = folders.read(folder)
    return page.render(study), markdown.render(study, folder)


def data(html):
    """What the page's scripts draw from."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])


def line(text, start):
    """The cells of the first Markdown table line that begins with a cell."""
    found = next(one for one in text.splitlines() if one.startswith(f"| {start} |"))
    return [cell.strip(" *") for cell in found.strip("|").split("|")]


def report(monkeypatch, capfd, *arguments):
    """Runs the command in this process → exit code and what it printed."""
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["report", *map(str, arguments)])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    handlers = list(logging.getLogger().handlers)
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code
    finally:
        logging.getLogger().handlers = handlers
    return code, "".join(capfd.readouterr())


# --- what it says -----------------------------------------------------------------------------------------------------


def test_an_evaluation_is_told_with_its_protocol_warning_and_origin(tmp_path):
    html, text = both(build.evaluation(tmp_path / "e", warning="trained at σ = 50, evaluated at σ = 25"))
    for said in (html, text):
        for fact in (
            "an evaluation",
            "protocol kair",
            "trained at σ = 50",
            "a Processor",
            "0123456789",
            "sigma50",
            "unavailable",
        ):
            assert fact in said
    assert "123,456" in text
    assert line(text, "dncnn")[1:6] == ["19.00", "0.8000", "unavailable", "0.125", "3"]
    assert line(text, "noisy")[1] == "19.25"
    assert [line(text, image)[2] for image in build.IMAGES] == ["30.00", "19.00", "8.00"]
    assert html.count('role="alert"') == 1


def test_links_to_strips_lead_there(tmp_path):
    study = folders.read(build.evaluation(tmp_path / "an (odd) folder", ["a b", "c/d"]))
    text = markdown.render(study, tmp_path / "else" / "where")
    links = re.findall(r"\]\(([^)]*strip\.png)\)", text)
    assert len(links) == 2
    assert all((tmp_path / "else" / "where" / unquote(link)).resolve().is_file() for link in links)


def test_what_is_missing_or_infinite_is_no_number(tmp_path):
    folder = build.evaluation(tmp_path / "e", drawn=False)
    told = build.rows()
    told[0]["psnr"], told[1]["psnr"], told[2]["psnr"] = "inf", "", "nan"
    build.write_rows(folder / "per_image.csv", told)
    html, text = both(folder)
    assert [line(text, image)[2] for image in build.IMAGES] == ["∞", "–", "–"]
    assert line(text, "dncnn")[3] == "1 of 3"
    assert "No pictures were found" in html
    assert data(html)["cases"] == []


def test_without_reference_there_are_pictures_and_times_alone(tmp_path):
    html, text = both(build.evaluation(tmp_path / "e", reference=False))
    assert "PSNR (dB)" not in text
    assert ">PSNR (dB)<" not in html
    assert "no PSNR" in html
    assert line(text, "dncnn")[1] == "0.125"
    assert [sorted(case["versions"]) for case in data(html)["cases"]] == [["0", "noisy"]] * 3


def test_realisations_are_averaged_and_their_spread_is_told(tmp_path):
    folder = build.evaluation(tmp_path / "e")
    build.write_rows(folder / "per_image.csv", [r for k in (0, 1) for r in build.rows(psnr=30 + 2 * k, realisation=k)])
    _, text = both(folder)
    assert line(text, "dncnn")[1] == "20.00 ± 1.41"
    assert line(text, "boat")[2] == "31.00"


def test_noise_levels_of_one_noise_are_not_mixed(tmp_path):
    folder = build.evaluation(tmp_path / "e", drawn=False)
    build.write_rows(folder / "per_image.csv", build.rows() + [r | {"level": 50} for r in build.rows(psnr=20)])
    conditions = {case.condition.level for case in scores.cases(folders.read(folder).methods)}
    assert conditions == {"25", "50"}
    blind = [row | {"level": level} for row, level in zip(build.rows(), (3, 40, 55), strict=True)]
    build.write_rows(folder / "per_image.csv", blind)
    assert {case.condition.level for case in scores.cases(folders.read(folder).methods)} == {"3–55"}


def test_a_run_shows_its_curves_thinned(tmp_path):
    html, text = both(build.run(tmp_path / "r"))
    charts = {chart["title"]: chart["lines"][0] for chart in data(html)["charts"]}
    assert set(charts) == {"Training loss", "Validation PSNR (dB)"}
    loss = charts["Training loss"]
    assert len(loss["x"]) == len(loss["y"]) == 240
    assert np.mean(loss["y"]) == pytest.approx(np.mean(1 / np.arange(1, 20001)), rel=0.01)
    assert charts["Validation PSNR (dB)"]["x"] == [0, 10000, 20000]
    assert line(text, "median")[1] == "15.50"


def test_a_comparison_is_told_whole(tmp_path):
    html, text = both(build.comparison(tmp_path / "c"))
    for said in (html, text):
        for fact in (
            "Two networks",
            "What they do to three images.",
            "Pairs",
            "A figure",
            "303,000",
            "19.8 G",
            "fedcba98",
        ):
            assert fact in said
    assert line(text, "xDnCNN")[1] == "20.50 ± 0.71"
    assert line(text, "DnCNN")[1:6:4] == ["24.50", "2 of 3"]
    assert "**24.50**" not in text  # a mean over fewer images is not the best of anything
    shown = {case["image"]: case for case in data(html)["cases"]}
    assert set(shown["boat"]["versions"]) == {"clean", "noisy", "0", "1"}
    assert set(shown["lena"]["versions"]) == {"clean", "noisy", "0"}
    told = {score["label"]: score for score in shown["boat"]["scores"]}
    assert told["xDnCNN"]["psnr"] == "31.00"  # of the seed whose picture is shown
    assert told["xDnCNN"]["note"] == "seed 0"


def test_other_noise_is_warned_of(tmp_path):
    build.evaluation(tmp_path / "sweep" / "a")
    build.evaluation(tmp_path / "sweep" / "b", model="unet", noisy_psnr=20.0)
    html, text = both(tmp_path / "sweep")
    assert "did not see the same noise" in html
    assert "did not see the same noise" in text


def test_a_sweep_merges_seeds_and_tells_the_rest_apart(tmp_path):
    for number, facts in enumerate(({"seed": 0}, {"seed": 1}, {"layers": 9}, {"model": "dncnn"})):
        build.run(tmp_path / "sweep" / str(number), steps=30, **facts)
    build.origin(tmp_path / "sweep" / "4", name="early").joinpath("summary.json").unlink()
    build.write_rows(tmp_path / "sweep" / "4" / "metrics.csv", [{"step": 0, "train/loss": 1}])
    study = folders.read(tmp_path / "sweep")
    labels = [method.label for method in study.methods]
    assert labels[:3] == ["xdncnn num_layers=17", "xdncnn num_layers=9", "dncnn"]
    assert study.methods[0].seeds == [0, 1]
    assert any("no results" in warning for warning in study.warnings)
    assert "dncnn" in page.render(study)


def test_evaluations_of_one_checkpoint_are_one_method(tmp_path):
    for level in (15, 50):
        build.evaluation(tmp_path / "s" / str(level), drawn=False, level=level)
    again = build.evaluation(tmp_path / "s" / "again", drawn=False, level=50)
    (again / "overrides.yaml").write_text("- noise=sigma50\n- model.strength=2\n")
    build.evaluation(tmp_path / "s" / "copy", drawn=False, level=50)  # adds nothing
    study = folders.read(tmp_path / "s")
    assert sorted(len(method.rows) for method in study.methods) == [3, 6]
    assert len({method.label for method in study.methods}) == 2


def test_names_cannot_break_out(tmp_path):
    evil = "</script><script>alert(1)</script>"
    folder = build.evaluation(tmp_path / "e", [evil, '"><img src=x onerror=alert(1)>', "a|b"], warning=f"<b>{evil}")
    html, text = both(folder)
    assert "<script>alert" not in html
    assert "<img src=x" not in html
    assert "<script>" not in text
    assert "a\\|b" in text
    assert data(html)["cases"][0]["image"] == evil


def test_a_row_cannot_reach_outside_its_folder(tmp_path):
    build.pictures(tmp_path, "..", "..", 5)
    folder = build.evaluation(tmp_path / "e", [".."], drawn=False, set="..")
    build.pictures(tmp_path / "e", "x", "y", 5)
    shutil.copy(tmp_path / "e/pictures/test/y/x/noisy.png", tmp_path / "e" / "noisy.png")
    assert pictures.shots(scores.cases(folders.read(folder).methods)) == []


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_writes_both_and_needs_no_torch(tmp_path):
    build.evaluation(tmp_path / "it's a=b")
    code = "import sys; sys.modules['torch'] = None; from experiments.report.__main__ import main; main()"
    arguments = [sys.executable, "-c", code, str(tmp_path / "it's a=b"), f"output={tmp_path / 'out'}"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "report.md"]


def test_bad_paths_are_refused(tmp_path, monkeypatch, capfd):
    code, printed = report(monkeypatch, capfd, tmp_path)
    assert code == 2
    for word in ("nothing to report on", "training run", "evaluation", "comparison"):
        assert word in printed
    assert not list(tmp_path.iterdir())
    code, printed = report(monkeypatch, capfd, tmp_path / "absent")
    assert (code, "there is no such folder" in printed) == (2, True)
    folder = build.evaluation(tmp_path / "e", drawn=False)
    code, printed = report(monkeypatch, capfd, folder, tmp_path)
    assert (code, "one path" in printed) == (2, True)
    code, printed = report(monkeypatch, capfd, folder, f"output={folder / 'summary.json' / 'x'}")
    assert (code, "cannot be written" in printed) == (2, True)
    (folder / "summary.json").write_text("{")
    code, printed = report(monkeypatch, capfd, folder)
    assert (code, "summary.json is damaged" in printed) == (2, True)


# --- pictures within a budget -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Twelve noisy cases of which the third is best and the eighth worst."""
    folder = build.evaluation(tmp_path_factory.mktemp("many"), drawn=False)
    told = build.rows([f"i{n}" for n in range(12)])
    for n, row in enumerate(told):
        row["psnr"] = {2: 40, 7: 5}.get(n, 20 + n)
        build.pictures(folder, f"i{n}", "Set3", n, size=(96, 96 + n))
    build.write_rows(folder / "per_image.csv", told)
    cases = scores.cases(folders.read(folder).methods)
    return cases, pictures.shots(cases), pictures.order(cases)


def test_pictures_are_exact_while_they_fit(many):
    _, shots, order = many
    album = pictures.album(shots, order, 10**7)
    assert (album.quality, album.left_out, len(album.versions)) == (None, [], 12)
    for shot in shots:
        for version, path in shot.files.items():
            shown = np.asarray(Image.open(io.BytesIO(album.pictures[album.versions[shot.case][version]])))
            assert np.array_equal(shown[..., 0], np.asarray(Image.open(path)))


def test_then_they_lose_quality_and_then_the_extremes_stay(many):
    _, shots, order = many
    whole = pictures.album(shots, order, 10**7).bytes
    lossy = pictures.album(shots, order, whole // 2)
    assert lossy.quality in (95, 85, 75)
    assert lossy.left_out == []
    assert lossy.bytes <= whole // 2
    few = pictures.album(shots, order, whole // 8)
    assert few.quality == 75
    assert 2 <= len(few.versions) < 12
    assert {2, 7} <= set(few.versions)
    assert sorted([*few.versions, *few.left_out]) == list(range(12))
    assert few.bytes <= whole // 8


def test_the_page_stays_below_its_size(tmp_path, monkeypatch):
    folder = build.evaluation(tmp_path / "e", [f"i{n}" for n in range(8)])
    bare = len(page.render(folders.read(build.evaluation(tmp_path / "bare", drawn=False))))
    monkeypatch.setattr(page, "PAGE_BYTES", bare + 15_000)
    html = page.render(folders.read(folder))
    assert len(html.encode()) < bare + 15_000
    assert "found no room" in html or "lossy WebP" in html
    assert data(html)["cases"]
