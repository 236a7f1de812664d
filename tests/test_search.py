"""Searches among a sweep's combinations: what is asked, told, pruned, and gone on with."""

import json

import pytest
from command_line import call, command
from conftest import ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser
from test_sweep import QUICK, at

import train
from experiments.cli import UserError
from experiments.sweeps import local, pool, search, space
from experiments.sweeps.ledger import Cell, opened

optuna = pytest.importorskip("optuna")
JOB = str(ROOT / "tests" / "search_job.py")
PSNR = {"val/psnr": "maximize"}


def read(*words):
    return space.of(OverridesParser.create().parse_overrides(list(words)))


def storage(folder):
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "study.journal")))


def hunt(folder, words, *, trials=6, objectives=PSNR, sampler=None, pruner=None, jobs=1, enqueued=()):
    """A study after a search with jobs of search_job.py."""
    study = optuna.create_study(
        storage=storage(folder),
        study_name="s",
        directions=list(objectives.values()),
        load_if_exists=True,
        sampler=sampler,
    )
    study.pruner = pruner or optuna.pruners.NopPruner()
    for params in enqueued:
        study.enqueue_trial(params)
    found = search.Search(
        study, read(*words), objectives, lambda w, title: Cell(tuple(w), title or " ".join(w), title, None), trials, []
    )
    (folder / "s").mkdir(exist_ok=True)
    with opened(folder / "s", [JOB], ["x"]) as ledger:
        one = pool.Pool(ledger, local.Machine(local.places(jobs, 1, 1, 1), None))
        search.again(study, one, found.compose)
        one.heirs.append(lambda cell: found.ended(cell, one))
        if pruner:
            one.watchers.append(lambda: found.watch(one))
        one.run(found.cells(one))
    return study, {entry.overrides[0]: entry for entry in ledger.entries.values()}


def states(study):
    return [trial.state.name for trial in study.trials]


def test_what_is_typed_says_where_values_come_from():
    found = read("a.b=interval(1,5)", "c=tag(log,interval(1e-4,1e-2))", "+d=range(2,9,3)", "e=l1,mse", "f=3")
    assert list(found) == ["a.b", "c", "+d", "e"]
    assert (found["a.b"].low, found["a.b"].high, found["a.b"].log) == (1, 5, False)
    assert found["c"].log
    assert (found["+d"].low, found["+d"].high, found["+d"].step) == (2, 8, 3)
    assert found["e"].choices == ("l1", "mse")


def test_a_grid_is_every_combination():
    assert space.grid(read("x=range(0,3)", "e=a,b")) == [{"x": x, "e": e} for x in (0, 1, 2) for e in ("a", "b")]
    with pytest.raises(UserError, match="x: a grid wants values"):
        space.grid(read("x=interval(0,3)"))


def test_the_values_that_a_run_has_reached_are_its_best_and_those_of_its_summary(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,val/psnr,val/loss\n1,20,3\n5,25,1\n9,24,2\n,,")
    (tmp_path / "summary.json").write_text(json.dumps({"train_seconds": 7.5}))
    assert search.value(tmp_path, "val/psnr", "maximize") == 25
    assert search.value(tmp_path, "val/loss", "minimize") == 1
    assert search.value(tmp_path, "train_seconds", "minimize") == 7.5
    with pytest.raises(UserError, match="no 'train_second'; did you mean train_seconds"):
        search.value(tmp_path, "train_second", "minimize")


def test_a_search_finds_the_best_and_is_no_longer_than_asked(tmp_path):
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=4)
    study, entries = hunt(tmp_path, ["x=range(1,8)"], trials=12, sampler=sampler)
    assert states(study) == ["COMPLETE"] * 12
    assert study.best_value == pytest.approx(30.03)  # the best of a run's validations
    assert study.best_params == {"x": 3}
    assert len(entries) <= 7  # a combination is one cell however often it is asked for
    assert all(entry.attempts == 1 for entry in entries.values())
    again, _ = hunt(tmp_path, ["x=range(1,8)"], trials=12)
    assert len(again.trials) == 12


def test_several_objectives_leave_a_front(tmp_path):
    ways = PSNR | {"train_seconds": "minimize"}
    study, _ = hunt(tmp_path, ["x=1,2,3,5"], trials=4, objectives=ways, enqueued=[{"x": x} for x in "1235"])
    assert sorted(trial.params["x"] for trial in study.best_trials) == ["1", "2", "3"]


def test_what_fails_is_told_and_is_run_again_by_the_same_command(tmp_path):
    study, entries = hunt(tmp_path, ["x=0,3"], trials=1, enqueued=[{"x": "0"}, {"x": "3"}])
    assert states(study) == ["FAIL", "COMPLETE"]
    assert [entry.state for entry in entries.values()] == ["failed", "done"]
    (tmp_path / "s" / "mended").touch()
    study, entries = hunt(tmp_path, ["x=0,3"], trials=2)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert [(entry.state, entry.attempts) for entry in entries.values()] == [("done", 2), ("done", 1)]


def test_a_search_in_which_nothing_works_comes_to_an_end(tmp_path):
    study, _ = hunt(tmp_path, ["x=0,0.0"], trials=2)
    assert set(states(study)) == {"FAIL"}


def test_a_trial_that_had_not_ended_is_gone_on_with_first(tmp_path):
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.journal"))
    )
    study = optuna.create_study(storage=storage, study_name="s", direction="maximize")
    study.enqueue_trial({"x": "2"})
    study.ask(read("x=1,2,3"))  # and then the search was killed
    study, entries = hunt(tmp_path, ["x=1,2,3"], trials=1)
    assert states(study) == ["COMPLETE"]
    assert list(entries) == ["x=2"]


def test_a_trial_without_prospects_is_ended_early(tmp_path):
    pruner = optuna.pruners.MedianPruner(n_startup_trials=2)
    enqueued = [{"x": x} for x in "329"]
    study, entries = hunt(tmp_path, ["x=2,3,9"], trials=3, pruner=pruner, enqueued=enqueued)
    assert states(study) == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert [entry.state for entry in entries.values()] == ["done", "done", "pruned"]
    assert not (tmp_path / "s" / "2" / "summary.json").exists()
    assert study.trials[2].intermediate_values[0] == pytest.approx(30 - 36)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["optimizer.lr=1e-3"], "nothing to search"),
        (["loss=l1,l7"], "loss=l7: In 'train': Could not find 'loss/l7'"),
        (["seed=interval(0.5,1)"], "seed=0.5"),
        (["hydra.sweeper.search.objectives={val/psnr: up}"], "val/psnr: up: must be maximize or minimize"),
        (["+hydra.sweeper.search.objectives.train_seconds=minimize"], "pruner=null"),
    ],
)
def test_a_search_that_cannot_work_is_refused(tmp_path, monkeypatch, capfd, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, printed = call(monkeypatch, capfd, train.main, *QUICK, "hparams_search=optuna", *arguments)
    assert code == 2, printed
    assert said in printed
    assert not list(tmp_path.rglob("ledger.json"))


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["optuna", "pareto", "random", "grid"])
def test_searches_run(tmp_path, choice):
    words = (*QUICK[:1], "experiment=debug", "model=simple_cnn", *QUICK[2:], f"hparams_search={choice}")
    words += ("optimizer.lr=1e-4,1e-3",) if choice == "grid" else ()
    done = command("train.py", *words, "hydra.sweeper.search.trials=2", at(tmp_path / "s"))
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "s" / "search.json").read_text())
    assert [trial["state"] for trial in result["trials"]] == ["complete"] * 2
    assert any(trial["best"] for trial in result["trials"])
