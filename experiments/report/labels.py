"""What methods are called: as short as tells them apart; runs that differ in their seed alone are one method."""

import json
import re
from typing import Any

import yaml

from experiments.report.study import Cell, Method

OF_THE_CALL = re.compile(r"(^|\.)(seed|eval_seed|run_dir|resume|resume_force|name|output|path|dirpath|dir|root)$")
SETTINGS = 4  # of the configuration, at most, in a label
NUMBER = re.compile(r"\s*[-+−]?(\d[\d,]*(\.\d*)?|\.\d+)([eE][-+]?\d+)?|\s*[-+−]?(inf|∞)")


def distinct(singles: list[Method]) -> list[Method]:
    """Methods with labels that differ, the trainings of one configuration under several seeds merged."""
    merged: dict[str, Method] = {}
    for number, method in enumerate(singles):
        source = method.sources[0]
        key = json.dumps([method.label, facts(method)], sort_keys=True, default=str)
        if source.kind == "evaluation" or not source.config or not method.rows:
            key = str(number)
        into = merged.setdefault(key, method)
        if into is not method and method.seeds and method.seeds[0] not in into.seeds:
            into.seeds += method.seeds
            into.rows += method.rows
            into.sources += method.sources
            into.curves += method.curves
            walls = [s.summary.get("wall_seconds") for s in into.sources]
            known = [wall for wall in walls if isinstance(wall, (int, float))]
            into.costs["wall_seconds"] = sum(known) / len(known) if known else None
        elif into is not method:
            merged[str(number)] = method
    methods = list(merged.values())
    name(methods)
    for method in methods:
        for curve, source in zip(method.curves, method.sources, strict=False):
            curve.label = f"{method.label}, seed {source.seed}" if len(method.seeds) > 1 else method.label
    return methods


def name(methods: list[Method]) -> None:
    """Adds to equal labels the axes in which their methods differ, then settings, else the names of their folders."""
    clashes: dict[str, list[Method]] = {}
    for method in methods:
        clashes.setdefault(method.label, []).append(method)
    for group in clashes.values():
        told = [facts(method) for method in group]
        keys = [key for key in dict.fromkeys(k for f in told for k in f) if len({str(f.get(key)) for f in told}) > 1]
        axes = [key for key in keys if key in told[0] and (key.startswith("axes.") or key == "trained")]
        settings = [key for key in keys if key not in axes and not key.startswith("axes.")]
        labels = [", ".join([m.label, *(str(f.get(k)) for k in axes)]) for m, f in zip(group, told, strict=True)]
        for key in settings[:SETTINGS]:
            if len(set(labels)) == len(group):
                break
            tag = key.rpartition(".")[2]
            labels = [f"{label}, {tag}={f.get(key, '–')}" for label, f in zip(labels, told, strict=True)]
        if len(set(labels)) < len(group):
            labels = [f"{m.label}, {m.sources[0].folder.resolve().name}" for m in group]
        for number, (method, label) in enumerate(zip(group, labels, strict=True), 1):
            method.label = label if labels.count(label) == 1 else f"{label} ({number})"


def facts(method: Method) -> dict[str, Any]:
    """What a method's result depends on, as far as its folder tells."""
    source = method.sources[0]
    axes = mapping(source.summary.get("axes"))
    told = {f"axes.{key}": value for key, value in axes.items()}
    if source.kind == "evaluation":
        told["trained"] = method.trained
    try:
        config = flat(mapping(yaml.safe_load(source.config)))
    except yaml.YAMLError:
        config = {}
    run_dir = str(config.get("run_dir") or source.folder)
    return told | {k: v for k, v in config.items() if not OF_THE_CALL.search(k) and run_dir not in str(v)}


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key → value of everything that is not a dictionary itself."""
    if not isinstance(node, dict):
        return {prefix[:-1]: node}
    return {k: v for key, value in node.items() for k, v in flat(value, f"{prefix}{key}.").items()}


def mapping(value: Any) -> dict[str, Any]:
    """A dictionary as it is, anything else as an empty one."""
    return value if isinstance(value, dict) else {}


def line(value: Any) -> str:
    """A fact in one line."""
    return ", ".join(f"{key} {v}" for key, v in value.items()) if isinstance(value, dict) else str(value)


def cell(value: Any) -> Cell:
    """A cell of a table that is already made: numbers to four digits, texts as they are, sorted by their number."""
    if value is None:
        return Cell("–")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        found = NUMBER.match(str(value))
        number = found.group().strip().replace(",", "").replace("−", "-").replace("∞", "inf") if found else None
        return Cell(str(value), float(number) if number else None)
    if value != value:
        return Cell("–")
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
    return Cell(text.replace("inf", "∞"), float(value))
