"""Which folders are one method, and what it is called: as short as tells methods apart."""

import json
import re
from typing import Any

import yaml

from experiments.report.study import Method

OF_THE_CALL = re.compile(r"(^|\.)(seed|eval_seed|run_dir|resume|resume_force|name|output|path|dirpath|dir|root)$")
OF_THE_EVALUATION = re.compile(r"^(axes\.)?(noise|data|datamodule|protocol)(\.|$)")
SETTINGS = 4  # of the configuration, at most, in a label


def distinct(singles: list[Method]) -> list[Method]:
    """Methods with labels that differ; what is the same but for its seed, or for what it was evaluated on, is one."""
    merged: dict[str, Method] = {}
    for number, method in enumerate(singles):
        for curve in method.curves:
            curve.label = f"seed {method.sources[0].seed}"
        key = identity(method)
        if key in merged and belongs(merged[key], method):
            merge(merged[key], method)
        else:
            merged[str(number) if key in merged else key] = method
    methods = list(merged.values())
    name(methods)
    for method in methods:
        for curve in method.curves:
            curve.label = f"{method.label}, {curve.label}" if len(method.curves) > 1 else method.label
    return methods


def identity(method: Method) -> str:
    """Equal for the trainings of one configuration, and for the evaluations of one checkpoint."""
    source = method.sources[0]
    told = {k: v for k, v in facts(method).items() if source.kind == "run" or not OF_THE_EVALUATION.search(k)}
    return json.dumps([source.kind, method.label, source.summary.get("checkpoint"), told], sort_keys=True, default=str)


def belongs(into: Method, method: Method) -> bool:
    """Whether a method of the same identity adds a seed, or images or conditions that are not yet there."""
    if method.sources[0].kind == "run":
        return bool(method.sources[0].config and method.seeds) and method.seeds[0] not in into.seeds
    places = [{(r.image, r.set, r.noise, r.level, r.protocol, r.realisation) for r in m.rows} for m in (into, method)]
    return not places[0] & places[1]


def merge(into: Method, method: Method) -> None:
    """Adds a method's rows to another's; the wall time becomes the mean over the trainings."""
    into.seeds += method.seeds
    into.rows += method.rows
    into.sources += method.sources
    into.curves += method.curves
    walls = [source.summary.get("wall_seconds") for source in into.sources if source.kind == "run"]
    if known := [wall for wall in walls if isinstance(wall, (int, float))]:
        into.costs["wall_seconds"] = sum(known) / len(known)


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
