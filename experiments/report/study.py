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
class SweepCell:
    """One combination of a sweep.

    Attributes:
        number: the name of its folder.
        levels: axis → value.
        reason: of a failure.
        step, val_psnr: the last that it has logged.
        scores: set and metric (``psnr``, ``ssim``) → mean over the images.
        seconds: that it took; None while it is not done.
        curves: of its training; none before it has logged any.
    """

    number: int
    levels: dict[str, str]
    state: str
    reason: str
    step: int
    val_psnr: float | None
    scores: dict[tuple[str, str], float]
    seconds: float | None
    source: Source
    curves: list[Curve]


@dataclass
class Sweep:
    """A sweep, finished or not.

    Attributes:
        axes: its keys, and the values of each in the order in which they were typed.
        metrics: the sets and metrics that any cell has scores of.
        shown: numbers of the cells whose pictures are shown, as the study's methods are; the best of all first.
        followed: whether the report is written again while the sweep runs.
    """

    axes: dict[str, list[str]]
    cells: list[SweepCell]
    metrics: list[tuple[str, str]]
    shown: list[int] = field(default_factory=list)
    followed: bool = False


@dataclass
class Study:
    """Everything a report shows.

    Attributes:
        kind: run, evaluation, comparison, collection or sweep.
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
    sweep: Sweep | None = None

    @property
    def sources(self) -> list[tuple[str, Source]]:
        """Every folder with whose it is: of a sweep, all cells that have begun."""
        if self.sweep is not None:
            return [(f"cell {cell.number}", cell.source) for cell in self.sweep.cells if cell.source.config]
        return [(method.label, source) for method in self.methods for source in method.sources]
