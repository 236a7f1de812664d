"""What a report is about, whichever folder it came from: methods, their rows, and where each came from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.sources import Source

Score = float | str | None  # a number, the reason why there is none, or not applicable
TIMES = ("cpu_ms", "gpu_ms", "train_seconds", "wall_seconds")


@dataclass(frozen=True)
class Row:
    """One estimate of one image.

    Attributes:
        level: σ on the 0–255 scale.
        folder: whose ``pictures`` show it.
        seed: of the training.
        scores: column → value: ``psnr``, ``noisy_psnr``, ``seconds``, ….
    """

    image: str
    set: str
    noise: str
    protocol: str
    level: float | None
    realisation: str
    folder: Path
    scores: dict[str, Score]
    seed: Any = None

    @property
    def pictures(self) -> Path:
        return self.folder / "pictures" / "test" / self.set.replace("/", "__") / self.image.replace("/", "__")


@dataclass
class Curve:
    """A training's quantities → steps and values, thinned; ``run`` is its folder."""

    label: str
    series: dict[str, tuple[list[float], list[float]]]
    run: Path


@dataclass
class Method:
    """What is compared: a network as it was trained, or a classical method, with all its rows.

    Attributes:
        costs: ``parameters``, ``macs``, ``cpu_ms``, …; absent or None where unknown.
    """

    label: str
    trained: str = ""
    seeds: list[Any] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    costs: dict[str, Score] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)


@dataclass(frozen=True)
class Cell:
    """A table's cell: what is read, what it is sorted by, and whether it is the best of its column."""

    text: str
    value: float | None = None
    best: bool = False


@dataclass
class Table:
    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""


@dataclass
class Study:
    """Everything a report shows.

    Attributes:
        kind: run, evaluation, comparison or collection.
        figures: title → picture file.
        warnings: what a reader must know before any number.
        facts: provenance of the whole: hardware, versions, commit.
    """

    title: str
    kind: str
    folder: Path
    description: str = ""
    methods: list[Method] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[tuple[str, Path]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
