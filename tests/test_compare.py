"""``experiments.compare``: tables, tests and figures against values by hand."""

import csv
import json
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from command_line import call
from PIL import Image
from report_folders import crossed, sweep, write_rows

from experiments import compare, comparison, findings, plots, sources, tables
from experiments.findings import PUBLISHED

IMAGES = [f"{i:02}" for i in range(1, 13)]


def evaluation(folder, model, psnr, *, seed=None, trained=None, noise="sigma25", level=25.0, ssim=None, **more):
    """An evaluation's folder as experiments.evaluate leaves it; ``psnr`` of each image."""
    folder.mkdir(parents=True)
    ssim = [0.8] * len(psnr) if ssim is None else ssim
    labels = {"set": "Set12", "noise": noise, "level": level, "protocol": "kair", "realisation": 0, "trained": trained}
    rows = [
        {"image": image, **labels, "psnr": value, "ssim": s, "lpips": "unavailable", "seconds": 0.1}
        | {"noisy_psnr": 20.0, "noisy_ssim": 0.4, "noisy_lpips": "unavailable"}
        | more
        for image, value, s in zip(IMAGES, psnr, ssim, strict=False)
    ]
    write_rows(folder / "per_image.csv", rows)
    summary = {"kind": "evaluation", "model": model, "trained": trained, "checkpoint": None, "seed": seed}
    summary |= {"channels": 1, "parameters": 1000, "protocol": "kair", "noise": noise, "results": {}, "warning": None}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text("channels: 1\n")
    return folder


@pytest.fixture
def run_compare(monkeypatch, capfd, tmp_path):
    """``run_compare(PATH, …)`` → the comparison's folder and what it printed; it must end well."""

    def compared(*arguments, name="c"):
        monkeypatch.setenv("COLUMNS", "200")
        places = [f"run_dir={tmp_path / name}", "cost=false", "report=false"]
        code, printed = call(monkeypatch, capfd, compare.main, *places, *arguments)
        assert code == 0, printed
        return tmp_path / name, printed

    return compared


def cells(folder, number=0):
    """A table of a comparison, the means first: (row's name, column) → text."""
    if number == 0:
        columns, *rows = csv.reader((folder / "table.csv").open())
    else:
        table = json.loads((folder / "comparison.json").read_text())["tables"][number - 1]
        columns, rows = table["columns"], table["rows"]
    return {(row[0], column): cell for row in rows for column, cell in zip(columns, row, strict=True)}


def values(centre, spread=1.0, seed=0):
    return (centre + spread * np.random.default_rng(seed).standard_normal(len(IMAGES))).round(6).tolist()


def test_means_differences_and_published_values_by_hand(run_compare, tmp_path):
    ours, theirs = values(30.0), values(29.5, seed=1)
    evaluation(tmp_path / "s" / "a", "dncnn", ours)
    evaluation(tmp_path / "s" / "b", "bm3d", theirs)
    folder, printed = run_compare(tmp_path / "s")
    shown = cells(folder)
    assert shown["dncnn", "PSNR"] == f"{np.mean(ours):.2f}"
    assert shown["bm3d", "PSNR"] == f"{np.mean(theirs):.2f}"
    assert (shown["noisy", "PSNR"], shown["noisy", "SSIM"]) == ("20.00", "0.4000")
    assert shown["dncnn", "LPIPS"] == "unavailable"
    assert "Set12, sigma25, protocol kair" in printed

    difference = np.array(theirs) - ours
    half = scipy.stats.t.ppf(0.975, 11) * difference.std(ddof=1) / math.sqrt(12)
    pairs = cells(folder, 1)
    assert pairs["bm3d", "PSNR − that of dncnn (dB)"] == f"{difference.mean():+.3f} ± {half:.3f}"
    assert pairs["bm3d", "better on"] == f"{(difference > 0).sum()} of 12"
    assert pairs["bm3d", "p"] == f"{scipy.stats.wilcoxon(theirs, ours).pvalue:.2g}"
    assert pairs["bm3d", "protocol"] == "kair"

    published = cells(folder, 2)
    assert published["dncnn", "published PSNR"] == "30.44"
    assert published["bm3d", "published PSNR"] == "29.97"
    assert published["bm3d", "difference"] == f"{round(np.mean(theirs), 12) - 29.97:+.2f}"
    assert "github.com" in published["bm3d", "source"]

    tidy = list(csv.DictReader((folder / "means.csv").open()))
    assert float(next(row for row in tidy if row["method"] == "dncnn")["psnr"]) == pytest.approx(np.mean(ours))
    merged = list(csv.DictReader((folder / "per_image.csv").open()))
    assert len(merged) == 24
    assert {(folder / row["folder"]).resolve() for row in merged} == {tmp_path / "s" / "a", tmp_path / "s" / "b"}
    assert f"| dncnn | **{np.mean(ours):.2f}** |" in (folder / "table.md").read_text()
    assert rf"\textbf{{{np.mean(ours):.2f}}}" in (folder / "table.tex").read_text()


