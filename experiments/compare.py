"""Results side by side: ``python -m experiments.compare runs/a runs/b sweeps/c``, or ``comparison=PRESET``."""

import dataclasses
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments import resume
from experiments.cli import UserError, command, near, require_known
from experiments.sources import METRICS, TRAINING
from experiments.sweeps.ledger import LEDGER, load

log = logging.getLogger(__name__)
AXES = ("method", "model", "trained", "seed", "set", "noise", "level", "protocol", "realisation")


def arguments(typed: Sequence[str]) -> list[str]:
    """``RUN … --rows a,b`` → ``of=[RUN,…] rows=[a,b]``: paths are what has no key.

    Raises:
        UserError: ``--rows`` or ``--columns`` without axes.
    """
    typed = list(axes_typed(typed))
    paths = [argument for argument in typed if "=" not in argument and not argument.startswith("-")]
    others = [argument for argument in typed if argument not in paths]
    return [*others, f"of=[{','.join(resume.quoted(Path(path)) for path in paths)}]"] if paths else others


def axes_typed(typed: Sequence[str]) -> Iterator[str]:
    """``--rows a,b`` and ``--rows=a,b`` as Hydra takes them, the rest as it is; see :func:`arguments`."""
    words = iter(typed)
    for word in words:
        flag, _, axes = word.partition("=")
        if flag not in ("--rows", "--columns"):
            yield word
            continue
        axes = axes or next(words, "")
        if not axes or axes.startswith("-") or "=" in axes:
            raise UserError(f"{flag}: by which axes? {flag} AXIS or {flag} AXIS,AXIS, such as {', '.join(AXES[:5])}")
        yield f"{flag.removeprefix('--')}=[{axes}]"


def unfinished(path: Path) -> list[str]:
    """One line naming the cells of a sweep's folder that have no results; none if all have, or it is no sweep's.

    Raises:
        UserError: no cell has any.
    """
    if not (path / LEDGER).is_file():
        return []
    ledger = load(path)
    states: dict[str, list[str]] = {}
    for entry in ledger.entries.values():
        states.setdefault(ledger.state_of(entry), []).append(str(entry.number))
    done, of = len(states.pop("done", [])), len(ledger.entries)
    left = "; ".join(f"{state} {', '.join(numbers)}" for state, numbers in states.items())
    if not done:
        raise UserError(f"{path}: none of the {of} cells of this sweep is done, so there is nothing to compare: {left}")
    return [f"{near(path)}: {of - done} of {of} cells have no results and are left out: {left}"] if left else []


def gather(cfg: DictConfig, run_dir: Path) -> list[Any]:
    """The sources of a comparison; what a preset lists, and checkpoint files, are evaluated first."""
    from experiments import plan, sources

    if (preset := cfg.get("comparison")) is not None:
        plain: Any = OmegaConf.to_container(preset, resolve=True)
        return sources.find([*plan.carry_out(plain, run_dir, str(cfg.data_root)), *cfg.of])
    if not cfg.of:
        raise UserError("say what is compared: runs, evaluations, sweeps or checkpoint files, or comparison=PRESET")
    paths = [Path(path) for path in cfg.of]
    if missing := [str(path) for path in paths if not path.exists()]:
        raise UserError(f"there is no {' and no '.join(missing)}")
    return sources.find(
        plan.evaluated(path, list(cfg.evaluate), run_dir, str(cfg.data_root)) if path.is_file() else path
        for path in paths
    )


def costs_of(sources: Sequence[Any], names: Sequence[str], measured: bool) -> dict[str, dict[str, Any]]:
    """Method → its parameters, training time and, where asked, what :mod:`experiments.cost` measures."""
    from experiments.cost import measure_apart

    costs: dict[str, dict[str, Any]] = {}
    for source, name in zip(sources, names, strict=True):
        if name in costs:
            continue
        summary = source.summary
        costs[name] = {"parameters": summary["parameters"], "size_mb": summary["parameters"] * 4 / 1e6}
        if source.run and (source.run / "summary.json").exists():
            run = json.loads((source.run / "summary.json").read_text())
            costs[name]["train_seconds"] = run.get("train_seconds")
        if measured:
            checkpoint = summary.get("checkpoint") or (str(source.run) if source.run else None)
            config: Any = OmegaConf.to_container(OmegaConf.load(source.folder / "config.yaml"))
            log.info(f"measuring {name}")
            costs[name] |= measure_apart(checkpoint, config.get("model") or {}, config["channels"])
    return costs


