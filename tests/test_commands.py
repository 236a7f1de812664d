"""The commands as people type them: what a run leaves behind, and how mistakes end."""

import csv
import errno
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import torch
import yaml
from command_line import call, command
from conftest import CONF, choices
from PIL import Image
from skimage import data as skimage_data

import denoisers
import train
from denoisers.checkpoint import CheckpointError
from experiments import resume
from experiments.strips import detail

SECRET = "s3cr3t" * 7


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A whole run, with W&B asked for where there is a key but no network."""
    folder = tmp_path_factory.mktemp("run") / "it"
    arguments = [
        "experiment=debug",
        "logger=wandb",
        "model.num_features=8",
        "trainer.max_epochs=2",
        f"run_dir={folder}",
    ]
    done = command(
        "train.py", *arguments, WANDB_API_KEY=SECRET, WANDB_BASE_URL="http://127.0.0.1:9", WANDB_MODE="online"
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout + done.stderr


def test_a_run_says_what_it_does_before_and_after(run):
    _, printed = run
    for said in (
        "device",
        "precision",
        "DnCNN",
        "parameters",
        "5 training, 1 validation, 2 test images, grey",
        "steps",
    ):
        assert said in printed
    for said in ("expected time", "chelsea", "camera", "mean of 2", "protocol kair", "noisy", "median", "xdncnn"):
        assert said in printed
    assert printed.index("expected time") < printed.index("step 5")
    assert "-m experiments.denoise checkpoint=" in printed


def test_a_run_leaves_everything_in_its_folder(run):
    folder, _ = run
    rows = list(csv.DictReader((folder / "per_image.csv").open()))
    assert [row["image"] for row in rows] == ["chelsea", "camera"]
    assert {row["protocol"] for row in rows} == {"kair"}
    # the noise of kair and the median filter are fixed: measured once, and the noisy one near 20·log10(255 / 25)
    assert [round(float(row["noisy_psnr"]), 2) for row in rows] == [20.22, 20.61]
    assert [round(float(row["median_psnr"]), 2) for row in rows] == [26.88, 25.86]

    summary = json.loads((folder / "summary.json").read_text())
    mean = sum(float(row["psnr"]) for row in rows) / 2
    assert summary["results"]["sample"]["psnr"] == pytest.approx(mean)
    assert summary["results"]["sample"]["n"] == 2
    for key in ("commit", "versions", "hardware", "wall_seconds", "protocol", "seed", "eval_seed", "parameters"):
        assert summary[key] not in (None, "")
    assert summary["steps"] == 10

    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"]["num_features"] == 8
    assert "${" not in (folder / "config.yaml").read_text()

    metrics = list(csv.DictReader((folder / "metrics.csv").open()))
    assert sum(bool(row["val/psnr"]) for row in metrics) == 2
    assert sum(bool(row["train/loss"]) for row in metrics) == 10
    for name, size in (("chelsea", (4 * 451 + 12, 20 + 2 * 300 + 4)), ("camera", (4 * 512 + 12, 20 + 2 * 512 + 4))):
        pictures = folder / "pictures" / "test" / "sample" / name
        assert Image.open(pictures / "strip.png").size == size
        assert {path.name for path in pictures.iterdir()} == {
            f"{n}.png" for n in ("strip", "clean", "noisy", "estimate")
        }
    assert len(list((folder / "pictures" / "val").glob("step_*/coffee.png"))) == 2
    assert not list(folder.rglob("*.part*"))


def test_a_strip_shows_what_its_labels_say(run):
    folder, _ = run
    pictures = folder / "pictures" / "test" / "sample" / "camera"
    strip = np.asarray(Image.open(pictures / "strip.png")).astype(float)[20:]
    marked, noisy, estimate, error = (strip[:512, i * 516 : i * 516 + 512] for i in range(4))
    clean = skimage_data.camera().astype(float)
    assert (marked != clean).mean() < 0.02  # but for the frame around the detail
    for name, panel in (("clean", clean), ("noisy", noisy), ("estimate", estimate)):
        assert np.array_equal(np.asarray(Image.open(pictures / f"{name}.png")), panel)
    assert np.std(noisy - clean) == pytest.approx(25, rel=0.1)
    np.testing.assert_allclose(error, np.clip(5 * abs(estimate - clean), 0, 255), atol=1)
    left, top = detail(torch.from_numpy(clean)[None] / 255)
    part = noisy[top : top + 128, left : left + 128]
    assert np.array_equal(strip[516:, 516 : 516 + 512], np.kron(part, np.ones((4, 4))))
    assert clean[top : top + 128, left : left + 128].std() > clean.std() / 2  # not the sky


def test_wandb_goes_offline_by_itself_and_the_key_stays_secret(run):
    folder, printed = run
    assert "W&B: offline (127.0.0.1 cannot be reached" in printed
    assert "wandb sync" in printed
    [offline] = (folder / "wandb").glob("offline-run-*")
    media = [path.name for path in offline.rglob("*.*")]
    assert any(name.startswith("chelsea") for name in media)
    assert any(name.startswith("per_image") for name in media)
    assert list(offline.glob("*.wandb"))
    assert SECRET not in printed
    for path in folder.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_checkpoints_load_without_unpickling(run):
    folder, _ = run
    for name in ("best", "last"):
        saved = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert saved["record"]["config"]["model"]["num_features"] == 8
        assert saved["record"]["config"]["protocol"]["name"] == "kair"


def test_the_reported_psnr_is_that_of_the_saved_checkpoint(run):
    folder, _ = run
    clean = skimage_data.camera()
    np.random.seed(0)  # noqa: NPY002
    noisy = clean / 255 + np.random.normal(0, 25 / 255, (*clean.shape, 1))[..., 0]  # noqa: NPY002
    estimate = (denoisers.load(folder)(noisy.astype(np.float32)) * 255).round()
    psnr = 10 * np.log10(255**2 / np.mean((estimate - clean) ** 2))
    rows = {row["image"]: row for row in csv.DictReader((folder / "per_image.csv").open())}
    assert float(rows["camera"]["psnr"]) == pytest.approx(psnr, abs=1e-3)


@pytest.mark.parametrize("model", ["identity", "median"])
def test_what_has_nothing_to_train_goes_straight_to_the_test(tmp_path, monkeypatch, capfd, model):
    code, printed = call(monkeypatch, capfd, train.main, f"model={model}", f"run_dir={tmp_path / 'r'}", "channels=3")
    assert code == 0, printed
    [row] = csv.DictReader((tmp_path / "r" / "per_image.csv").open())
    column = {"identity": "noisy_psnr", "median": "median_psnr"}[model]
    assert row["psnr"] == row[column]
    assert not (tmp_path / "r" / "checkpoints").exists()


def test_a_callback_can_be_added_on_the_command_line(tmp_path, monkeypatch, capfd):
    added = "+callbacks.stop={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/psnr, mode: max}"
    code, printed = call(monkeypatch, capfd, train.main, "model=identity", added, f"run_dir={tmp_path / 'r'}")
    assert code == 0, printed
    assert "EarlyStopping" in (tmp_path / "r" / "config.yaml").read_text()


def test_equal_images_give_an_infinite_psnr_in_valid_json(tmp_path, monkeypatch, capfd):
    code, _ = call(monkeypatch, capfd, train.main, "model=identity", "noise=none", f"run_dir={tmp_path / 'r'}")
    assert code == 0
    text = (tmp_path / "r" / "summary.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["results"]["sample"]["psnr"] == "inf"


def test_nothing_heavy_is_imported_before_the_command_line_is_understood():
    heavy = ("torch", "lightning", "kornia", "torchmetrics", "wandb", "skimage", "rich", "PIL")
    script = f"import sys, train; print([name for name in {heavy} if name in sys.modules])"
    assert command("-c", script).stdout.strip() == "[]"


def test_help_names_every_axis_and_choice_on_one_line():
    printed = command("train.py", "--help").stdout
    lines = {line.split(":")[0].strip(): line for line in printed.splitlines() if ": " in line}
    for group in (path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra"):
        for choice in choices(group):
            assert choice in lines[group]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model=xdnccn"], "no model 'xdnccn'; did you mean xdncnn"),
        (["modle=dncnn"], "did you mean model"),
        (["noise.sgima=3"], "did you mean noise.sigma"),
        (["sigma=3"], "did you mean noise.sigma"),
        (["batch_size=3"], "did you mean data.batch_size"),
        (["+typo=1"], "nothing reads 'typo'"),
        (["+data.pacth_size=1"], "nothing reads 'data.pacth_size'; did you mean data.patch_size"),
        (["+model.num_layer=1"], "model takes no 'num_layer'; did you mean num_layers"),
        (["+trainer.max_step=1"], "trainer takes no 'max_step'; did you mean max_steps"),
        (["noise.sigma=abc"], "noise.sigma=abc: Input should be a valid number"),
        (["noise.sigma=-5"], "sigma=-5"),
        (["model.num_layers=many"], "model.num_layers=many"),
        (["model.num_layers=1"], "num_layers=1: must be at least 2"),
        (["model.kernel_size=4"], "kernel_size=4: must be odd"),
        (["model.activation=selu"], "xunit_d"),
        (["model.activation=xunitt"], "did you mean xunit"),
        (["model=nafnet32", "model.activation=relu"], "model takes no 'activation'"),
        (["model=identity", "model.activation=relu"], "model takes no 'activation'"),
        (["model=ffdnet", "model.num_layer=3"], "model takes no 'num_layer'; did you mean num_layers"),
        (["channels=2"], "channels=2"),
        (["seed=abc"], "seed=abc: must be int"),
        (["compile=perhaps"], "compile=perhaps: must be bool"),
        (["data.batch_size=2.5"], "data.batch_size=2.5: must be int"),
        (["optimizer.lr=fast"], "optimizer.lr=fast"),
        (["optimizer.lr=-1"], "Invalid learning rate: -1"),
        (["trainer.max_steps=-7"], "trainer.max_steps=-7"),
        (["trainer.precision=fp8"], "trainer"),
        (["trainer=gpu"], "trainer"),
        (["scheduler.build.warmup=2"], "warmup=2"),
        (["model=dncnn,unet"], "Ambiguous"),
        (["resume=/nowhere"], "resume=/nowhere: no run there"),
        (["resume=last"], "there is no run below"),
        (["resume=last", "-m"], "resume= continues one run: leave out -m"),
        (["run_dir=/dev/null/x"], "/dev/null/x"),
        (["data=bsd400", "data_root=/nowhere"], "looked for 400 images in /nowhere/Train400"),
        (["data=folder", "data.path=/nowhere"], "no such directory: /nowhere"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_named_and_exit_with_2(tmp_path, monkeypatch, capfd, arguments, said):
    if torch.cuda.is_available() and arguments == ["trainer=gpu"]:
        pytest.skip("there is a GPU")
    monkeypatch.chdir(tmp_path)
    code, printed = call(monkeypatch, capfd, train.main, *arguments)
    assert code == 2, printed
    assert said in printed
    assert "Traceback" not in printed
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "train.log"]


def test_a_full_disk_is_named_with_path_and_bytes(tmp_path, monkeypatch, capfd):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("experiments.strips.Image.Image.save", full)
    code, printed = call(monkeypatch, capfd, train.main, "model=identity", f"run_dir={tmp_path / 'r'}")
    assert code == 2, printed
    assert f"error: {tmp_path / 'r' / 'pictures'}" in printed
    assert "No space left on device" in printed
    assert "bytes are free" in printed
    assert not list(tmp_path.rglob(".*"))


def test_a_mistake_ends_a_real_process_with_2():
    done = command("train.py", "model=xdnccn")
    assert done.returncode == 2
    assert "xdncnn" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_holds_a_run_is_never_written_again(run, monkeypatch, capfd):
    folder, _ = run
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.c*")}
    code, printed = call(monkeypatch, capfd, train.main, "experiment=debug", f"run_dir={folder}")
    assert code == 2
    assert "already holds a run" in printed
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.c*")}


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "train.log"}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model=dncnn"], ["model.num_layers: 9 → 17"]),
        (["noise=sigma50"], ["noise.sigma: 25 → 50"]),
        (["data.batch_size=2", "optimizer.lr=1"], ["data.batch_size: 4 → 2", "optimizer.lr: 0.002 → 1"]),
        (["trainer.max_steps=3"], ["trainer.max_epochs: 2 → -1", "trainer.max_steps: 4 → 3"]),
        (["channels=3", "resume_force=true"], ["do not fit", "network.body.0.weight: (8, 1, 3, 3)"]),
        (["run_dir=elsewhere"], ["a run is resumed in its own folder"]),
    ],
    ids=lambda value: value[0],
)
def test_resuming_with_something_else_changed_shows_it_and_is_refused(run, monkeypatch, capfd, overrides, said):
    folder, _ = run
    before = contents(folder)
    code, printed = call(monkeypatch, capfd, train.main, f"resume={folder}", *overrides)
    assert code == 2, printed
    for words in said:
        assert words in printed
    assert contents(folder) == before


def test_resuming_a_finished_run_finds_the_same_again_wherever_its_folder_is(run, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "moved, with 'odd' name"
    shutil.copytree(run[0], folder)
    before = contents(folder)
    summary = folder / "summary.json"
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    seconds_of_training = last["position"]["seconds"]
    code, printed = call(monkeypatch, capfd, train.main, f"resume={folder}", "data.num_workers=1", "logger=csv")
    assert code == 0, printed
    results = [json.loads(text)["results"] for text in (before.pop(summary), summary.read_bytes())]
    assert results[0] == results[1]
    assert json.loads(summary.read_text())["wall_seconds"] > seconds_of_training > 0
    for name in ("metrics.csv", "per_image.csv", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        assert (folder / name).read_bytes() == before[folder / name]
    assert str(run[0]) not in (folder / "config.yaml").read_text()


def test_a_longer_run_goes_on_by_force_and_other_images_are_seen(tmp_path, monkeypatch, capfd):
    images = tmp_path / "images"
    images.mkdir()
    for index in range(6):
        Image.effect_noise((32, 32), 60).save(images / f"{index}.png")
    arguments = ["experiment=debug", "data=folder", f"data.path={images}", "channels=1", "model.num_features=4"]
    code, printed = call(monkeypatch, capfd, train.main, *arguments, f"run_dir={tmp_path / 'r'}", "trainer.max_steps=3")
    assert code == 0, printed
    longer = [f"resume={tmp_path / 'r'}", "trainer.max_steps=9", "resume_force=true"]
    code, printed = call(monkeypatch, capfd, train.main, *longer)
    assert code == 0, printed
    assert "trainer.max_steps: 3 → 9" in printed
    steps = [int(row["step"]) for row in csv.DictReader((tmp_path / "r" / "metrics.csv").open()) if row["train/loss"]]
    assert steps == list(range(9))
    Image.effect_noise((32, 32), 60).save(images / "another.png")
    code, printed = call(monkeypatch, capfd, train.main, f"resume={tmp_path / 'r'}")
    assert code == 2
    assert "train images: 4 images" in printed


@pytest.mark.parametrize("damage", ["cut", "flip", "checksum"])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before_and_names_both(run, tmp_path, caplog, damage):
    folder = tmp_path / "r"
    shutil.copytree(run[0] / "checkpoints", folder / "checkpoints")
    last, previous = (folder / "checkpoints" / f"{name}.ckpt" for name in ("last", "previous"))
    assert resume.newest(folder) == last
    whole = bytearray(last.read_bytes())
    if damage == "cut":
        last.write_bytes(whole[: len(whole) // 2])
    elif damage == "flip":
        whole[len(whole) // 2] ^= 1
        last.write_bytes(whole)
    else:
        (folder / "checkpoints" / "last.ckpt.sha256").write_text(f"{'0' * 64}  last.ckpt\n")
    assert resume.newest(folder) == previous
    assert f"{last} is damaged" in caplog.text
    assert f"going on from {previous} instead, step " in caplog.text
    for path in folder.rglob("*.ckpt"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"last\.ckpt(.|\n)*previous\.ckpt(.|\n)*best\.ckpt"):
        resume.newest(folder)


def test_checksums_are_what_sha256sum_reads(run):
    checkpoints = run[0] / "checkpoints"
    names = [path.name for path in checkpoints.glob("*.sha256")]
    done = subprocess.run(["sha256sum", "-c", *names], cwd=checkpoints, text=True, capture_output=True)
    assert done.returncode == 0
    assert done.stdout.count(": OK") == 3


@pytest.mark.slow
def test_two_processes_give_the_rows_of_one(tmp_path):
    for name, extra in [("one", []), ("two", ["trainer=ddp", "trainer.devices=2"])]:
        arguments = ["trainer.accelerator=cpu", "model=median", "channels=1", f"run_dir={tmp_path / name}"]
        done = command("train.py", *extra, *arguments)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "one" / "per_image.csv").read_text() == (tmp_path / "two" / "per_image.csv").read_text()


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path):
    arguments = [
        "experiment=debug",
        "model.num_features=8",
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
    ]
    done = command("train.py", *arguments, f"run_dir={tmp_path / 'r'}")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["steps"] == 4
