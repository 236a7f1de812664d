"""Kills real runs at random moments, resumes them, and counts how many end like the run that was left alone.

``make torture``: 60 runs of train.py, 20 of them killed inside a checkpoint write while temporary files lie on another
file system; then the same kills on the same task under Lightning's own checkpoints (tests/stock_lightning.py).
"""

import argparse
import csv
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
TRAIN, STOCK = ROOT / "train.py", ROOT / "tests" / "stock_lightning.py"
TIMED = "train/pixels_per_second"
SAVED_EVERY = 5
HALVES = "half a file was left by the kill"
SAME = "the same weights, optimiser, EMA and rows"


def make_pictures(folder: Path, side: int) -> None:
    """Writes six small pictures of noise, four of which become training images."""
    folder.mkdir(exist_ok=True)
    for index in range(6):
        pixels = np.random.default_rng(index).integers(0, 256, (side, side), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")


def task(images: Path) -> list[str]:
    """A small run with everything in it: pictures, epochs, validations, accumulation, EMA, and checkpoints of 3 MB."""
    make_pictures(images, side=24)
    return [
        "data=folder",
        f"data.path={images}",
        "channels=1",
        "data.patch_size=12",
        "data.crops_per_image=50",
        "data.batch_size=4",
        "model=dncnn",
        "model.num_layers=8",
        "trainer=cpu",
        "trainer.max_steps=80",
        "trainer.accumulate_grad_batches=2",
        "trainer.log_every_n_steps=1",
        "scheduler=plateau",
        "~callbacks.progress",
        "~callbacks.card",
        "~callbacks.strips",
        "trainer.enable_progress_bar=false",
    ]


def start(*arguments: str, script: Path = TRAIN, **environment: str) -> subprocess.Popen:
    """A command as a process in a session of its own, as a terminal would make it."""
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(script), *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Waits for a process → its exit code and what it printed."""
    printed, _ = process.communicate(timeout=600)
    return process.returncode, printed


def state(run_dir: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Everything that must be equal at the end: weights, EMA, optimiser, schedule, generators; and the rows."""
    saved = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    for known in ("record", "callbacks", "loops"):  # paths, and Lightning's counters, which are made from the position
        saved.pop(known)
    saved.get("position", {}).pop("seconds", None)
    metrics = run_dir / "metrics.csv"
    rows = list(csv.DictReader(metrics.open())) if metrics.exists() else []
    return saved, [{column: value for column, value in row.items() if column != TIMED} for row in rows]


def fingerprint(value: Any) -> str:
    """A hash of nested containers and tensors, to the last bit."""
    digest = hashlib.sha256()

    def add(part: Any) -> None:
        digest.update(type(part).__name__.encode())
        if isinstance(part, torch.Tensor):
            digest.update(part.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        elif isinstance(part, dict):
            for key in part:
                add(str(key))
                add(part[key])
        elif isinstance(part, (list, tuple)):
            for item in part:
                add(item)
        else:
            digest.update(repr(part).encode())

    add(value)
    return digest.hexdigest()


def kill(process: subprocess.Popen) -> None:
    """SIGKILL for the process and all that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def kill_within_a_write(process: subprocess.Popen, run_dir: Path, temporary: Path, write: int, delay: float) -> bool:
    """Kills a process ``delay`` seconds after it began to write its checkpoint number ``write``; False if it ended."""

    def stamps() -> set[tuple[str, int]]:
        found = set()
        for folder in (run_dir / "checkpoints", temporary):
            for path in folder.glob("*") if folder.is_dir() else []:
                try:
                    if path.is_file() and path.suffix != ".sha256":
                        found.add((path.name, path.stat().st_mtime_ns))
                except FileNotFoundError:
                    continue
        return found

    seen, begun = stamps(), 0
    while process.poll() is None:
        now = stamps()
        if new := now - seen:
            # a burst of changes is one write
            begun += any(name.startswith(".last") or ".part" not in name for name, _ in new)
            if begun >= write:
                time.sleep(delay)
                kill(process)
                return True
        seen = now
    process.communicate()
    return False


def one(number: int, within_write: bool, script: Path, arguments: list[str], folder: Path, seconds: float) -> str:
    """Kills one run at a moment drawn from its number, resumes it → how that ended."""
    draw, killed = random.Random(number), False
    run_dir = folder / f"{script.stem}-{number}"
    temporary = Path(tempfile.mkdtemp(prefix="torture", dir="/dev/shm" if within_write else None))
    environment = {"OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
    while not killed:  # a run that ends before its moment is made again
        shutil.rmtree(run_dir, ignore_errors=True)
        process = start(*arguments, f"run_dir={run_dir}", script=script, **environment)
        if within_write:
            killed = kill_within_a_write(process, run_dir, temporary, draw.randint(2, 40), draw.uniform(0, 0.003))
        else:
            try:
                process.communicate(timeout=draw.uniform(0.05, 1) * seconds)
            except subprocess.TimeoutExpired:
                kill(process)
                killed = True
    halves = any(run_dir.rglob(".*.part*"))
    if (run_dir / "config.yaml").exists():
        again = [f"resume={run_dir}"] if script == TRAIN else [*arguments, f"run_dir={run_dir}"]
    else:
        again = [*arguments, f"run_dir={run_dir}"]
    code, printed = finish(start(*again, script=script, **environment))
    shutil.rmtree(temporary, ignore_errors=True)
    if code:
        return f"not resumed: {printed.strip().splitlines()[-1][:100]}"
    saved, rows = state(run_dir)
    return f"{fingerprint(saved)} {fingerprint(rows)} {HALVES if halves else ''}"


def torture(kills: int, writes: int, script: Path, folder: Path) -> Counter[str]:
    """``kills`` killed runs, ``writes`` of them within a write → how many ended how."""
    arguments = [
        *task(folder / f"images-{script.stem}"),
        f"callbacks.last.every_n_steps={SAVED_EVERY}",
        "callbacks=ema",
    ]
    began = time.monotonic()
    code, printed = finish(start(*arguments, f"run_dir={folder / script.stem}", script=script, OMP_NUM_THREADS="1"))
    if code:
        raise SystemExit(printed)
    seconds = time.monotonic() - began
    saved, rows = state(folder / script.stem)
    weights, metrics = fingerprint(saved), fingerprint(rows)
    counts: Counter[str] = Counter()
    with ThreadPoolExecutor(2) as pool:
        ends = pool.map(lambda n: one(n, n < writes, script, arguments, folder, 1.6 * seconds), range(kills))
        for number, end in enumerate(ends):
            same = (weights in end, metrics in end)
            outcome = {
                (True, True): SAME,
                (True, False): "the same weights, other rows",
                (False, True): "other weights, the same rows",
                (False, False): "other weights, other rows",
            }[same]
            outcome = end if end.startswith("not resumed") else outcome
            counts[outcome] += 1
            counts[HALVES] += end.endswith(HALVES)
            print(f"{script.stem} {number + 1}/{kills}: {outcome} {end[130:]}", flush=True)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--writes", type=int, default=20, help="how many of them within a checkpoint write")
    parser.add_argument("--only", choices=["train", "stock_lightning"])
    options = parser.parse_args()
    scripts = [script for script in (TRAIN, STOCK) if options.only in (None, script.stem)]
    with tempfile.TemporaryDirectory() as folder:
        counts = {script: torture(options.kills, options.writes, script, Path(folder)) for script in scripts}
    for script, found in counts.items():
        print(f"\n{script.name}: {options.kills} kills, {options.writes} of them within a checkpoint write")
        for outcome, count in found.most_common():
            print(f"  {count:3}  {outcome}")
    if (
        counts.get(TRAIN, Counter()).total()
        != counts.get(TRAIN, Counter())["the same weights, optimiser, EMA and rows"]
    ):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
