"""What each axis of a sweep matters: its levels against each other, all else equal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import scipy.special

SEED = "seed"


@dataclass(frozen=True)
class Level:
    """What a value of an axis is worth.

    Attributes:
        effect: mean over the blocks of its score minus the block's mean, in the score's unit.
        ci95: half the width of the effect's 95 % confidence interval (Student's t over the blocks); None for one block.
    """

    name: str
    effect: float
    ci95: float | None


@dataclass(frozen=True)
class Axis:
    """An axis with its levels.

    Attributes:
        blocks: combinations of all other axes under which every level has a score: what the effects are means over.
        incomplete: combinations that lack a level, and are left out.
        p: that the levels are alike: the paired t test's for two levels, Friedman's for more; None for one block, or
            where nothing differs.
    """

    name: str
    levels: list[Level]
    blocks: int
    incomplete: int
    p: float | None

    @property
    def range(self) -> float:
        """From the worst level to the best."""
        found = [level.effect for level in self.levels]
        return max(found) - min(found)


def effects(cells: Sequence[Mapping[str, str]], scores: Sequence[float | None], axes: Sequence[str]) -> list[Axis]:
    """The marginal effect of each axis that has several levels and at least one complete block.

    Cells that are alike but for one axis are a block (a randomised block design), so that what the others do falls out.
    The seed is an axis like any other. This assumes that an axis does the same in all blocks: where it helps one
    network and harms another, the effect is the mean of both and the interval wide; interactions are not shown. Blocks
    count as independent draws, those that share a seed or a network too.

    Args:
        cells: axis → level of each cell; no two cells are alike.
        scores: of each cell; None where there is none.
        axes: whose effects are asked for; they make up the blocks, too.
    """
    found = []
    for axis in axes:
        levels = list(dict.fromkeys(cell[axis] for cell in cells))
        blocks: dict[tuple[str, ...], dict[str, float]] = {}
        for cell, score in zip(cells, scores, strict=True):
            block = blocks.setdefault(tuple(cell[other] for other in axes if other != axis), {})
            if score is not None:
                block[cell[axis]] = score
        complete = [[block[level] for level in levels] for block in blocks.values() if len(block) == len(levels)]
        if len(levels) > 1 and complete:
            shown = worth(levels, np.array(complete))
            found.append(Axis(axis, shown, len(complete), len(blocks) - len(complete), p_value(np.array(complete))))
    return found


def worth(levels: Sequence[str], scores: np.ndarray) -> list[Level]:
    """Each level's effect in complete blocks: scores [blocks, levels]."""
    n = len(scores)
    apart = scores - scores.mean(axis=1, keepdims=True)
    quantile = scipy.special.stdtrit(n - 1, 0.975) if n > 1 else np.nan
    half = quantile * apart.std(axis=0, ddof=min(1, n - 1)) / np.sqrt(n)
    return [
        Level(name, float(effect), float(ci95) if n > 1 else None)
        for name, effect, ci95 in zip(levels, apart.mean(axis=0), half, strict=True)
    ]


def p_value(scores: np.ndarray) -> float | None:
    """That the levels of complete blocks are alike, see :class:`Axis`: scores [blocks, levels]."""
    import scipy.stats  # a second that reports on other things need not wait

    apart = scores - scores[:, :1]
    if len(scores) < 2 or not apart.any():
        return None
    if scores.shape[1] > 2:
        return float(scipy.stats.friedmanchisquare(*scores.T).pvalue)
    return float(scipy.stats.ttest_rel(*scores.T).pvalue) if np.ptp(apart[:, 1]) else None


def spread_between_seeds(cells: Sequence[Mapping[str, str]], scores: Sequence[float | None]) -> float | None:
    """Standard deviation (n − 1) between cells that differ in the seed alone, pooled; None without such cells."""
    alike: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for cell, score in zip(cells, scores, strict=True):
        if score is not None and SEED in cell:
            key = tuple((axis, level) for axis, level in cell.items() if axis != SEED)
            alike.setdefault(key, []).append(score)
    groups = [group for group in alike.values() if len(group) > 1]
    squares = sum((score - fmean(group)) ** 2 for group in groups for score in group)
    return float(np.sqrt(squares / sum(len(group) - 1 for group in groups))) if groups else None


def sentence(found: Sequence[Axis], spread: float | None, unit: str, digits: int) -> str:
    """Which axis matters most, from its worst level to its best, beside the spread between seeds."""
    ranked = sorted((axis for axis in found if axis.name != SEED), key=lambda axis: axis.range, reverse=True)
    if not ranked:
        return "No axis has been tried with all its values under the same conditions yet."
    sizes = [f"{axis.range:.{digits}f}{unit}" for axis in ranked]
    worst, best = (pick(ranked[0].levels, key=lambda level: level.effect).name for pick in (min, max))
    told = [f"{ranked[0].name} matters most: {sizes[0]} from {worst} to {best}"]
    told += [f"{axis.name} {size}" for axis, size in zip(ranked[1:], sizes[1:], strict=True)]
    if spread is None:
        return f"{'; '.join(told)}. How much seeds differ is unknown: no cell has been run with several."
    more = ", which is more" if spread > ranked[0].range else ""
    return f"{'; '.join(told)}. Seeds differ by {spread:.{digits}f}{unit} (standard deviation){more}."
