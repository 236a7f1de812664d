"""Hydra's ``-m`` as this project has it: every cell is looked at before any job starts, every job is its own process.

The sweeper takes the combinations of what is typed, like Hydra's own; the launcher runs them with
:mod:`experiments.pool` and keeps the ledger, :mod:`experiments.sweep`.
"""

import hashlib
import importlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from experiments.cli import UserError, check, near
from experiments.console import StdoutHandler
from experiments.resume import key_of
from experiments.sweep import Cell, Ledger, fingerprint, opened

log = logging.getLogger(__name__)
MODULE = "hydra_plugins.denoisers"  # Hydra takes plugins of no other package


class Combinations(Sweeper):
    """All combinations, in one batch, which the launcher looks at as a whole.

    Args:
        params: key → its values, as they would be typed; what is typed counts instead.
    """

    __module__ = MODULE

    def __init__(self, *, params: dict[str, str] | None = None) -> None:
        self.params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config
        self.jobs: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        words = with_params(arguments, self.params)
        parsed = OverridesParser.create(config_loader=self.context.config_loader).parse_overrides(words)
        [batch] = BasicSweeper.split_arguments(parsed, None)
        return self.jobs.launch(batch, initial_job_idx=0)


class Isolated(Launcher):
    """Each job its own process, folder, log, thread count and GPUs.

    Args:
        jobs, jobs_per_gpu, gpus_per_job, threads: see :func:`experiments.pool.places`.
        memory: gigabytes that a job may take; None: no limit.
    """

    __module__ = MODULE

    def __init__(
        self,
        *,
        jobs: int | None = None,
        jobs_per_gpu: int = 1,
        gpus_per_job: int = 1,
        threads: int | None = None,
        memory: float | None = None,
    ) -> None:
        self.jobs, self.jobs_per_gpu, self.gpus_per_job = jobs, jobs_per_gpu, gpus_per_job
        self.threads, self.memory = threads, memory

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs what is not done; ends with exit code 3 if a job has failed."""
        from experiments import pool
        from experiments.board import Board

        typed = [[word for word in job if not word.startswith("hydra")] for job in job_overrides]
        cells, configs = self.cells(typed)
        places = pool.places(self.jobs, self.jobs_per_gpu, self.gpus_per_job, self.threads)
        folder = Path(self.config.hydra.sweep.dir)
        axes, _ = parted(with_params(self.config.hydra.overrides.task, self.config.hydra.sweeper.params))
        with heard(), opened(folder, program(), axes) as ledger:
            ledger.add(cells)
            left = [cell for cell in cells if ledger.state(cell) != "done"]
            log.info(
                f"sweep       {near(folder)}: {len(cells)} cells, {len(cells) - len(left)} done before, "
                f"{len(places)} at a time"
            )
            memory = None if self.memory is None else int(self.memory * 1e9)
            environment = [place | {"WANDB_RUN_GROUP": folder.name} for place in places]
            running: dict[str, pool.Running] = {}
            with Board(ledger, cells, running) as board:
                pool.Pool(ledger, environment, memory, board.refresh, running).run(cells)
            failed = [cell for cell in cells if ledger.state(cell) != "done"]
            for cell in failed:
                entry = ledger.entries[cell.fingerprint]
                log.info(f"failed      {entry.number}: {cell.title}\n              {entry.reason}")
                log.info(f"              {near(ledger.folder_of(cell) / pool.LOG)}")
            log.info(f"{len(cells) - len(failed)} of {len(cells)} cells are done; compare them with:")
            log.info(f"  python -m experiments.compare {near(folder)}")
            if sending := importlib.import_module("experiments.wandb_logger").sync(folder):
                log.info(f"send its runs to W&B with:\n  {sending}")
            if failed:
                log.info("the same command runs those that failed again, and no other")
                raise SystemExit(3)
            return [returned(ledger, cell, cfg) for cell, cfg in zip(cells, configs, strict=True)]

    def cells(self, jobs: Sequence[Sequence[str]]) -> tuple[list[Cell], list[DictConfig]]:
        """Every cell with its configuration.

        Raises:
            UserError: no cells, cells that do not compose or cannot work (all are named), or two that are one.
        """
        if not jobs:
            raise UserError("an empty sweep: there is no combination to run")
        cells, configs, wrong = [], [], []
        titles = [[word for word in job if len({value_of(j, key_of(word)) for j in jobs}) > 1] for job in jobs]
        before = HydraConfig.instance().cfg
        for job, title in zip(jobs, titles, strict=True):
            name = " ".join(title) or "(no axis)"
            try:
                cfg = self.context.config_loader.load_sweep_config(self.config, list(job))
                with open_dict(cfg):
                    cfg.run_dir, cfg.hydra.runtime.output_dir = "RUN", "RUN"
                    cfg.hydra.job.id, cfg.hydra.job.num = "0", 0
                HydraConfig.instance().set_config(cfg)
                with open_dict(cfg):
                    hydra_part = cfg.pop("hydra")
                check(cfg, str(hydra_part.job.config_name))
                steps = OmegaConf.select(cfg, "trainer.max_steps")
                cells.append(Cell(tuple(job), fingerprint(cfg), name, steps if steps and steps > 0 else None))
                configs.append(cfg)
            except (UserError, HydraException, OmegaConfBaseException) as error:
                wrong.append(f"  {name}: {str(error).strip().splitlines()[0]}")
            finally:
                HydraConfig.instance().cfg = before
        if wrong:
            raise UserError(
                f"{len(wrong)} of {len(jobs)} cells cannot run, {len(cells)} could; nothing was started:\n"
                + "\n".join(wrong)
            )
        seen: dict[str, Cell] = {}
        for cell in cells:
            if (other := seen.setdefault(cell.fingerprint, cell)) is not cell:
                raise UserError(
                    f"two cells are one, for what tells them apart decides nothing:\n  {other.title}\n  {cell.title}"
                )
        return cells, configs


def hand_over() -> None:
    """Makes Hydra know the plugins of this file, and find them where it looks for any."""
    try:
        package = importlib.import_module("hydra_plugins")
    except ImportError:  # nobody has installed another one
        package = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        package.__path__ = []
    package.denoisers = sys.modules[MODULE] = sys.modules[__name__]  # type: ignore[attr-defined]
    for plugin in (Combinations, Isolated):
        Plugins.instance().register(plugin)
    OmegaConf.register_new_resolver("sweep", lambda *said: name_of_sweep(with_params(*said)), replace=True)


def program() -> list[str]:
    """The command that this process runs: a script, or a module."""
    main = sys.modules["__main__"]
    if spec := getattr(main, "__spec__", None):
        return ["-m", spec.name]
    return [str(Path(sys.argv[0]).resolve())]


@contextmanager
def heard() -> Iterator[None]:
    """What this project logs is printed, once: Hydra has handlers of its own for a sweep."""
    logger, handler = logging.getLogger("experiments"), StdoutHandler()
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def value_of(job: Sequence[str], key: str) -> str:
    """What a job's overrides say of a key."""
    return next((word.partition("=")[2] for word in job if key_of(word) == key), "")