def test_nothing_is_published_for_other_protocols_noises_and_channels(run_compare, tmp_path):
    evaluation(tmp_path / "a", "dncnn", values(30), protocol="clipped8bit")
    evaluation(tmp_path / "b", "dncnn", values(30), noise="poisson_gaussian")
    evaluation(tmp_path / "c", "dncnn", values(30), level=26.0)
    folder, _ = run_compare(*(tmp_path / name for name in "abc"))
    assert "published" not in (folder / "table.md").read_text()


def test_seeds_are_one_method_with_its_spread(run_compare, tmp_path):
    of_seeds = [values(30 + seed, seed=seed) for seed in range(3)]
    for seed, psnr in enumerate(of_seeds):
        evaluation(tmp_path / "s" / str(seed), "dncnn", psnr, seed=seed)
    folder, _ = run_compare(tmp_path / "s")
    means = [np.mean(psnr) for psnr in of_seeds]
    assert cells(folder)["dncnn", "PSNR"] == f"{np.mean(means):.2f} ± {np.std(means, ddof=1):.2f}"
    assert "standard deviation over seeds" in (folder / "table.md").read_text()


def test_axes_of_the_table_are_chosen(run_compare, tmp_path):
    for noise, level, psnr in (("sigma25", 25.0, 30.0), ("sigma50", 50.0, 27.0)):
        evaluation(tmp_path / "s" / noise, "dncnn", [psnr] * 12, noise=noise, level=level)
    folder, _ = run_compare(tmp_path / "s", "rows=[noise]", "columns=[method]", "metrics=[psnr]")
    shown = cells(folder)
    assert shown["sigma50", "dncnn kair PSNR"] == "27.00"
    assert ("sigma25", "dncnn kair SSIM") not in shown


def test_means_of_different_images_are_pointed_out(run_compare, tmp_path):
    evaluation(tmp_path / "a", "dncnn", values(30))
    evaluation(tmp_path / "b", "unet", values(30)[:11])
    folder, _ = run_compare(tmp_path / "a", tmp_path / "b")
    assert "WARNING: not every row has every image" in (folder / "table.md").read_text()
    assert cells(folder, 1)["unet", "images"] == "11"


def test_rows_that_disagree_are_pointed_out(run_compare, tmp_path):
    evaluation(tmp_path / "a", "dncnn", values(30))
    evaluation(tmp_path / "b", "dncnn", values(31))
    folder, printed = run_compare(tmp_path / "a", tmp_path / "b")
    assert "has different rows in" in printed
    assert cells(folder)["dncnn", "PSNR"] == f"{np.mean(values(31)):.2f}"


