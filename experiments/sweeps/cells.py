"""From what is typed to the cells of a sweep: all of them are composed and checked before any job starts."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from experiments.cli import UserError, check
from experiments.resume import key_of
from experiments.sweeps.ledger import Cell, fingerprint


def composed(context: HydraContext, config: DictConfig, jobs: Sequence[Sequence[str]]) -> list[Cell]:
    """The cells of a sweep's jobs.

    Args:
        context: Hydra's, of the sweep.
        config: of the sweep.
        jobs: the overrides of each.

    Raises:
        UserError: no cells, cells that do not compose or cannot work (all are named), or two that are one.
    """
    if not jobs:
        raise UserError("an empty sweep: there is no combination to run")
    cells, wrong = [], []
    titles = [[word for word in job if len({value_of(j, key_of(word)) for j in jobs}) > 1] for job in jobs]
    for job, words in zip(jobs, titles, strict=True):
        title = " ".join(words) or "(no axis)"
        try:
            cells.append(cell(context, config, job, title))
        except UserError as error:
            wrong.append(f"  {title}: {error}")
    if wrong:
        raise UserError(
            f"{len(wrong)} of {len(jobs)} cells cannot run, {len(cells)} could; nothing was started:\n"
            + "\n".join(wrong)
        )
    seen: dict[str, Cell] = {}
    for one in cells:
        if (other := seen.setdefault(one.fingerprint, one)) is not one:
            raise UserError(
                f"two cells are one, for what tells them apart decides nothing:\n  {other.title}\n  {one.title}"
            )
    return cells


def cell(context: HydraContext, config: DictConfig, job: Sequence[str], title: str) -> Cell:
    """One cell.

    Raises:
        UserError: it does not compose, or cannot work; in one line.
    """
    before = HydraConfig.instance().cfg
    try:
        cfg = context.config_loader.load_sweep_config(config, list(job))
        with open_dict(cfg):
            cfg.run_dir, cfg.hydra.runtime.output_dir = "RUN", "RUN"
            cfg.hydra.job.id, cfg.hydra.job.num = "0", 0
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            hydra_part = cfg.pop("hydra")
        check(cfg, str(hydra_part.job.config_name))
        steps = OmegaConf.select(cfg, "trainer.max_steps")
        return Cell(tuple(job), fingerprint(cfg), title, steps if steps and steps > 0 else None)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        raise UserError(str(error).strip().splitlines()[0]) from error
    finally:
        HydraConfig.instance().cfg = before


def value_of(job: Sequence[str], key: str) -> str:
    """What a job's overrides say of a key."""
    return next((word.partition("=")[2] for word in job if key_of(word) == key), "")


def with_params(typed: Sequence[str], params: Mapping[str, Any] | None) -> list[str]:
    """What a preset sweeps over, in its order, with what is typed in its place and after it."""
    chosen = {key: f"{key}={values}" for key, values in (params or {}).items()}
    return list((chosen | {key_of(word): word for word in typed}).values())


def parted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The keys with several values, and the overrides that all cells share."""
    parsed = OverridesParser.create().parse_overrides(list(words))
    axes = [override.get_key_element().lstrip("+~") for override in parsed if override.is_sweep_override()]
    return axes, [override.input_line or "" for override in parsed if not override.is_sweep_override()]


def name_of_sweep(words: Sequence[str]) -> str:
    """The axes of a sweep and a hash of what its cells share: the same where cells are added."""
    axes, fixed = parted(words)
    name = "-".join(axis.rpartition(".")[2] for axis in axes) or "single"
    return f"{name}-{hashlib.sha256(json.dumps([axes, sorted(fixed)]).encode()).hexdigest()[:6]}"
