"""Marginal effects: against values by hand, an analysis of variance, and differences that were put in."""

import itertools

import numpy as np
import pytest
import report_folders as build
import scipy.stats

from experiments import effects

AXES = {"model": ["a", "b", "c"], "loss": ["x", "y"], "seed": ["0", "1"]}
WORTH = {"a": 0, "b": 1, "c": -4, "x": 0.5, "y": 0, "0": 0, "1": 0.25}


def scored(noise=0.0):
    cells = build.crossed(**AXES)
    draws = np.random.default_rng(3).normal(0, noise, len(cells))
    return cells, [30 + sum(WORTH[v] for v in cell.values()) + d for cell, d in zip(cells, draws, strict=True)]


def by_axis(cells, scores):
    return {axis.name: axis for axis in effects.effects(cells, scores, list(cells[0]))}


def test_differences_that_were_put_in_are_found_exactly():
    found = by_axis(*scored())
    assert {level.name: level.effect for level in found["model"].levels} == pytest.approx({"a": 1, "b": 2, "c": -3})
    assert [level.ci95 for level in found["model"].levels] == pytest.approx([0, 0, 0], abs=1e-12)
    assert [(axis.blocks, axis.incomplete) for axis in found.values()] == [(4, 0), (6, 0), (6, 0)]
    assert found["model"].range == pytest.approx(5)
    assert found["loss"].range == pytest.approx(0.5)


def test_intervals_and_p_by_hand():
    cells, scores = scored(noise=0.3)
    found = by_axis(cells, scores)
    x = np.array([s for cell, s in zip(cells, scores, strict=True) if cell["loss"] == "x"])
    y = np.array([s for cell, s in zip(cells, scores, strict=True) if cell["loss"] == "y"])
    half = scipy.stats.t.ppf(0.975, 5) * np.std((x - y) / 2, ddof=1) / np.sqrt(6)
    assert found["loss"].levels[0].effect == pytest.approx(np.mean(x - y) / 2)
    assert found["loss"].levels[0].ci95 == pytest.approx(half)
    t = np.mean(x - y) / (np.std(x - y, ddof=1) / np.sqrt(6))
    assert found["loss"].p == pytest.approx(2 * scipy.stats.t.sf(abs(t), 5))
    ranks = scipy.stats.rankdata(np.array(scores).reshape(3, 4).T, axis=1).sum(0)  # Friedman's statistic
    chi2 = 12 / (4 * 3 * 4) * np.sum(ranks**2) - 3 * 4 * 4
    assert found["model"].p == pytest.approx(scipy.stats.chi2.sf(chi2, 2))


def test_effects_are_those_of_an_analysis_of_variance():
    """In a full factorial, main effects are marginal means, and their squares the sums of squares: what a least-squares
    fit of all axes at once explains."""
    cells, scores = scored(noise=0.5)
    found = by_axis(cells, scores)
    y = np.array(scores) - np.mean(scores)
    columns = [[cell[axis] == level for cell in cells] for axis, levels in AXES.items() for level in levels]
    design = np.array([[True] * len(cells), *columns], dtype=float).T
    explained = np.sum((design @ np.linalg.lstsq(design, y)[0]) ** 2)
    of_levels = [level.effect**2 * len(cells) / len(axis.levels) for axis in found.values() for level in axis.levels]
    assert sum(of_levels) == pytest.approx(explained)
    for axis, level in itertools.chain(*([(a, lv) for lv in a.levels] for a in found.values())):
        mean = np.mean([s for cell, s in zip(cells, y, strict=True) if cell[axis.name] == level.name])
        assert level.effect == pytest.approx(mean)


def test_incomplete_blocks_are_left_out_and_counted():
    cells, scores = scored()
    place = cells.index({"model": "c", "loss": "x", "seed": "0"})
    scores[place] = None
    found = by_axis(cells, scores)
    assert [(axis.name, axis.blocks, axis.incomplete) for axis in found.values()] == [
        ("model", 3, 1),
        ("loss", 5, 1),
        ("seed", 5, 1),
    ]
    assert [level.effect for level in found["model"].levels] == pytest.approx([1, 2, -3])  # a mean of all cells errs
    one = by_axis(cells[:2], [1.0, 2.0])
    assert list(one) == ["seed"]  # the others have one level
    assert (one["seed"].levels[0].ci95, one["seed"].p) == (None, None)
    assert by_axis(cells, [None] * len(cells)) == {}


def test_where_nothing_differs_there_is_no_p():
    cells, _ = scored()
    assert {axis.p for axis in by_axis(cells, [30.0] * len(cells)).values()} == {None}


def test_the_spread_between_seeds_is_pooled():
    cells = build.crossed(model=["a", "b", "c"], seed=["0", "1"])
    spread = effects.spread_between_seeds(cells, [30, 31, 20, 22, 9, None])
    assert spread == pytest.approx(np.sqrt((np.var([30, 31], ddof=1) + np.var([20, 22], ddof=1)) / 2))
    assert effects.spread_between_seeds([{"model": "a"}, {"model": "b"}], [1, 2]) is None


def test_the_sentence_names_the_largest_axis_first():
    cells, scores = scored()
    found = effects.effects(cells, scores, list(AXES))
    said = effects.sentence(found, effects.spread_between_seeds(cells, scores), " dB", 2)
    assert (
        said == "model matters most: 5.00 dB from c to b; loss 0.50 dB. Seeds differ by 0.18 dB (standard deviation)."
    )
    assert effects.sentence(found, 5.1, " dB", 2).endswith(
        "Seeds differ by 5.10 dB (standard deviation), which is more."
    )
    assert "unknown" in effects.sentence(found, None, " dB", 2)
    assert "No axis" in effects.sentence([], None, " dB", 2)