def test_training_noise_against_test_noise_is_drawn(run_compare, tmp_path):
    for trained in (15, 25, 50):
        for noise in (15, 25, 50):
            psnr = [30 - abs(trained - noise) / 10 - noise / 10] * 12
            evaluation(
                tmp_path / "s" / f"{trained}-{noise}",
                "dncnn",
                psnr,
                trained=f"sigma{trained}",
                noise=f"sigma{noise}",
                level=float(noise),
            )
    folder, _ = run_compare(tmp_path / "s")
    assert cells(folder)["dncnn sigma15", "Set12 sigma50 kair PSNR"] == "21.50"
    titles = [figure["title"] for figure in json.loads((folder / "comparison.json").read_text())["figures"]]
    assert any("by training and test noise" in title for title in titles)
    assert any("against noise" in title for title in titles)
    assert all("protocol kair" in title for title in titles)
    for file in folder.glob("figure-*.png"):
        assert np.asarray(Image.open(file).convert("L")).std() > 5
    rows = comparison.frame(sources.find([tmp_path / "s"]))
    means = comparison.means(rows[rows["trained"].notna()], ["trained", "noise", "level"], ["psnr"])
    grid = comparison.mismatch(means)
    assert list(grid.columns) == list(grid.index) == ["sigma15", "sigma25", "sigma50"]
    assert grid.loc["sigma50", "sigma15"] == pytest.approx(30 - 3.5 - 1.5)


def test_pareto_front():
    assert plots.front([1, 2, 3, 4], [1.0, 3.0, 2.0, 4.0]) == [0, 1, 3]
    assert plots.front([2, 1], [1.0, 1.0]) == [1]


def test_quality_against_cost_names_every_method():
    points = pd.DataFrame({"method": ["a", "b"], "psnr": [29.0, 30.0], "cpu_ms": [10.0, 100.0], "parameters": [0, 5]})
    figure = plots.pareto(points, {"cpu_ms": "CPU ms", "parameters": "parameters"}, "title")
    written = [[text.get_text() for text in panel.texts] for panel in figure.axes]
    assert written == [["a", "b"], ["b"]]  # nothing to learn has no place on a logarithmic axis


def test_published_values_are_whole():
    rows = list(csv.DictReader(PUBLISHED.open()))
    keys = [(row["model"], row["set"], row["channels"], row["sigma"]) for row in rows]
    assert len(set(keys)) == len(keys) > 100
    for row in rows:
        assert 20 < float(row["psnr"]) < 40
        assert row["source"]
        assert int(row["sigma"]) in (15, 25, 50)
    value = {(row["model"], row["set"], row["channels"], row["sigma"]): row["psnr"] for row in rows}
    assert value["bm3d", "BSD68", "1", "25"] == "28.57"
    assert value["bm3d", "Set12", "1", "25"] == "29.97"  # and not 28.56, which is a value of BSD68
    assert value["dncnn", "CBSD68", "3", "50"] == "27.95"


def test_a_table_in_every_language():
    table = tables.Table("a|b & c", ["x_1", "y"], [["50 %", "1"], ["s|t", "2 ± 1"]], "n", frozenset({(1, 1)}))
    assert table.markdown().splitlines()[2:6] == [
        "| x_1 | y |",
        "| --- | ---: |",
        "| 50 % | 1 |",
        "| s\\|t | **2 ± 1** |",
    ]
    assert r"50 \% & 1 \\" in table.latex()
    assert r"x\_1 & y \\" in table.latex()
    assert r"s|t & \textbf{2 $\pm$ 1} \\" in table.latex()
    assert table.csv() == "x_1,y\n50 %,1\ns|t,2 ± 1\n"


CELLS = crossed(model=["dncnn", "unet"], loss=["mse", "l1"], seed=["0", "1"])


