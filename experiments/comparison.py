"""Rows of several runs and evaluations side by side: their means, and whether they differ."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from experiments.results import UNAVAILABLE, Row, read_rows
from experiments.sources import Source, labels

log = logging.getLogger(__name__)
SAME_ROW = ["method", "seed", "set", "noise", "protocol", "image", "realisation"]  # what a measurement is of
NOISY = "noisy"  # the method that does nothing


def frame(sources: Sequence[Source]) -> pd.DataFrame:
    """The rows of all sources, each with its ``method``, ``seed``, ``folder`` and attributes, and those of ``noisy``.

    A measurement that several sources have, a run and an evaluation of its checkpoint, is taken from the last; where
    they do not agree, this is said.
    """
    rows: list[Row] = []
    for one, method in zip(sources, labels(sources), strict=True):
        own = {"method": method, "seed": one.seed, "folder": str(one.folder)} | one.attributes
        rows += [
            own | {"channels": one.summary.get("channels")} | row | {"trained": own.get("trained")}
            for row in read_rows(one.folder / "per_image.csv")
        ]
    noisy = [
        row
        | {"method": NOISY, "model": NOISY, "seed": None, "trained": None, "seconds": 0.0}
        | {metric: row.get(f"noisy_{metric}") for metric in ("psnr", "ssim", "lpips")}
        for row in rows
    ]
    everything = pd.DataFrame([*noisy, *rows])
    twice = everything[everything.duplicated(SAME_ROW, keep=False) & (everything["method"] != NOISY)]
    for key, group in twice.groupby(SAME_ROW, dropna=False):
        if group["psnr"].nunique() > 1:
            folders = " and ".join(dict.fromkeys(group["folder"]))
            log.warning(f"WARNING: {key[0]}, seed {key[1]}, has different rows in {folders}: the last count")
            break
    return everything.drop_duplicates(SAME_ROW, keep="last").reset_index(drop=True)


def means(rows: pd.DataFrame, axes: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """For each combination of the axes: the mean over images and realisations of each metric.

    With several seeds it is the mean of their means, and ``METRIC_std`` their standard deviation (n − 1); ``images``
    and ``seeds`` say how many there are. A metric that some image lacks is nan, and ``METRIC_why`` what to print.
    """
    found = []
    for key, group in rows.groupby(list(axes), sort=False, dropna=False):
        of_seeds = [part for _, part in group.groupby("seed", dropna=False)]
        row: dict[str, Any] = dict(zip(axes, key, strict=True)) | {
            "images": group["image"].nunique(),
            "seeds": len(of_seeds),
        }
        for metric in metrics:
            values = [pd.to_numeric(part[metric], errors="coerce") for part in of_seeds]
            complete = not any(part.isna().any() for part in values)
            centre = [part.mean() for part in values] if complete else [np.nan]
            row |= {
                metric: float(np.mean(centre)),
                f"{metric}_std": float(np.std(centre, ddof=1)) if len(centre) > 1 else np.nan,
                f"{metric}_why": UNAVAILABLE if UNAVAILABLE in group[metric].tolist() else "–",
            }
        found.append(row)
    return pd.DataFrame(found)


def differences(rows: pd.DataFrame, metric: str, baseline: str) -> pd.DataFrame:
    """Each method against the baseline, image by image: the paired differences of each set, noise and protocol.

    An image's value is its mean over seeds and realisations. ``difference`` is the mean over the images that both have,
    ``ci95`` half the width of its 95 % confidence interval (Student's t), ``better`` the number of images on which the
    method wins, ``p`` the two-sided Wilcoxon signed-rank test's.
    """
    keys = ["set", "noise", "protocol"]
    values = rows.assign(value=pd.to_numeric(rows[metric], errors="coerce")).dropna(subset=["value"])
    values = values[np.isfinite(values["value"])]
    of_images = values.groupby([*keys, "method", "image"], sort=False)["value"].mean()
    found = []
    for key, group in of_images.groupby(keys, sort=False):
        table = group.droplevel(keys).unstack("method")
        if baseline not in table:
            continue
        for method in (name for name in table if name not in (baseline, NOISY)):
            paired = (table[method] - table[baseline]).dropna()
            n = len(paired)
            better = paired > 0 if metric != "lpips" else paired < 0
            row = dict(zip(keys, key, strict=True)) | {"method": method, "baseline": baseline, "images": n}
            row |= {"difference": paired.mean(), "ci95": np.nan, "better": int(better.sum()), "p": np.nan}
            if n > 1 and paired.any():
                row["ci95"] = scipy.stats.t.ppf(0.975, n - 1) * paired.std(ddof=1) / np.sqrt(n)
                row["p"] = scipy.stats.wilcoxon(paired).pvalue
            found.append(row)
    return pd.DataFrame(found)


def mismatch(means: pd.DataFrame) -> pd.DataFrame:
    """Means by ``trained``, ``noise`` and ``level`` → training noise × test noise, both by the level of that noise."""
    grid = means.sort_values("level").pivot_table(index="trained", columns="noise", values="psnr", sort=False)
    known = [name for name in grid.columns if name in grid.index]
    return grid.reindex([*known, *(name for name in grid.index if name not in known)])
