"""Kills the driver or a job of real sweeps at random moments, calls them again until they are done, and compares.

``make torture``: 20 sweeps of four trainings, two at a time, each with one or two SIGKILLs; what they find must equal
what an undisturbed sweep finds, no job may run twice, and no process may be left.
"""

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starts import BEGAN, STARTS
from torture import SAVED_EVERY, TRAIN, fingerprint, finish, start, state, task

from experiments.sweeps.ledger import pids_of

CELLS = ("optimizer.lr=1e-3,3e-3", "seed=0,1")
JOBS = tuple(str(number) for number in range(4))
SMALLER = ("model.num_layers", "trainer.max_steps")
CALLS = 6  # after the last kill, at most
START = 0.15  # of a sweep's seconds: no job has been started yet


def sweep(images: Path) -> list[str]:
    """A sweep of four small trainings."""
    return [
        "-m",
        *(part for part in task(images) if not part.startswith(SMALLER)),
        "model.num_layers=4",
        "trainer.max_steps=40",
        "data.num_workers=1",  # a second process in each job
        f"callbacks.last.every_n_steps={SAVED_EVERY}",
        "+callbacks.starts={_target_: starts.Starts}",
        *CELLS,
        "hydra.launcher.jobs=2",
        "hydra.launcher.threads=1",
    ]


def found(folder: Path) -> dict[str, list[str]]:
    """Job → hashes of its weights and generators, of its metrics and of its rows."""
    hashes = {}
    for job in JOBS:
        weights, metrics = state(folder / job)
        with (folder / job / "per_image.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        hashes[job] = [fingerprint(part) for part in (weights, metrics, rows)]
    return hashes


def left(folder: Path) -> list[int]:
    """The processes that work on a job of the sweep."""
    return [pid for job in JOBS for pid in pids_of(folder / job)]


def strike(driver: subprocess.Popen, folder: Path, draw: random.Random, seconds: float) -> str:
    """One SIGKILL within so many seconds → what it hit; nothing, if the sweep was over before."""
    kind = draw.choice(["driver", "driver at its start", "job", "job's first process", "driver and job"])
    if not wait(driver, draw.uniform(0, START if kind.endswith("start") else 1) * seconds):
        return ""
    if "job" in kind:
        while not (groups := [pids for job in JOBS if (pids := pids_of(folder / job))]):
            if not wait(driver, 0.01):
                return ""
        group = draw.choice(groups)
        for pid in group if kind == "job" else group[:1]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
    if "driver" in kind:
        driver.kill()
    finish(driver)
    return kind


def wait(process: subprocess.Popen, seconds: float) -> bool:
    """Whether a process still runs after so long."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    return process.poll() is None


def one(number: int, arguments: Sequence[str], folder: Path, seconds: float, whole: dict[str, Any]) -> tuple[str, str]:
    """A sweep with one or two kills that are drawn from its number → what was done to it, and its faults."""
    draw, kills = random.Random(number), list[str]()
    for part in (0.9, 0.5)[: draw.choice([1, 2])]:
        while not (hit := strike(start(*arguments, f"hydra.sweep.dir={folder}"), folder, draw, part * seconds)):
            if kills:  # the second comes too late
                break
            shutil.rmtree(folder)
        kills += [hit] if hit else []
    codes: list[int] = []
    printed = ""
    while (not codes or codes[-1] == 3) and len(codes) < CALLS:
        code, printed = finish(start(*arguments, f"hydra.sweep.dir={folder}"))
        codes.append(code)
    what = f"{', '.join(kills)}; then exit codes {', '.join(map(str, codes))}"
    if codes[-1]:
        return what, f"not done: {printed.strip().splitlines()[-1]}"
    return what, "; ".join(faults(folder, len(kills), whole))


def faults(folder: Path, kills: int, whole: dict[str, Any]) -> list[str]:
    """What is wrong with a sweep that is done."""
    wrong, here = [], found(folder)
    for job in JOBS:
        for name, a, b in zip(("weights", "metrics", "rows"), here[job], whole[job], strict=True):
            if a != b:
                wrong.append(f"job {job}: other {name}")
    for entry in json.loads((folder / "ledger.json").read_text())["jobs"].values():
        job, attempts = f"job {entry['number']}", entry["attempts"]
        starts = (folder / str(entry["number"]) / STARTS).read_text().splitlines()
        wrong += [f"{job} {line}" for line in starts if line != BEGAN]
        if not len(starts) <= attempts <= 1 + kills or entry["state"] != "done":
            wrong.append(f"{job}: {len(starts)} trainings, {attempts} attempts, {entry['state']}")
    time.sleep(0.5)  # the system takes a moment to clear away what was killed
    wrong += [f"process {pid} is left" for pid in left(folder)]
    wrong += [f"{path.relative_to(folder)} is left" for path in folder.rglob(".*.part*")]
    return wrong


def torture(sweeps: int, folder: Path, first: int = 0) -> int:
    """So many killed sweeps → how many end like the one that was left alone."""
    arguments, began = sweep(folder / "images"), time.monotonic()
    code, printed = finish(start(*arguments, f"hydra.sweep.dir={folder / 'whole'}"))
    if code:
        raise SystemExit(printed)
    seconds, whole, same = time.monotonic() - began, found(folder / "whole"), 0
    print(f"an undisturbed sweep takes {seconds:.0f} s", flush=True)
    for number in range(first, first + sweeps):
        what, wrong = one(number, arguments, folder / str(number), seconds, whole)
        same += not wrong
        print(f"{number:3}  {what}: {wrong or 'the same'}", flush=True)
    return same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweeps", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of the first, from which its kills are drawn")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        same = torture(options.sweeps, Path(folder), options.first)
    print(f"\n{same} of {options.sweeps} killed sweeps of {TRAIN.name} end like the one that was left alone")
    if same != options.sweeps:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
