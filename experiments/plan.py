"""Carries out a comparison preset: trains and evaluates what is not done yet, each in a process of its own."""

import itertools
import logging
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import resume
from experiments.cli import CONF, UserError
from experiments.signals import Interrupted
from experiments.sweeps.work import Work

log = logging.getLogger(__name__)
TRAIN = (str(CONF.parent / "train.py"),)
EVALUATE = ("-m", "experiments.evaluate")


def carry_out(preset: Mapping[str, Any], folder: Path, root: str) -> list[Path]:
    """The folders of the evaluations that a preset lists, below ``runs/`` and ``evaluations/`` of its own folder.

    Args:
        preset: ``methods`` (name → overrides to ``train`` it or to ``evaluate`` it, or None; see :func:`expanded`),
            ``training`` (overrides of every training), ``seeds``, and ``cases`` (overrides of every evaluation).
        folder: of the comparison. What it holds already is kept, what was interrupted goes on.
        root: where named data sets lie.

    Raises:
        UserError: a training or an evaluation has failed, or was made with something else.
    """
    evaluations, at = [], f"data_root={resume.quoted(Path(root))}"
    for name, method in expanded(preset["methods"]).items():
        for seed in preset["seeds"] if "train" in method else [None]:
            place = name if seed is None else f"{name}-{seed}"
            what = method.get("evaluate", [])
            if "train" in method:
                run = folder / "runs" / place
                done(TRAIN, run, [*preset["training"], *method["train"], f"seed={seed}", at])
                what = [f"checkpoint={resume.quoted(run)}"]
            for number, case in enumerate(preset["cases"]):
                target = folder / "evaluations" / f"{place}-{number}"
                done(EVALUATE, target, [*what, *case, at])
                evaluations.append(target)
    return evaluations


def expanded(methods: Mapping[str, Any]) -> dict[str, Any]:
    """The methods that are not None, each that has a ``grid`` (key → values) as one method for each combination."""
    found: dict[str, Any] = {}
    for name, method in ((name, dict(method)) for name, method in methods.items() if method):
        grid = method.pop("grid", {})
        for values in itertools.product(*grid.values()):
            chosen = [f"{key}={value}" for key, value in zip(grid, values, strict=True)]
            found["-".join([name, *map(str, values)])] = {verb: [*typed, *chosen] for verb, typed in method.items()}
    return found


def evaluated(checkpoint: Path, case: Sequence[str], folder: Path, root: str) -> Path:
    """The folder of a checkpoint file's evaluation."""
    target = folder / "evaluations" / "-".join(checkpoint.with_suffix("").parts[-3:])
    at = f"data_root={resume.quoted(Path(root))}"
    done(EVALUATE, target, [f"checkpoint={resume.quoted(checkpoint)}", *case, at])
    return target


def done(verb: Sequence[str], folder: Path, overrides: Sequence[str]) -> None:
    """Runs a verb into a folder, unless it has been done there; what it prints is seen.

    Raises:
        UserError: it failed, or the folder holds the result of other overrides.
    """
    started, asked = resume.started_with(folder), {resume.key_of(override): override for override in overrides}
    if any(started.get(key) != asked.get(key) for key in {**started, **asked} if started and key != "data_root"):
        raise UserError(
            f"{folder} was made with {' '.join(started.values())}\n  and this asks for {' '.join(overrides)}:\n"
            "  choose another run_dir, or remove that folder"
        )
    if (folder / "summary.json").exists():
        log.info(f"done already: {folder}")
        return
    command = Work(verb, overrides, folder).command()
    log.info(f"--- {' '.join(command[1:])}")
    # in a group of its own, so that Ctrl-C reaches it once, from here, and it ends in good order
    process = subprocess.Popen(command, process_group=0)
    try:
        code = process.wait()
    except Interrupted as end:
        process.send_signal(end.number)
        process.wait()
        raise
    if code:
        raise UserError(f"that ended with exit code {code}; when it is mended, the same command goes on from there")
