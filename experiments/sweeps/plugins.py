"""Hydra's ``-m`` as this project has it: the plugins that configurations in ``conf/hydra`` name."""

import importlib
import sys
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from experiments.sweeps import driver
from experiments.sweeps.cells import composed, name_of_sweep, with_params
from experiments.sweeps.pool import Engine

MODULE = "hydra_plugins.denoisers"  # Hydra takes plugins of no other package


class Combinations(Sweeper):
    """All combinations, in one batch, which the launcher looks at as a whole; or a search among them.

    Args:
        params: key → its values, as they would be typed; what is typed counts instead.
        search: how to search, see :func:`experiments.sweeps.search.run`; None: every combination is run.
    """

    __module__ = MODULE

    def __init__(self, *, params: DictConfig | None = None, search: Any = None) -> None:
        self.params: Any = params or {}
        self.search = search

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config
        self.jobs: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        words = with_params(arguments, self.params)
        parsed = OverridesParser.create(config_loader=self.context.config_loader).parse_overrides(words)
        if self.search is not None:
            from experiments.sweeps import search

            assert self.config is not None
            return search.run(self.context, self.config, self.jobs.engine, parsed, self.search)
        [batch] = BasicSweeper.split_arguments(parsed, None)
        return self.jobs.launch(batch, initial_job_idx=0)


class OurLauncher(Launcher):
    """Runs what is not done of a sweep; says how at its end."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config

    @abstractmethod
    def engine(self, folder: Path) -> Engine:
        """Where the jobs of a sweep in a folder run."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        typed = [[word for word in job if not word.startswith("hydra")] for job in job_overrides]
        cells = composed(self.context, self.config, typed)
        with driver.at_work(self.config, self.engine, cells) as pool:
            pool.run(iter(cells))
        return []


class Isolated(OurLauncher):
    """Each job a process of this machine.

    Args:
        jobs, jobs_per_gpu, gpus_per_job, threads: see :func:`experiments.sweeps.local.places`.
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
        self.places = (jobs, jobs_per_gpu, gpus_per_job, threads)
        self.memory = None if memory is None else int(memory * 1e9)

    def engine(self, folder: Path) -> Engine:
        from experiments.sweeps import local

        return local.Machine(local.places(*self.places), self.memory)


class Submitit(OurLauncher):
    """Each job a job of SLURM: see :class:`experiments.sweeps.slurm.Slurm`."""

    __module__ = MODULE

    def __init__(self, *, cluster: str, jobs: int, threads: int | None, requeues: int, parameters: DictConfig) -> None:
        self.options = (cluster, jobs, threads, requeues)
        self.parameters: Any = parameters

    def engine(self, folder: Path) -> Engine:
        from experiments.sweeps.slurm import Slurm

        return Slurm(folder, *self.options, OmegaConf.to_container(OmegaConf.create(self.parameters)))  # type: ignore[arg-type]


class Ray(OurLauncher):
    """Each job a task of Ray: see :class:`experiments.sweeps.on_ray.Cluster`."""

    __module__ = MODULE

    def __init__(
        self, *, address: str | None, jobs: int | None, cpus_per_job: int, gpus_per_job: float, threads: int | None
    ) -> None:
        self.options = (address, jobs, cpus_per_job, gpus_per_job, threads)

    def engine(self, folder: Path) -> Engine:
        from experiments.sweeps.on_ray import Cluster

        return Cluster(*self.options)


def hand_over() -> None:
    """Makes Hydra know the plugins of this file, and find them where it looks for any."""
    try:
        package = importlib.import_module("hydra_plugins")
    except ImportError:  # nobody has installed another one
        package = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        package.__path__ = []
    package.denoisers = sys.modules[MODULE] = sys.modules[__name__]  # type: ignore[attr-defined]
    for plugin in (Combinations, Isolated, Submitit, Ray):
        Plugins.instance().register(plugin)
    OmegaConf.register_new_resolver("sweep", lambda *said: name_of_sweep(with_params(*said)), replace=True)
