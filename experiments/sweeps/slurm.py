"""Jobs under SLURM, through submitit: each is submitted when there is a place, and found again by its name."""

import hashlib
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.cli import UserError
from experiments.sweeps.local import Survivor, survivor, thread_counts
from experiments.sweeps.pool import Job
from experiments.sweeps.work import Work

PATIENCE = 120.0  # seconds: a preempted job waits for submitit's signal to be put into the queue again
EVERY = 5.0  # seconds between questions to the queue
LOST = 3  # answers without a job until it counts as gone: the queue may know of it later than we do


@dataclass
class Submitted:
    """A job that submitit has submitted.

    Args:
        job: submitit's.
        queue: of SLURM, or None where submitit starts processes of its own.
        folder: where the job writes.
    """

    job: Any
    queue: "Queue | None"
    folder: Path
    remark: str | None = None
    missed: int = 0

    def code(self) -> int | None:
        from submitit.core.utils import FailedJobError, UncompletedJobError

        tasks = self.job._sub_jobs or [self.job]
        if not all(task.paths.result_pickle.exists() for task in tasks):
            gone = self.job.done() if self.queue is None else self.queue.lost(self)
            if not gone:
                return None
            self.remark = f"job {self.job.job_id} is gone without a result: {self.job.paths.stderr}"
            return 1
        try:
            return next(filter(None, self.job.results()), 0)
        except (FailedJobError, UncompletedJobError) as error:
            lines = str(error).strip().splitlines()
            self.remark = f"submitit: {lines[-1]}"
            return 1

    def end(self, number: int) -> None:
        if self.queue is None:
            Survivor(self.folder).end(number)
        else:
            self.job.cancel()  # SLURM tells all of its processes, and kills them later


@dataclass
class Queue:
    """The names and numbers of the user's jobs that SLURM knows, asked for at most once in EVERY seconds."""

    jobs: dict[str, str] = field(default_factory=dict)
    asked: float = -EVERY
    answers: int = 0

    def look(self) -> dict[str, str]:
        """Name → number."""
        if time.monotonic() - self.asked >= EVERY:
            command = ["squeue", "--me", "--noheader", "--format", "%j %A"]
            answer = subprocess.run(command, capture_output=True, text=True)
            self.asked = time.monotonic()
            if answer.returncode == 0:
                self.jobs = dict(line.split() for line in answer.stdout.splitlines())
                self.answers += 1
        return self.jobs

    def lost(self, job: Submitted) -> bool:
        """Whether a job has been missing for LOST answers."""
        before = self.answers
        known = str(job.job.job_id) in self.look().values()
        job.missed = 0 if known else job.missed + self.answers - before
        return job.missed >= LOST


class Slurm:
    """Submits jobs.

    Args:
        folder: of the sweep, which all machines see.
        cluster: ``slurm``, or ``local``: submitit's own processes, on this machine.
        jobs: at a time, waiting ones too.
        threads: of each job; None: as SLURM has it.
        requeues: how often a job that has run out of time is started again.
        parameters: of submitit's executor: timeout_min, nodes, tasks_per_node, gpus_per_node, slurm_partition, …

    Raises:
        UserError: submitit is not installed, there is no SLURM here, or it knows no such parameter.
    """

    def __init__(
        self, folder: Path, cluster: str, jobs: int, threads: int | None, requeues: int, parameters: dict[str, Any]
    ) -> None:
        try:
            import submitit
        except ImportError:
            raise UserError("SLURM is reached through submitit: pip install -e '.[slurm]'") from None
        if jobs < 1:
            raise UserError(f"hydra.launcher.jobs={jobs}: must be at least 1")
        self.folder, self.size, self.environment = folder.resolve() / ".submitit", jobs, thread_counts(threads)
        options = {"slurm_max_num_timeout": requeues} if cluster == "slurm" else {}
        try:
            self.executor = submitit.AutoExecutor(folder=self.folder, cluster=cluster, **options)
            self.executor.update_parameters(**parameters)
        except (RuntimeError, ValueError, NameError, TypeError, AssertionError) as error:
            raise UserError(f"hydra.launcher: {error}") from error
        self.queue = Queue() if cluster == "slurm" else None
        self.tasks = parameters.get("nodes", 1) * parameters.get("tasks_per_node", 1)

    def start(self, work: Work) -> Job:
        work.environment |= self.environment
        work.patience = PATIENCE if self.queue else 0.0
        self.executor.update_parameters(name=name_of(work.folder))
        return Submitted(self.executor.submit(work), self.queue, work.folder)

    def found(self, folder: Path) -> Job | None:
        if self.queue is None:
            return survivor(folder)
        number = self.queue.look().get(name_of(folder))
        if number is None:
            return None
        from submitit.slurm.slurm import SlurmJob

        return Submitted(SlurmJob(self.folder, number, range(self.tasks)), self.queue, folder)

    def close(self) -> None:
        pass


def name_of(folder: Path) -> str:
    """What the job of a folder is called in the queue."""
    return f"{folder.parent.name}-{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
