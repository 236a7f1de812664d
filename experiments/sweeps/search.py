"""A search among the combinations of a sweep: Optuna says which cells come next, and which have no prospects.

The study lies beside the ledger, on disk. A trial is a cell like any other: called again, the search goes on with the
trials that had not ended, and a combination that is done is not run a second time.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.types import HydraContext
from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments import tables
from experiments.cli import UserError, did_you_mean
from experiments.sweeps import driver, progress, space
from experiments.sweeps.cells import cell
from experiments.sweeps.ledger import Cell
from experiments.sweeps.pool import Engine, Pool

log = logging.getLogger(__name__)
STUDY = "study.journal"
RESULT = "search.json"
SHOWN = 5  # trials in the table at the end


@dataclass
class Search:
    """What asks a study for cells, tells it of their ends, and prunes.

    Args:
        study: Optuna's.
        space: key → distribution.
        objectives: name → direction; a name is a column of metrics.csv, of which the best value counts, or a key of
            summary.json.
        compose: overrides of the searched keys, title → cell.
        limit: how many trials there are to be.
        known: the cells so far.
    """

    study: Any
    space: dict[str, Any]
    objectives: Mapping[str, str]
    compose: Callable[[Sequence[str], str], Cell]
    limit: int
    known: list[Cell]
    trials: dict[str, list[Any]] = field(default_factory=dict)  # fingerprint → those that wait for its end
    reported: dict[str, int] = field(default_factory=dict)  # fingerprint → the step that was reported last

    def cells(self, pool: Pool) -> Iterator[Cell]:
        """Those that had not ended, then what the study asks for, each when there is a place for it."""
        from optuna.trial import Trial, TrialState

        for frozen in self.study.get_trials(states=(TrialState.RUNNING,)):
            yield from self.taken(Trial(self.study, frozen._trial_id), pool)
        while len(self.study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING))) < (
            self.limit
        ):
            if sum(trial.state == TrialState.FAIL for trial in self.study.trials) >= 2 * self.limit:
                return  # nothing works here
            yield from self.taken(self.study.ask(self.space), pool)

    def taken(self, trial: Any, pool: Pool) -> Iterator[Cell]:
        """The cell of a trial, if it has to be run."""
        from optuna.trial import TrialState

        words = [f"{key}={shown(trial.params[key])}" for key in self.space]
        try:
            one = self.compose(words, " ".join(words))
        except UserError as error:
            log.info(f"trial {trial.number} cannot run: {' '.join(words)}: {error}")
            self.study.tell(trial, state=TrialState.FAIL)
            return
        self.trials.setdefault(one.fingerprint, []).append(trial)
        known = self.study.trials[trial.number].intermediate_values
        self.reported.setdefault(one.fingerprint, max(known, default=-1))
        if len(self.trials[one.fingerprint]) > 1:
            return  # it is at work already
        if one not in self.known:
            self.known.append(one)
        pool.ledger.add([one])
        if pool.ledger.state(one) in ("done", "pruned"):
            self.ended(one, pool)
        else:
            yield one

    def ended(self, one: Cell, pool: Pool) -> None:
        """Tells the study what has become of a cell."""
        from optuna.trial import TrialState

        if len(self.objectives) == 1:
            self.report(one, pool)
        state = pool.ledger.state(one)
        folder = pool.ledger.folder_of(one)
        values = [value(folder, name, way) for name, way in self.objectives.items()] if state == "done" else None
        other = TrialState.PRUNED if state == "pruned" else TrialState.FAIL
        for trial in self.trials.pop(one.fingerprint):
            self.study.tell(trial, values, **({} if values else {"state": other}))

    def watch(self, pool: Pool) -> None:
        """Ends the jobs that the study has no hope for."""
        for one, _ in list(pool.running.values()):
            new = self.report(one, pool)
            if new and one.fingerprint not in pool.fates and self.trials[one.fingerprint][0].should_prune():
                pool.prune(one)

    def report(self, one: Cell, pool: Pool) -> bool:
        """Tells the study of a cell's validations; whether there were new ones."""
        [name] = self.objectives
        _, points = progress.read(pool.ledger.folder_of(one), name)
        new = [(step, found) for step, found in points if step > self.reported[one.fingerprint]]
        for step, found in new:
            self.reported[one.fingerprint] = step
            for trial in self.trials[one.fingerprint]:
                trial.report(found, step)
        return bool(new)


