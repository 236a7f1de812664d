"""``experiments.evaluate``: the same rows however they are computed, named protocols, and what it refuses."""

import csv
import json
import logging

import numpy as np
import pytest
import torch
from command_line import call
from PIL import Image
from skimage import data as skimage_data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import train
from experiments import evaluate
from experiments.cli import plain

SIZES = {"a": (48, 64), "b": (40, 40), "c": (64, 33), "d": (36, 70)}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of small colour pictures of different sizes, cut from one that ships with scikit-image."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, (name, (height, width)) in enumerate(SIZES.items()):
        top = 60 + 40 * number
        Image.fromarray(skimage_data.astronaut()[top : top + height, top : top + width]).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    """The folder of a short training run at σ = 25 on grey pictures of that folder."""
    monkeypatch = pytest.MonkeyPatch()
    run = tmp_path_factory.mktemp("trained") / "run"
    arguments = ["experiment=debug", "model=dncnn", "model.num_layers=3", "model.num_features=8", "channels=1"]
    arguments += ["data=folder", f"data.path={pictures}"]
    monkeypatch.setattr("sys.argv", ["train.py", *arguments, f"run_dir={run}"])
    handlers = list(logging.getLogger().handlers)
    train.main()
    logging.getLogger().handlers = handlers  # Hydra's own write into the run's folder
    monkeypatch.undo()
    return run


@pytest.fixture
def run_evaluate(monkeypatch, capfd, tmp_path):
    """``run_evaluate("model=median", …)`` → its folder, rows, summary and what it printed; it must end well."""

    def evaluated(*arguments, name="e"):
        folder = tmp_path / name
        own = [f"run_dir={folder}", "data_root=/nowhere", "processes=1"]
        code, printed = call(monkeypatch, capfd, evaluate.main, *own, *arguments)
        assert code == 0, printed
        rows = list(csv.DictReader((folder / "per_image.csv").open()))
        return folder, rows, json.loads((folder / "summary.json").read_text()), printed

    return evaluated


