"""What is searched: key → where its values come from, read from what is typed."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from experiments.cli import UserError


def of(parsed: Sequence[Override]) -> dict[str, Any]:
    """Key → Optuna's distribution, for every key with several values, a range or an interval."""
    return {str(one.get_key_element()): distribution(one) for one in parsed if one.is_sweep_override()}


def distribution(override: Override) -> Any:
    """Where the values of a key come from: an interval, a range, or some values, as they are typed."""
    from optuna import distributions

    swept: Any = override.value()
    if isinstance(swept, IntervalSweep):
        whole = isinstance(swept.start, int) and isinstance(swept.end, int)
        kind: Any = distributions.IntDistribution if whole else distributions.FloatDistribution
        return kind(swept.start, swept.end, log="log" in swept.tags)
    if isinstance(swept, RangeSweep) and not swept.shuffle:
        values = list(swept.range())
        kind = distributions.IntDistribution if isinstance(values[0], int) else distributions.FloatDistribution
        return kind(values[0], values[-1], step=swept.step)
    return distributions.CategoricalDistribution(list(override.sweep_string_iterator()))


def ends(distribution: Any) -> list[Any]:
    """The values that are looked at before any job starts."""
    return list(getattr(distribution, "choices", None) or [distribution.low, distribution.high])


def probe(space: Mapping[str, Any], compose: Callable[[Sequence[str], str], Any]) -> None:
    """Composes a cell with each end of each distribution.

    Raises:
        UserError: some cannot work; all are named.
    """
    first = {key: ends(one)[0] for key, one in space.items()}
    wrong: dict[str, None] = {}
    for key, one in space.items():
        for end in ends(one):
            words = [f"{k}={v}" for k, v in (first | {key: end}).items()]
            try:
                compose(words, "")
            except UserError as error:
                wrong[f"  {key}={end}: {error}"] = None
    if wrong:
        raise UserError("nothing was started, for some values cannot work:\n" + "\n".join(wrong))


def grid(space: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination.

    Raises:
        UserError: one of the keys has infinitely many values.
    """
    axes = []
    for key, one in space.items():
        if hasattr(one, "choices"):
            axes.append(list(one.choices))
        elif one.step is None or one.log:
            raise UserError(f"{key}: a grid wants values or a range(from,to,step); an interval has no end of them")
        else:
            axes.append([one.low + i * one.step for i in range(round((one.high - one.low) / one.step) + 1)])
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*axes)]
