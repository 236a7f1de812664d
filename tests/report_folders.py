"""Small folders as runs, evaluations and comparisons leave them, for the tests of the report."""

import csv
import itertools
import json

import numpy as np
from PIL import Image

SIZE = (40, 64)  # height, width
IMAGES = ("boat", "house", "lena")


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


def pictures(folder, image, set_name, offset, reference=True, size=SIZE):
    """Clean is a ramp, noisy that with noise, and the estimate everywhere brighter by ``offset``."""
    place = folder / "pictures" / "test" / set_name / image.replace("/", "__")
    place.mkdir(parents=True, exist_ok=True)
    clean = np.broadcast_to(np.linspace(20, 180, size[1]), size).round().astype(np.uint8)
    noise = np.random.default_rng(0).normal(0, 25, size)
    noisy = (clean + noise).clip(0, 255).round().astype(np.uint8)
    shown = {"noisy": noisy, "estimate": clean + np.uint8(offset)} | ({"clean": clean} if reference else {})
    for name, pixels in shown.items():
        Image.fromarray(pixels).save(place / f"{name}.png")
    Image.fromarray(np.hstack(list(shown.values()))).save(place / "strip.png")


def rows(images=IMAGES, psnr=30.0, set_name="Set3", noise="sigma25", realisation=0, **more):
    """The images' PSNR goes down from ``psnr`` in steps of 11 dB: 30, 19, 8."""
    return [
        {
            "image": image,
            "set": set_name,
            "noise": noise,
            "level": 25.0,
            "protocol": "kair",
            "realisation": realisation,
            "psnr": psnr - 11 * number,
            "ssim": round(0.9 - 0.1 * number, 4),
            "noisy_psnr": 20.25 - number,
            "noisy_ssim": 0.4,
        }
        | more
        for number, image in enumerate(images)
    ]


def origin(folder, config="name: it\n", **summary):
    folder.mkdir(parents=True, exist_ok=True)
    told = {
        "protocol": "kair",
        "parameters": 123456,
        "hardware": "a Processor, 2 threads",
        "versions": {"python": "3.11.2", "torch": "2.13.0"},
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "wall_seconds": 61.5,
    }
    (folder / "summary.json").write_text(json.dumps(told | summary))
    (folder / "config.yaml").write_text(config)
    return folder


def evaluation(folder, images=IMAGES, warning=None, reference=True, drawn=True, model="dncnn", **more):
    origin(folder, kind="evaluation", name="an evaluation", model=model, trained="sigma50", warning=warning)
    told = rows(images, **{"lpips": "unavailable", "noisy_lpips": "unavailable", "seconds": 0.125} | more)
    if not reference:
        told = [row | {"psnr": "", "ssim": "", "noisy_psnr": "", "noisy_ssim": "", "lpips": ""} for row in told]
    write_rows(folder / "per_image.csv", told)
    for number, image in enumerate(images if drawn else ()):
        pictures(folder, image, "Set3", 7 + number, reference)
    return folder


def run(folder, model="xdncnn", seed=0, psnr=31.0, steps=20000, noise="sigma25", layers=17, loss="mse"):
    config = f"name: {model}\nseed: {seed}\nrun_dir: {folder}\nmodel: {{num_layers: {layers}}}\n"
    axes = {"model": model, "noise": noise, "data": "sample", "loss": loss}
    told = {"seed": seed, "steps": steps, "eval_seed": 0, "precision": "32-true", "channels": 1}
    origin(folder, config, name=f"{model} run", axes=axes, **told)
    (folder / "overrides.yaml").write_text(f"- model={model}\n- model.num_layers={layers}\n- seed={seed}\n")
    write_rows(folder / "per_image.csv", rows(psnr=psnr, noise=noise, median_psnr=15.5, median_ssim=0.6))
    for image in IMAGES:
        pictures(folder, image, "Set3", 3 + seed)
    curve = [{"step": s, "train/loss": 1 / (s + 1), "val/psnr": "", "epoch": 0} for s in range(steps)]
    curve += [{"step": s, "train/loss": "", "val/psnr": 20 + s / steps, "epoch": 0} for s in (0, steps // 2, steps)]
    write_rows(folder / "metrics.csv", curve)
    return folder


def comparison(folder):
    """Two seeds of one network and one evaluation of another, which has not seen the last image."""
    root = folder.parent
    parts = [("xDnCNN", "xdncnn", run(root / "runs" / f"x{s}", seed=s, psnr=31 + s, steps=50), s) for s in (0, 1)]
    parts.append(("DnCNN", "dncnn", evaluation(root / "evaluations" / "d", IMAGES[:2]), ""))
    merged = []
    for label, model, place, seed in parts:
        extra = {"method": label, "model": model, "trained": "sigma25", "seed": seed}
        extra["folder"] = f"../{place.relative_to(root)}"
        merged += [extra | row for row in csv.DictReader((place / "per_image.csv").open())]
    write_rows(folder / "per_image.csv", merged)
    unknown = {"macs": None, "cpu_ms": None, "gpu_ms": None, "peak_mb": None, "train_seconds": None, "size_mb": None}
    told = {
        "title": "Two networks",
        "description": "What they do to three images.",
        "methods": [
            {"method": "xDnCNN", "kind": "run", "folders": ["../runs/x0", "../runs/x1"], "run": "../runs/x0"}
            | unknown
            | {"parameters": 303000, "macs": 19_800_000_000, "cpu_ms": 133.4, "train_seconds": 5400}
            | {"seeds": [0, 1], "trained": "sigma25"},
            {"method": "DnCNN", "kind": "evaluation", "folders": ["../evaluations/d"], "run": None, "seeds": []}
            | unknown
            | {"train_seconds": 2400},
        ],
        "tables": [
            {"title": "Pairs", "note": "paired", "columns": ["pair", "dB"], "rows": [["x − d", 1.25], ["y", None]]}
        ],
        "figures": [{"title": "A figure", "file": "pareto.png"}],
        "hardware": "a Processor",
        "versions": {"torch": "2.13.0"},
        "commit": "fedcba98",
    }
    (folder / "comparison.json").write_text(json.dumps(told))
    Image.new("RGB", (30, 20), "white").save(folder / "pareto.png")
    return folder


def sweep(folder, cells, psnr=lambda **axes: 30.0):
    """A sweep as the launcher leaves it; ``cells``: the axes of each, and its state where it is not done."""
    jobs = {}
    for number, cell in enumerate(cells):
        state = cell.get("state", "done")
        axes = {key: value for key, value in cell.items() if key != "state"}
        overrides = [f"{key}={value}" for key, value in axes.items()]
        reason = "exit code 1: it is broken" if state == "failed" else None
        jobs[f"f{number}"] = {"number": number, "overrides": overrides, "state": state, "reason": reason, "attempts": 1}
        if state in ("done", "running"):
            place = run(
                folder / str(number), axes["model"], int(axes["seed"]), psnr(**axes), steps=40, loss=axes["loss"]
            )
            if state == "running":
                (place / "summary.json").unlink()
                (place / "per_image.csv").unlink()
    folder.mkdir(exist_ok=True)
    axes = [key for key in cells[0] if key != "state"]
    (folder / "ledger.json").write_text(json.dumps({"program": ["train.py"], "axes": axes, "jobs": jobs}))
    return folder


def crossed(**axes):
    """Every combination of the axes' values, the last going round fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