def without_time(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def clean(pictures, name):
    return np.asarray(Image.open(pictures / f"{name}.png"))


def kair_noisy(image, sigma):
    np.random.seed(0)  # noqa: NPY002
    return image / 255 + np.random.normal(0, sigma / 255, image.shape)  # noqa: NPY002


@pytest.mark.parametrize(
    ("what", "protocol"), [pytest.param("network", "realisations", marks=pytest.mark.slow), ("median", "kair")]
)
def test_rows_are_the_same_from_one_and_two_processes(run_evaluate, pictures, trained, what, protocol):
    arguments = [f"checkpoint={trained}"] if what == "network" else ["model=median", "channels=1"]
    arguments += ["data=folder", f"data.path={pictures}", f"protocol={protocol}"]
    one, two = (run_evaluate(*arguments, f"processes={n}", name=f"{n}") for n in (1, 2))
    assert without_time(one[1]) == without_time(two[1])
    [results] = one[2]["results"].values()
    assert results["n"] == len(SIZES)
    files = sorted(path.relative_to(one[0]) for path in one[0].rglob("*.png"))
    assert len(files) == 4 * len(SIZES)
    for file in files:
        assert (one[0] / file).read_bytes() == (two[0] / file).read_bytes()


def test_evaluation_repeats_the_rows_of_the_runs_own_test(run_evaluate, pictures, trained):
    _, rows, summary, printed = run_evaluate(
        f"checkpoint={trained}", "data=folder", f"data.path={pictures}", "data.fractions=[0.7,0.15,0.15]"
    )
    [own] = csv.DictReader((trained / "per_image.csv").open())
    [row] = rows
    shared = [column for column in own if column in row and own[column]]
    assert {"image", "set", "noise", "level", "protocol", "psnr", "ssim", "noisy_psnr", "noisy_ssim"} <= set(shared)
    assert {column: row[column] for column in shared} == {column: own[column] for column in shared}
    assert row["trained"] == summary["trained"] == "sigma25"
    assert summary["warning"] is None
    assert "WARNING" not in printed


def test_images_of_the_training_folder_are_pointed_out(run_evaluate, pictures, trained):
    assert (
        "data.fractions=[0.7,0.15,0.15]"
        in run_evaluate(f"checkpoint={trained}", "data=folder", f"data.path={pictures}")[-1]
    )


def test_kair_rows_against_numpy_and_scikit_image(run_evaluate, pictures):
    folder, rows, summary, printed = run_evaluate(
        "model=identity", "data=folder", f"data.path={pictures}", "noise=sigma50"
    )
    assert [row["image"] for row in rows] == list(SIZES)
    for row in rows:
        truth = clean(pictures, row["image"])
        saved = np.clip(kair_noisy(truth, 50) * 255, 0, 255).round()
        assert float(row["psnr"]) == pytest.approx(peak_signal_noise_ratio(truth, saved, data_range=255), abs=2e-3)
        theirs = structural_similarity(
            truth.astype(float),
            saved,
            data_range=255,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )[1][5:-5, 5:-5].mean()
        assert float(row["ssim"]) == pytest.approx(theirs, abs=1e-4)  # float32 noise rounds a pixel differently
        assert (row["protocol"], row["level"], row["realisation"], row["trained"]) == ("kair", "50.0", "0", "")
        assert row["lpips"] == "unavailable"
        seen = np.asarray(Image.open(folder / "pictures" / "test" / row["set"] / row["image"] / "noisy.png"))
        assert (seen != saved).mean() < 1e-3  # where float32 rounds the other way
        assert float(row["seconds"]) >= 0
    [results] = summary["results"].values()
    assert results["psnr"] == pytest.approx(np.mean([float(row["psnr"]) for row in rows]))
    assert results["lpips"] == "unavailable"
    assert summary["protocol"] == "kair"
    assert "protocol kair" in printed
    assert "LPIPS is unavailable: there is no /nowhere/weights/lpips/squeeze.backbone.pth" in printed


def test_clipped8bit_sees_what_a_file_holds(run_evaluate, pictures):
    folder, rows, _, _ = run_evaluate(
        "model=identity", "data=folder", f"data.path={pictures}", "noise=sigma50", "protocol=clipped8bit"
    )
    for row in rows:
        seen = np.asarray(Image.open(folder / "pictures" / "test" / row["set"] / row["image"] / "noisy.png"))
        assert float(row["psnr"]) == pytest.approx(
            peak_signal_noise_ratio(clean(pictures, row["image"]), seen, data_range=255), abs=1e-5
        )
        assert row["protocol"] == "clipped8bit"


@pytest.mark.parametrize(("protocol", "clipped"), [("kair", False), ("clipped8bit", True)])
def test_a_network_sees_clipped_noise_only_where_the_protocol_says_so(compose, protocol, clipped):
    from hydra.utils import instantiate

    cfg = compose(f"protocol={protocol}", "noise=sigma50")
    noisy, _ = instantiate(cfg.protocol.realisation)(instantiate(cfg.noise), torch.full((1, 30, 30), 0.95), 0)
    assert (noisy.max() <= 1) == clipped
    assert torch.equal(noisy, (noisy * 255).round() / 255) == clipped


def test_realisations_are_different_draws_with_a_confidence_interval(run_evaluate, pictures):
    _, rows, summary, printed = run_evaluate(
        "model=identity",
        "data=folder",
        f"data.path={pictures}",
        "protocol=realisations",
        "protocol.realisation.draws=3",
    )
    assert len(rows) == 3 * len(SIZES)
    values = np.array([[float(r["psnr"]) for r in rows if r["realisation"] == str(draw)] for draw in range(3)])
    assert len(np.unique(values)) == values.size
    assert np.ptp(values, axis=0).max() < 1  # of the same strength
    [results] = summary["results"].values()
    of_draws = values.mean(axis=1)
    assert results["psnr"] == pytest.approx(of_draws.mean())
    assert results["psnr_ci95"] == pytest.approx(4.302653 * of_draws.std(ddof=1) / np.sqrt(3), rel=1e-5)  # t, 2 degrees
    assert results["realisations"] == 3
    assert "mean of 4" in printed
    assert "± 0.0" in printed


def test_luma_is_scored_by_matlabs_y_without_the_border(run_evaluate, pictures):
    _, rows, _, _ = run_evaluate("model=identity", "data=folder", f"data.path={pictures}", "protocol=luma")
    weights = np.array([65.481, 128.553, 24.966]) / 255
    for row in rows:
        truth = clean(pictures, row["image"]).astype(float)
        saved = np.clip(kair_noisy(truth, 25) * 255, 0, 255).round()
        ours, theirs = ((image @ weights + 16)[4:-4, 4:-4] for image in (saved, truth))
        assert float(row["psnr"]) == pytest.approx(peak_signal_noise_ratio(theirs, ours, data_range=255), abs=3e-3)


@pytest.mark.parametrize(
    ("noise", "warned"),
    [
        (["noise=sigma25"], False),
        (["noise=sigma50"], True),
        (["noise=gaussian", "noise.sigma=25"], False),
        (["noise=sigma25", "noise.sigma=26"], True),
        (["noise=salt_and_pepper"], True),
    ],
)
def test_a_network_that_is_asked_for_another_noise_says_so(run_evaluate, pictures, trained, noise, warned):
    _, rows, summary, printed = run_evaluate(f"checkpoint={trained}", "data=folder", f"data.path={pictures}", *noise)
    assert ("WARNING: dncnn was trained on sigma25 and is asked for" in printed) == warned
    assert (summary["warning"] is not None) == warned
    assert {row["trained"] for row in rows} == {"sigma25"}
    names = {"noise.sigma=26": "sigma25 sigma=26", "noise.sigma=25": "gaussian"}
    assert {row["noise"] for row in rows} == {names.get(noise[-1], noise[0].removeprefix("noise="))}


@pytest.mark.parametrize(
    ("trained", "asked", "covered"),
    [
        ("blind0_55", "sigma25", True),
        ("blind0_55", "sigma75", False),
        ("sigma25", "blind0_55", False),
        ("fluorescence", "poisson_gaussian", True),
        ("poisson_gaussian", "fluorescence", False),
        ("mixed", "mixed", True),
        ("mixed", "sigma25", True),
        ("mixed", "sigma75", False),
        ("mixed", "rician", False),
        ("jpeg", "jpeg", True),
        ("jpeg", "clipped", False),
        ("raw", "sidd_like", False),
    ],
)
def test_a_noise_contains_another(compose, trained, asked, covered):
    theirs, ours = (plain(compose(f"noise={name}").noise) for name in (trained, asked))
    assert evaluate.covers(theirs, ours) == covered


def test_without_references_there_are_pictures_and_timings_and_no_psnr(run_evaluate, pictures, trained):
    folder, rows, summary, printed = run_evaluate(
        f"checkpoint={trained}", "data=noisy", f"data.path={pictures}", "noise=none"
    )
    assert len(rows) == len(SIZES)
    for row in rows:
        assert row["psnr"] == row["ssim"] == row["lpips"] == row["noisy_psnr"] == row["level"] == ""
        assert float(row["seconds"]) > 0
        names = {path.name for path in (folder / "pictures" / "test" / row["set"] / row["image"]).iterdir()}
        assert names == {"noisy.png", "estimate.png", "strip.png"}
    [results] = summary["results"].values()
    assert results["psnr"] is None
    assert "–" in printed


def test_pairs_bring_their_own_noise(run_evaluate, pictures, tmp_path):
    noisy = tmp_path / "noisy"
    noisy.mkdir()
    for name in SIZES:
        Image.fromarray((clean(pictures, name) // 2 + 30).astype(np.uint8)).save(noisy / f"{name}.png")
    _, rows, _, _ = run_evaluate(
        "model=identity", "data=pairs", "noise=none", f"data.clean={pictures}", f"data.noisy={noisy}"
    )
    for row in rows:
        truth, seen = clean(pictures, row["image"]), clean(noisy, row["image"])
        assert float(row["psnr"]) == pytest.approx(peak_signal_noise_ratio(truth, seen, data_range=255), abs=1e-5)
        assert float(row["level"]) == pytest.approx(np.sqrt(np.mean((truth / 1.0 - seen) ** 2)), rel=1e-4)


def test_lpips_is_measured_where_its_weights_are(monkeypatch, capfd, tmp_path, pictures, weights_root):
    from denoisers.perceptual import LPIPS

    code, printed = call(
        monkeypatch,
        capfd,
        evaluate.main,
        "model=identity",
        "data=folder",
        f"data.path={pictures}",
        f"run_dir={tmp_path / 'e'}",
        f"data_root={weights_root}",
    )
    assert code == 0, printed
    lpips = LPIPS(net="squeeze", directory=weights_root / "weights" / "lpips")
    for row in csv.DictReader((tmp_path / "e" / "per_image.csv").open()):
        truth = clean(pictures, row["image"])
        seen = np.asarray(Image.open(tmp_path / "e" / "pictures" / "test" / row["set"] / row["image"] / "estimate.png"))
        pair = [torch.from_numpy(image / 255).float().permute(2, 0, 1)[None] for image in (seen, truth)]
        with torch.no_grad():
            assert float(row["lpips"]) == pytest.approx(lpips(*pair).item(), abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model=median", "data=sett12"], "no data 'sett12'; did you mean set1"),
        (["model=median", "protocol=kiar"], "no protocol 'kiar'; did you mean kair"),
        (["model=median", "metrics=[psnr,sim]"], "there is no metric 'sim'; did you mean ssim"),
        (["model=median", "noise=sigma26"], "no noise 'sigma26'; did you mean sigma25"),
        ([], "either checkpoint=RUN_OR_FILE, or model=NAME"),
        (["model=median", "checkpoint={run}"], "either checkpoint=RUN_OR_FILE, or model=NAME"),
        (["model=dncnn"], "model=dncnn has weights to learn: give checkpoint="),
        (["checkpoint=/nowhere"], "no checkpoint at /nowhere"),
        (["checkpoint={run}", "channels=3", "data=folder", "data.path={pictures}"], "takes 1"),
        (["model=median", "data=set12"], "looked for 12 images in /nowhere/Set12"),
        (["model=median", "data=noisy"], "data=noisy needs data.path=DIR"),
        (["model=median", "data=noisy", "data.path={pictures}"], "brings its own noise: add noise=none"),
        (["model=median", "data=set12", "data.splits.names=[Set13]"], "there is no set 'Set13'"),
        (["model=median", "processes=0"], "processes=0"),
        (
            [
                "model=median",
                "data=folder",
                "data.path={pictures}",
                "protocol=realisations",
                "protocol.realisation.draws=0",
            ],
            "draws=0: must be at least 1",
        ),
        (["model=median", "protocol.score.ssim_window=box"], "gaussian"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_named(monkeypatch, capfd, tmp_path, pictures, trained, arguments, said):
    places = {"run": trained, "pictures": pictures}
    arguments = [argument.format(**places) for argument in arguments]
    folder = tmp_path / "e"
    code, printed = call(monkeypatch, capfd, evaluate.main, *arguments, f"run_dir={folder}", "data_root=/nowhere")
    assert code == 2, printed
    assert said in printed
    assert "Traceback" not in printed
    assert not folder.exists() or not list(folder.iterdir())


def test_pictures_below_ssims_window_are_named(monkeypatch, capfd, tmp_path):
    (tmp_path / "p").mkdir()
    Image.new("L", (10, 30)).save(tmp_path / "p" / "narrow.png")
    arguments = [
        "model=median",
        "channels=1",
        "data=folder",
        f"data.path={tmp_path / 'p'}",
        f"run_dir={tmp_path / 'e'}",
    ]
    code, printed = call(monkeypatch, capfd, evaluate.main, *arguments)
    assert code == 2
    assert "narrow.png is 30×10×1" in printed
    assert "smaller than 11×11" in printed


def test_results_are_never_overwritten(monkeypatch, capfd, run_evaluate, pictures):
    arguments = ["model=identity", "data=folder", f"data.path={pictures}"]
    folder, *_ = run_evaluate(*arguments)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, printed = call(monkeypatch, capfd, evaluate.main, *arguments, f"run_dir={folder}")
    assert code == 2
    assert "already holds results" in printed
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_process_that_dies_is_named(monkeypatch, capfd, tmp_path, pictures):
    dying = "model._target_=odd_networks.Dying"
    arguments = ["model=identity", dying, "data=folder", f"data.path={pictures}", "processes=2"]
    code, printed = call(monkeypatch, capfd, evaluate.main, *arguments, f"run_dir={tmp_path / 'e'}")
    assert code == 2
    assert "one of 2 processes has died" in printed
