"""Folders of results: training runs and evaluations, what was chosen for each, and what that makes a method called."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from experiments import resume
from experiments.cli import UserError

TRAINING = ("data", "objective", "loss", "optimizer", "scheduler")  # axes of a training beside the model and the noise
METRICS = ("psnr", "ssim", "lpips")  # of a row
FILES = ("summary.json", "per_image.csv")


@dataclass(frozen=True)
class Source:
    """A training run or an evaluation.

    Attributes:
        folder: where it lies.
        kind: ``run`` or ``evaluation``.
        summary: what ``summary.json`` says; empty while there is none.
        config: the text of ``config.yaml``.
        run: the folder of the training behind it, if that is known.
        attributes: what was chosen, key → text: ``model``, ``trained`` (its noise), the training's other axes, the
            checkpoint, and what was typed for the model and the training.
        written: the day of its summary; empty as long as there is no folder.
    """

    folder: Path
    kind: str
    summary: dict[str, Any]
    config: str
    run: Path | None
    attributes: dict[str, str]
    written: str

    @property
    def seed(self) -> int | None:
        """Of the training."""
        return self.summary.get("seed")


def load_json(path: Path) -> Any:
    """What a JSON file holds; nothing if there is none.

    Raises:
        UserError: it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error


def below(path: Path, files: Sequence[str]) -> Iterator[Path]:
    """The folders at and below a path with such files, in the order of their names; 10 comes after 9."""
    for where, folders, names in os.walk(path):
        folders.sort(key=lambda name: (len(name), name) if name.isdigit() else (0, name))
        if set(files) <= set(names):
            yield Path(where)


def find(paths: Iterable[Path]) -> list[Source]:
    """The finished runs and evaluations at and below the paths, each once, in their order.

    Raises:
        UserError: a path without any.
    """
    folders: dict[Path, None] = {}
    for path in paths:
        if not (found := list(below(path.resolve(), FILES))):
            raise UserError(
                f"{path}: no results there; looked for {' and '.join(FILES)}, which train.py and experiments.evaluate "
                "write when they have ended"
            )
        folders |= dict.fromkeys(found)
    return [read(folder) for folder in folders]


def read(folder: Path) -> Source:
    """The run or evaluation in a folder, finished or not."""
    summary = load_json(folder / "summary.json")
    summary = summary if isinstance(summary, dict) else {}
    path = folder / "config.yaml"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    told = next((file for file in (folder / "summary.json", path) if file.is_file()), folder)
    written = datetime.fromtimestamp(told.stat().st_mtime, UTC).strftime("%Y-%m-%d") if told.exists() else ""
    if summary.get("kind") != "evaluation":
        axes = summary.get("axes") or axes_of(folder)
        attributes = {"model": str(axes.get("model") or summary.get("name") or folder.resolve().name)}
        attributes |= {"trained": axes["noise"]} if axes.get("noise") else {}
        return Source(folder, "run", summary, text, folder, attributes | training(folder, axes), written)
    attributes = {key: str(summary[key]) for key in ("model", "trained") if summary.get(key)}
    run = None
    if checkpoint := summary.get("checkpoint"):
        run = Path(checkpoint).resolve().parent.parent
        run = run if (run / "config.yaml").is_file() else None
    attributes |= (training(run, axes_of(run)) if run else {}) | typed(folder)
    if checkpoint:
        attributes["checkpoint"] = Path(checkpoint).stem if run else checkpoint
    return Source(folder, "evaluation", summary, text, run, attributes, written)


def axes_of(run: Path) -> dict[str, str]:
    """The axes that a run's configuration names."""
    path = run / "config.yaml"
    config: Any = OmegaConf.load(path) if path.is_file() else {}
    return dict(config.get("axes") or {})


def training(run: Path, axes: dict[str, str]) -> dict[str, str]:
    """What was chosen for a training, beside its model and noise."""
    return {"checkpoint": "best"} | {key: axes[key] for key in TRAINING if key in axes} | typed(run)


def typed(folder: Path) -> dict[str, str]:
    """The values on a command line that decide the result; not those of the images, the noise and the protocol."""
    overrides = (override.lstrip("+~").partition("=") for override in resume.started_with(folder).values())
    return {
        key: value
        for key, _, value in overrides
        if "." in key
        and not any(f"{key}.".startswith(f"{harmless}.") for harmless in resume.HARMLESS)
        and not key.startswith(("data.", "noise.", "protocol.", "hydra."))
    }


def labels(sources: Sequence[Source]) -> list[str]:
    """A method's name for each source: its model, and what tells it from others of the same model, seeds aside."""
    names = []
    for one in sources:
        rivals = [other.attributes for other in sources if other.attributes["model"] == one.attributes["model"]]
        keys = dict.fromkeys(key for rival in rivals for key in rival)
        telling = [key for key in keys if len({rival.get(key) for rival in rivals}) > 1 and key in one.attributes]
        parts = [
            f"{key.rpartition('.')[2]}={one.attributes[key]}" if "." in key else one.attributes[key] for key in telling
        ]
        names.append(" ".join([one.attributes["model"], *parts]))
    return names
