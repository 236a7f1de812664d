"""Jobs on this machine: each in a place of its own, with its threads and its GPUs."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiments.cli import UserError
from experiments.sweeps.ledger import pids_of
from experiments.sweeps.pool import Job
from experiments.sweeps.work import Work

OOM_KILLS = Path("/sys/fs/cgroup/memory.events")


@dataclass
class Process:
    """A job that was started here."""

    process: "subprocess.Popen[bytes]"
    remark: str | None = None
    kills: int = field(default_factory=lambda: oom_kills())

    def code(self) -> int | None:
        code = self.process.poll()
        if code in (-signal.SIGKILL, 128 + signal.SIGKILL) and oom_kills() > self.kills:
            self.remark = "killed for want of memory"
        return code

    def end(self, number: int) -> None:
        self.process.send_signal(number)


@dataclass
class Survivor:
    """A job that another process has started here."""

    folder: Path
    remark: str | None = None

    def code(self) -> int | None:
        return None if pids_of(self.folder) else 0

    def end(self, number: int) -> None:
        for pid in pids_of(self.folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def survivor(folder: Path) -> Survivor | None:
    """The job that works on a folder here already."""
    return Survivor(folder) if pids_of(folder) else None


@dataclass
class Machine:
    """Runs jobs as processes of this machine.

    Args:
        places: the environment of each place for a job; see :func:`places`.
        memory: bytes that a job may take, or None.
    """

    places: Sequence[dict[str, str]]
    memory: int | None
    taken: dict[int, Job] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.places)

    def start(self, work: Work) -> Job:
        place = self.free()
        work.environment |= self.places[place]
        work.memory = self.memory
        self.taken[place] = Process(work.start())
        return self.taken[place]

    def found(self, folder: Path) -> Job | None:
        job = survivor(folder)
        if job is not None:
            self.taken[self.free()] = job
        return job

    def free(self) -> int:
        """The first place whose job has ended, or that has had none."""
        return next(n for n in range(self.size) if n not in self.taken or self.taken[n].code() is not None)

    def close(self) -> None:
        pass


def oom_kills() -> int:
    """How many processes the system has killed here for want of memory; 0 where it does not say."""
    try:
        words = dict(line.split() for line in OOM_KILLS.read_text().splitlines())
        return int(words.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0


def places(jobs: int | None, jobs_per_gpu: int, gpus_per_job: int, threads: int | None) -> list[dict[str, str]]:
    """The environment of each place for a job.

    Args:
        jobs: at a time on a machine without a GPU; None: one for each four cores, at least one.
        jobs_per_gpu, gpus_per_job: on a machine with GPUs; one of them is 1.
        threads: of each job; None: the cores, shared out.

    Raises:
        UserError: impossible numbers.
    """
    import torch

    for name, value in (("jobs", jobs), ("jobs_per_gpu", jobs_per_gpu), ("gpus_per_job", gpus_per_job)):
        if value is not None and value < 1:
            raise UserError(f"hydra.launcher.{name}={value}: must be at least 1")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = torch.cuda.device_count()
    devices: list[str | None] = [None] * (jobs or max(1, cores // 4))
    if gpus:
        if gpus_per_job > gpus or min(gpus_per_job, jobs_per_gpu) > 1:
            raise UserError(
                f"hydra.launcher.gpus_per_job={gpus_per_job} jobs_per_gpu={jobs_per_gpu}: there are {gpus} GPUs, and "
                "either several jobs share one or one job takes several"
            )
        devices = [",".join(map(str, group)) for group in groups(gpus, gpus_per_job) for _ in range(jobs_per_gpu)]
    common = thread_counts(threads or max(1, cores // len(devices)))
    return [common | ({"CUDA_VISIBLE_DEVICES": device} if device else {}) for device in devices]


def thread_counts(number: int | None) -> dict[str, str]:
    """The environment of a job with so many threads; None: as many as it likes."""
    return {} if number is None else {"OMP_NUM_THREADS": str(number), "MKL_NUM_THREADS": str(number)}


def groups(number: int, size: int) -> Iterator[range]:
    """0 … number − 1 in groups of a size; what is left over is left out."""
    return (range(first, first + size) for first in range(0, number - size + 1, size))