def with_params(typed: Sequence[str], params: Mapping[str, Any] | None) -> list[str]:
    """What a preset sweeps over, in its order, with what is typed in its place and after it."""
    chosen = {key: f"{key}={values}" for key, values in (params or {}).items()}
    return list((chosen | {key_of(word): word for word in typed}).values())


def parted(task: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is typed: the keys with several values, and the overrides that all cells share."""
    parsed = OverridesParser.create().parse_overrides(list(task))
    axes = [override.get_key_element().lstrip("+~") for override in parsed if override.is_sweep_override()]
    return axes, [override.input_line or "" for override in parsed if not override.is_sweep_override()]


def name_of_sweep(task: Sequence[str]) -> str:
    """The axes of a sweep and a hash of what its cells share: the same where cells are added."""
    axes, fixed = parted(task)
    name = "-".join(axis.rpartition(".")[2] for axis in axes) or "single"
    return f"{name}-{hashlib.sha256(json.dumps([axes, sorted(fixed)]).encode()).hexdigest()[:6]}"


def returned(ledger: Ledger, cell: Cell, cfg: DictConfig) -> JobReturn:
    """What Hydra's sweepers are told of a job that is done: the mean PSNR on its first test set."""
    summary = json.loads((ledger.folder_of(cell) / "summary.json").read_text())
    result: Any = next(iter(summary["results"].values()))
    job = JobReturn(overrides=list(cell.overrides), cfg=cfg, working_dir=str(ledger.folder_of(cell)))
    job.status, job._return_value = JobStatus.COMPLETED, float(result["psnr"])
    return job
