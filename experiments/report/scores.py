"""From rows to tables: conditions, means with their spread, and which images came out best and worst."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from experiments.report.study import Method, Row, Score

METRICS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "lpips": "LPIPS", "seconds": "seconds"}
LESS_IS_BETTER = ("lpips", "seconds")


@dataclass(frozen=True)
class Condition:
    """What a number holds under; ``level`` is σ on the 0–255 scale as text, a range where it varies over images."""

    set: str
    noise: str
    level: str
    protocol: str

    @property
    def noisy(self) -> str:
        shown = f"σ\u00a0=\u00a0{self.level}" if self.level and self.noise != "none" else ""
        return f"{self.noise} ({shown})" if self.noise and shown else self.noise or shown or "as it comes"

    def __str__(self) -> str:
        return f"{self.set} · noise {self.noisy} · protocol {self.protocol or 'not stated'}"


@dataclass
class Case:
    """One image under one condition: method number → its rows (several seeds or realisations)."""

    condition: Condition
    image: str
    rows: dict[int, list[Row]] = field(default_factory=dict)

    def score(self, method: int, column: str) -> Score:
        """A method's mean over seeds and realisations."""
        return mean(row.scores.get(column) for row in self.rows.get(method, []))

    def baseline(self, column: str) -> Score:
        """A baseline's score, which stands in every method's rows."""
        return next((value for m in self.rows if (value := self.score(m, column)) is not None), None)


def cases(methods: Sequence[Method]) -> list[Case]:
    """Every image under every condition, in the order of the rows."""
    found: dict[tuple[Condition, str], Case] = {}
    for number, method in enumerate(methods):
        levels = level_texts(method.rows)
        for row in method.rows:
            condition = Condition(row.set, row.noise, levels[id(row)], row.protocol)
            case = found.setdefault((condition, row.image), Case(condition, row.image))
            case.rows.setdefault(number, []).append(row)
    order = list(dict.fromkeys(condition for condition, _ in found))
    return sorted(found.values(), key=lambda case: order.index(case.condition))


def level_texts(rows: Sequence[Row]) -> dict[int, str]:
    """Row id → the level its condition states: its own where images were measured at several, else that of all."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.folder, row.set, row.noise, row.protocol), []).append(row)
    texts = {}
    for group in groups.values():
        seen = {(row.image, row.realisation, row.level) for row in group}
        several = len(seen) > len({(row.image, row.realisation) for row in group})
        levels = sorted({round(row.level, 2) for row in group if row.level is not None})
        whole = "–".join(dict.fromkeys(f"{level:g}" for level in (levels[:1] + levels[-1:])))
        for row in group:
            own = "" if row.level is None else f"{round(row.level, 2):g}"
            texts[id(row)] = own if several else whole
    return texts


def mean(values: Iterable[Score]) -> Score:
    """The mean of the numbers; without any, the reason why there are none."""
    given = [value for value in values if value is not None]
    numbers = [value for value in given if not isinstance(value, str)]
    return fmean(numbers) if numbers else next((value for value in given), None)


def spread(cases: Sequence[Case], method: int, column: str) -> float | None:
    """Standard deviation of a method's mean over its trainings or, where there is one, over noise realisations."""
    rows = [row for case in cases for row in case.rows.get(method, [])]
    trainings = {row.folder for row in rows}
    units: dict[object, list[float]] = {}
    for row in rows:
        value = row.scores.get(column)
        if isinstance(value, float) and math.isfinite(value):
            units.setdefault(row.folder if len(trainings) > 1 else row.realisation, []).append(value)
    equal = len({len(values) for values in units.values()}) == 1
    return stdev(fmean(values) for values in units.values()) if len(units) > 1 and equal else None


def baselines(cases: Sequence[Case]) -> list[str]:
    """The names in front of ``_psnr``: noisy first, then what was scored beside the network."""
    columns = dict.fromkeys(c for case in cases for rows in case.rows.values() for c in rows[0].scores)
    return [column.removesuffix("_psnr") for column in columns if column.endswith("_psnr")]


def known(cases: Sequence[Case], column: str) -> bool:
    """Whether any method has something to say about a metric."""
    return any(case.score(method, column) is not None for case in cases for method in case.rows)


def ranking(cases: Sequence[Case], method: int) -> list[int]:
    """The cases' numbers from a method's worst PSNR to its best."""
    scored = [(value, n) for n, case in enumerate(cases) if isinstance(value := case.score(method, "psnr"), float)]
    return [n for _, n in sorted(scored)]


def leader(cases: Sequence[Case]) -> int | None:
    """The method of the highest mean PSNR over the images that most methods have; None without any PSNR."""
    means: dict[int, tuple[int, float]] = {}
    for method in dict.fromkeys(m for case in cases for m in case.rows):
        values = [v for case in cases if isinstance(v := case.score(method, "psnr"), float)]
        if values:
            means[method] = len(values), fmean(values)
    return max(means, key=lambda method: means[method]) if means else None


def different_noise(methods: Sequence[Method], cases: Sequence[Case]) -> list[str]:
    """A warning for each pair of methods whose noisy images were not the same."""
    counts: dict[tuple[int, int], int] = {}
    for case in cases:
        first, *others = case.rows
        reference = case.score(first, "noisy_psnr")
        for other in others:
            value = case.score(other, "noisy_psnr")
            if isinstance(reference, float) and isinstance(value, float) and abs(reference - value) > 1e-3:
                counts[first, other] = counts.get((first, other), 0) + 1
    return [
        f"{methods[a].label} and {methods[b].label} did not see the same noise: the PSNR of the noisy image differs "
        f"on {n} of the images, so their scores compare noise as well"
        for (a, b), n in counts.items()
    ]