def methods(sources: Sequence[Any], names: Sequence[str], costs: dict[str, dict[str, Any]], folder: Path) -> list[Any]:
    """What the report knows of each method."""
    from experiments import findings

    found: dict[str, dict[str, Any]] = {}
    for source, name in zip(sources, names, strict=True):
        one = found.setdefault(
            name,
            {"method": name, "kind": source.summary.get("kind", "run"), "folders": [], "seeds": [], "run": None}
            | {"model": source.attributes["model"], "trained": source.attributes.get("trained")}
            | dict.fromkeys(findings.COSTS)
            | costs[name],
        )
        one["folders"].append(os.path.relpath(source.folder, folder.resolve()))
        if source.seed is not None and source.seed not in one["seeds"]:
            one["seeds"].append(source.seed)
        if source.run and one["run"] is None:
            one["run"] = os.path.relpath(source.run, folder.resolve())
    return list(found.values())


@command("compare", arguments)
def main(cfg: DictConfig) -> None:
    run_dir = near(HydraConfig.get().runtime.output_dir)
    require_known(cfg.metrics, METRICS, "metrics")
    plain_axes = [axis for axis in [*cfg.rows, *cfg.columns] if "." not in axis]  # others are known by what was typed
    require_known(plain_axes, [*AXES, *TRAINING, "checkpoint"], "rows and columns")
    warnings = [line for path in cfg.of for line in unfinished(Path(path))]
    found = gather(cfg, run_dir)

    from datamodules.files import write_text
    from experiments import comparison, findings, plots, provenance, report, sources

    names, rows = sources.labels(found), comparison.frame(found)
    axes = list(dict.fromkeys([*AXES, *(key for source in found for key in source.attributes)]))
    require_known([*cfg.rows, *cfg.columns], axes, "rows and columns")
    require_known([cfg.baseline] if cfg.baseline else [], list(dict.fromkeys(names)), "baseline")
    down, across = list(cfg.rows), list(cfg.columns)
    across += [key for key in ("protocol",) if key not in [*down, *across]]
    metrics = [metric for metric in cfg.metrics if metric in rows and rows[metric].notna().any()]
    of_images = {*down, *across} <= {"method", "model", "set", "noise", "level", "protocol", "realisation"}
    learnt = rows[rows["method"] != comparison.NOISY]  # which alone has a loss, a schedule, a seed
    means = comparison.means(rows if of_images else learnt, [*down, *across], metrics)
    each = comparison.means(rows, ["method", "model", "set", "noise", "level", "channels", "protocol"], ["psnr"])
    each = each[(each["method"] != comparison.NOISY) & each["psnr"].notna()]
    costs = costs_of(found, names, cfg.cost and "method" in cfg.rows)
    for warning in warnings:
        log.warning(f"WARNING: {warning}")
    first = findings.means_table(means, down, across, metrics, costs)
    tables = [dataclasses.replace(first, note=" ".join([first.note, *(f"WARNING: {line}." for line in warnings)]))]
    if len(each):
        best = str(each.groupby("method", sort=False)["psnr"].mean().idxmax())
        tables += filter(None, (findings.difference_table(rows, cfg.baseline or best), findings.published_table(each)))

    shown = tables[1:] if down == ["method"] else tables  # a report has the means of each method in any case
    drawn = []
    for number, (title, figure) in enumerate(findings.figures(rows, costs).items(), start=1):
        plots.save(figure, run_dir / f"figure-{number}.png")
        drawn.append({"title": title, "file": f"figure-{number}.png"})
    preset: Any = cfg.get("comparison") or {}
    facts = {"title": preset.get("title", " · ".join(dict.fromkeys(names))), "description": ""}
    facts |= {
        "warnings": warnings,
        "methods": methods(found, names, costs, run_dir),
        "tables": [one.plain() for one in shown],
    }
    facts |= {"figures": drawn, "hardware": provenance.hardware(), "versions": provenance.versions()}
    facts |= {"commit": provenance.commit()}
    written = rows[rows["method"] != comparison.NOISY]
    written = written.assign(folder=[os.path.relpath(folder, run_dir.resolve()) for folder in written["folder"]])
    write_text(run_dir / "per_image.csv", written.to_csv(index=False))
    write_text(run_dir / "means.csv", means.drop(columns=[f"{metric}_why" for metric in metrics]).to_csv(index=False))
    write_text(run_dir / "table.csv", tables[0].csv())
    write_text(run_dir / "table.md", "\n".join(one.markdown() for one in tables))
    write_text(run_dir / "table.tex", "\n".join(one.latex() for one in tables))
    write_text(run_dir / "comparison.json", json.dumps(facts, indent=2, ensure_ascii=False, default=float) + "\n")
    for one in tables:
        one.show()
    log.info(f"tables      {run_dir / 'table.md'}, .tex, .csv")
    if cfg.report:
        for path in report.write(run_dir):
            log.info(f"report      {path}")


if __name__ == "__main__":
    main()