def test_a_sweep_is_the_ablation_table_over_its_seeds_and_names_what_is_missing(run_compare, tmp_path):
    cells_of = [*CELLS[:5], CELLS[5] | {"state": "failed"}, CELLS[6] | {"state": "waiting"}, CELLS[7]]
    better = {"dncnn": 30, "unet": 33, "mse": 0, "l1": 1.5, "0": 0, "1": 0.5}
    sweep(tmp_path / "s", cells_of, lambda **axes: sum(better[value] for value in axes.values()))
    folder, printed = run_compare(tmp_path / "s", "--rows", "model", "--columns=loss,noise")
    shown = cells(folder)
    centre = 30 - 11  # of images at 0, −11 and −22 dB
    spread = np.std([0, 0.5], ddof=1)
    assert shown["dncnn", "mse sigma25 kair PSNR"] == f"{centre + 0.25:.2f} ± {spread:.2f}"
    assert shown["dncnn", "l1 sigma25 kair PSNR"] == f"{centre + 1.75:.2f} ± {spread:.2f}"
    assert shown["unet", "mse sigma25 kair PSNR"] == f"{centre + 3:.2f}"
    assert shown["unet", "l1 sigma25 kair PSNR"] == f"{centre + 5:.2f}"
    assert not any(row == "noisy" for row, _ in shown)  # what has no loss has no column
    warning = "2 of 8 cells have no results and are left out: failed 5; waiting 6"
    assert warning in printed
    assert warning in (folder / "table.md").read_text()
    assert json.loads((folder / "comparison.json").read_text())["warnings"][0].endswith(warning)


def test_axes_are_typed_as_flags_too():
    typed = ["it's", "--rows", "model,seed", "--columns=noise", "cost=false", "--cfg=job"]
    assert compare.arguments(typed) == [
        "rows=[model,seed]",
        "columns=[noise]",
        "cost=false",
        "--cfg=job",
        "of=['it\\'s']",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say what is compared"),
        (["/nowhere"], "there is no /nowhere"),
        (["{tmp}"], "no results there; looked for summary.json"),
        (["{e}", "rows=[methd]"], "there is no 'methd'; did you mean method"),
        (["{e}", "--rows", "methd"], "there is no 'methd'; did you mean method"),
        (["{e}", "--columns"], "--columns: by which axes?"),
        (["{e}", "--rows", "--columns", "noise"], "--rows: by which axes?"),
        (["{w}"], "none of the 2 cells of this sweep is done, so there is nothing to compare: waiting 0; running 1"),
        (["{d}"], "{d}/ledger.json is damaged"),
        (["{e}", "metrics=[pnsr]"], "there is no 'pnsr'; did you mean psnr"),
        (["{e}", "baseline=dcnn"], "there is no 'dcnn'; did you mean dncnn"),
        (["comparison=set13"], "no comparison 'set13'; did you mean set12"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_named(monkeypatch, capfd, tmp_path, arguments, said):
    places = {"tmp": tmp_path / "empty", "e": evaluation(tmp_path / "e", "dncnn", values(30))}
    (tmp_path / "empty").mkdir()
    places |= {"w": sweep(tmp_path / "w", [CELLS[0] | {"state": "waiting"}, CELLS[1] | {"state": "running"}])}
    places |= {"d": sweep(tmp_path / "d", CELLS[:1])}
    (tmp_path / "d" / "ledger.json").write_text('{"program": [], "axes": [], "jobs": []}')
    arguments = [argument.format(**places) for argument in arguments]
    code, printed = call(monkeypatch, capfd, compare.main, *arguments, f"run_dir={tmp_path / 'c'}")
    assert code == 2, printed
    assert said.format(**places) in printed
    assert not (tmp_path / "c").exists() or not list((tmp_path / "c").iterdir())


def test_findings_of_nothing_scored_are_empty():
    rows = pd.DataFrame(
        {"method": ["a"], "model": ["a"], "set": ["s"], "noise": ["none"], "protocol": ["kair"], "level": [np.nan]}
        | {"image": ["i"], "seed": [None], "realisation": [0], "psnr": [None], "trained": [None]}
    )
    assert findings.figures(rows, {}) == {}
    assert len(comparison.differences(rows, "psnr", "a")) == 0
    assert comparison.means(rows, ["method"], ["psnr"])["psnr"].isna().all()
