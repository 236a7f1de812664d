"""A sweep's W&B workspace: ``python -m experiments.workspace SWEEP`` saves it, or shows it without an account."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.tree import Tree

from experiments.cli import UserError, command
from experiments.resume import quoted

log = logging.getLogger(__name__)
MISSING = 'the package wandb-workspaces is missing: pip install -e ".[workspace]"'


def overrides(arguments: Sequence[str]) -> list[str]:
    """``SWEEP key=value`` → ``path='SWEEP' key=value``."""
    return [a if "=" in a or a.startswith("-") else f"path={quoted(Path(a))}" for a in arguments]


def runs(folder: Path) -> list[DictConfig]:
    """The configurations of a sweep's runs.

    Raises:
        UserError: there are none.
    """
    found = [OmegaConf.load(path) for path in sorted(folder.glob("*/config.yaml"))]
    if not any("wandb" in config.logger for config in found):
        raise UserError(f"path={folder}: no sweep with logger=wandb there (a sweep's folder holds those of its runs)")
    return found  # type: ignore[return-value]


def grouping_keys(folder: Path, configs: Sequence[DictConfig]) -> list[str]:
    """The sweep's axes as keys of a run's configuration in W&B: ``model`` → ``axes.model``, ``seed`` as it is."""
    ledger = folder / "ledger.json"
    axes = json.loads(ledger.read_text())["axes"] if ledger.is_file() else []
    keys = [f"axes.{axis}" if axis in configs[0].axes else axis for axis in axes or configs[0].axes]
    return [key for key in keys if not OmegaConf.is_config(OmegaConf.select(configs[0], key, default=configs[0]))]


def pictures(folder: Path) -> list[str]:
    """The keys under which the runs have sent pictures."""
    val = {f"val/{path.stem}" for path in folder.glob("*/pictures/val/*/*.png")}
    return sorted(val | {f"test/{path.parent.name}" for path in folder.glob("*/pictures/test/*/*/strip.png")})


def sets(folder: Path) -> list[str]:
    """The names of the test sets that the runs were scored on."""
    summaries = [json.loads(path.read_text()) for path in folder.glob("*/summary.json")]
    return sorted({name for summary in summaries for name in summary["results"]})


def build(folder: Path, entity: str) -> Any:
    """The workspace of a sweep: its runs alone, curves and bars for each of its axes, and pictures.

    Raises:
        UserError: no sweep, or no package.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise UserError(MISSING) from error

    configs = runs(folder)
    keys = grouping_keys(folder, configs)
    curves = {"validation PSNR (dB)": "val/psnr", "validation SSIM": "val/ssim", "training loss": "train/loss"}
    mean: dict[str, Any] = {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    lines = [
        wr.LinePlot(title=f"{title} by {key}", x="trainer/global_step", y=[metric], groupby=wr.Config(key), **mean)
        for key in keys
        for title, metric in curves.items()
    ]
    bars = [
        wr.BarPlot(title=f"{name} {metric.upper()} by {key}", metrics=[summary], groupby=wr.Config(key), **mean)
        for key in keys
        for name in sets(folder)
        for metric in ("psnr", "ssim")
        for summary in [wr.SummaryMetric(f"test/{name}/{metric}")]
    ]
    shown = [wr.MediaBrowser(title=key, media_keys=[key]) for key in pictures(folder)]
    panels: dict[str, list[Any]] = {"Curves": lines, "Test": bars, "Pictures": shown}
    sections = [ws.Section(name=name, panels=of, is_open=True) for name, of in panels.items() if of]
    only = ws.RunsetSettings(filters=[ws.Metric("Group") == str(configs[0].logger.wandb.group)])
    project = configs[0].logger.wandb.project
    name = f"Sweep {folder.resolve().name}"
    return ws.Workspace(entity=entity, project=project, name=name, sections=sections, runset_settings=only)


def tree(workspace: Any) -> Tree:
    """What a workspace holds, from what would be sent."""
    shown = Tree(f"{workspace.name}, project {workspace.project}, runs with {workspace.runset_settings.filters}")
    for section in workspace.sections:
        branch = shown.add(f"{section.name}: {len(section.panels)} panels")
        for panel in section.panels:
            branch.add(f"{type(panel).__name__}  {panel.title}")
    return shown


@command("workspace", overrides)
def main(cfg: DictConfig) -> None:
    from experiments.wandb_logger import first_line, sync, why_offline, within

    folder = Path(cfg.path)
    workspace = build(folder, cfg.entity or "")
    reason = why_offline()
    if reason is None:
        try:
            within(cfg.patience, lambda: save(workspace))
            log.info(workspace.url)
            return
        except Exception as error:  # whatever is wrong with W&B
            reason = first_line(error)
    log.info(f"W&B: {reason}; this is the workspace that would be built:")
    Console().print(tree(workspace))
    log.info(f"{sync(folder) or 'no run was logged offline'}")


def save(workspace: Any) -> None:
    """Saves a workspace, into the account's own entity if none is given."""
    import wandb

    workspace.entity = workspace.entity or wandb.Api().default_entity
    workspace.save()


if __name__ == "__main__":
    main()