def run(
    context: HydraContext,
    config: DictConfig,
    engine: Callable[[Path], Engine],
    parsed: Sequence[Override],
    search: DictConfig,
) -> None:
    """Searches.

    Args:
        context: Hydra's, of the sweep.
        config: of the sweep.
        engine: makes the engine of a sweep's folder.
        parsed: what is typed; keys with several values, ``range()`` and ``interval()`` are searched.
        search: ``trials``, ``objectives``, ``sampler`` (None: every combination), ``pruner`` (None: none).

    Raises:
        UserError: Optuna is missing, nothing is searched, a value cannot work, or the folder holds another search.
    """
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise UserError("hparams_search wants Optuna: pip install -e '.[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    searched = space.of(parsed)
    fixed = [override.input_line or "" for override in parsed if not override.is_sweep_override()]
    fixed = [word for word in fixed if not word.startswith("hydra")]
    if not searched:
        raise UserError("nothing to search: give a key several values, such as optimizer.lr='interval(1e-4,1e-2)'")
    objectives: dict[str, str] = dict(search.objectives)
    if wrong := [f"{name}: {way}" for name, way in objectives.items() if way not in ("maximize", "minimize")]:
        raise UserError(f"hydra.sweeper.search.objectives: {wrong[0]}: must be maximize or minimize")
    ways: Any = list(objectives.values())
    if search.pruner is not None and len(objectives) > 1:
        raise UserError("Optuna prunes with one objective alone: hydra.sweeper.search.pruner=null")

    def compose(words: Sequence[str], title: str) -> Cell:
        return cell(context, config, [*fixed, *words], title)

    space.probe(searched, compose)
    combinations = space.grid(searched) if search.sampler is None else []
    known: list[Cell] = []
    with driver.at_work(config, engine, known) as pool:
        storage = JournalStorage(JournalFileBackend(str(pool.ledger.folder / STUDY)))
        study = optuna.create_study(study_name="search", storage=storage, directions=ways, load_if_exists=True)
        if list(study.user_attrs.get("objectives", objectives)) != list(objectives):
            raise UserError(
                f"{pool.ledger.folder} holds a search for {', '.join(study.user_attrs['objectives'])}, and this one is "
                f"for {', '.join(objectives)}: choose another folder, hydra.sweep.dir=DIR"
            )
        study.set_user_attr("objectives", list(objectives))
        if search.sampler is not None:  # it would begin with the same draws again
            options = {"seed": search.sampler.seed + len(study.trials)} if "seed" in search.sampler else {}
            study.sampler = instantiate(search.sampler, **options)
        study.pruner = optuna.pruners.NopPruner() if search.pruner is None else instantiate(search.pruner)
        for params in combinations:
            study.enqueue_trial(params, skip_if_exists=True)
        again(study, pool, compose)
        hunt = Search(study, searched, objectives, compose, len(combinations) or search.trials, known)
        pool.heirs.append(lambda one: hunt.ended(one, pool))
        if search.pruner is not None:
            pool.watchers.append(lambda: hunt.watch(pool))
        pool.run(hunt.cells(pool))
        conclude(study, objectives, pool, fixed)


def again(study: Any, pool: Pool, compose: Callable[[Sequence[str], str], Cell]) -> None:
    """Puts the combinations whose jobs had failed at the head of what comes next."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.FAIL,)):
        words = [f"{key}={shown(value)}" for key, value in trial.params.items()]
        entry = pool.ledger.entries.get(compose(words, "").fingerprint)
        if entry is not None and entry.state == "failed":
            study.enqueue_trial(trial.params, skip_if_exists=False)


def shown(value: Any) -> str:
    """A value as people read it, and as it is tried: with five digits."""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def value(folder: Path, name: str, way: str) -> float:
    """What a finished run has reached.

    Raises:
        UserError: it does not say.
    """
    if "/" in name:
        _, points = progress.read(folder, name)
        if points:
            return (max if way == "maximize" else min)(found for _, found in points)
    summary = json.loads((folder / "summary.json").read_text())
    if not isinstance(summary.get(name), int | float):
        numbers = [key for key, found in summary.items() if isinstance(found, int | float)]
        raise UserError(
            f"hydra.sweeper.search.objectives: {folder} has no {name!r}{did_you_mean(name, numbers)}\n  choices: "
            f"columns of metrics.csv, such as val/psnr, and {', '.join(numbers)}"
        )
    return float(summary[name])


def conclude(study: Any, objectives: Mapping[str, str], pool: Pool, fixed: Sequence[str]) -> None:
    """Prints the best trials, and writes all of them down."""
    from optuna.trial import TrialState

    from datamodules.files import write_text

    complete = study.get_trials(states=(TrialState.COMPLETE,))
    if not complete:
        return
    front = {trial.number for trial in study.best_trials}
    way = next(iter(objectives.values()))
    complete.sort(key=lambda trial: trial.values[0], reverse=way == "maximize")
    best = [trial for trial in complete if trial.number in front] if len(objectives) > 1 else complete[:SHOWN]
    keys = list(best[0].params)
    rows = [[str(t.number), *map(shown, t.values), *(shown(t.params[key]) for key in keys)] for t in best]
    title = "No trial is better in all objectives" if len(objectives) > 1 else f"The best of {len(study.trials)} trials"
    tables.Table(title, ["trial", *objectives, *keys], rows).show()
    words = [word for word in fixed if not word.startswith("hparams_search=")]
    log.info(f"  python train.py {' '.join([*words, *(f'{key}={shown(best[0].params[key])}' for key in keys)])}")
    trials = [
        {"number": t.number, "state": t.state.name.lower(), "params": t.params, "values": t.values}
        | {"best": t.number in front}
        for t in study.trials
    ]
    write_text(pool.ledger.folder / RESULT, json.dumps({"objectives": dict(objectives), "trials": trials}, indent=1))
