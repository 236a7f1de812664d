"""Jobs on a Ray cluster: each is a task, which starts the job's process where there is room for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.cli import UserError
from experiments.signals import signals
from experiments.sweeps.local import survivor, thread_counts
from experiments.sweeps.pool import Job
from experiments.sweeps.work import Work


@dataclass
class Task:
    """A job that Ray has taken.

    Args:
        reference: to its exit code.
    """

    reference: Any
    remark: str | None = None

    def code(self) -> int | None:
        import ray

        done, _ = ray.wait([self.reference], timeout=0)
        if not done:
            return None
        try:
            return int(ray.get(self.reference))
        except ray.exceptions.RayError as error:
            self.remark = f"Ray: {str(error).strip().splitlines()[0]}"
            return 1

    def end(self, number: int) -> None:
        import ray

        ray.cancel(self.reference)


class Cluster:
    """Runs jobs as tasks of Ray.

    Args:
        address: of a cluster, ``auto`` for the one that runs here; None: one for this sweep, on this machine.
        jobs: at a time; None: as many as the cluster has room for.
        cpus_per_job, gpus_per_job: what a job reserves.
        threads: of each job; None: as many as it reserves CPUs.

    Raises:
        UserError: Ray is not installed, the cluster cannot be reached, or no job has room in it.
    """

    def __init__(
        self, address: str | None, jobs: int | None, cpus_per_job: int, gpus_per_job: float, threads: int | None
    ) -> None:
        try:
            import ray
        except ImportError:
            raise UserError("hydra/launcher=ray wants Ray: pip install -e '.[ray]'") from None
        try:
            ray.init(address=address, include_dashboard=None if address else False, log_to_driver=False)
        except (ConnectionError, RuntimeError) as error:
            raise UserError(f"hydra.launcher.address={address}: {error}") from error
        signals.listen()  # Ray has taken them over
        resources = ray.cluster_resources()
        rooms = [resources.get("CPU", 0) // cpus_per_job]
        rooms += [resources.get("GPU", 0) // gpus_per_job] if gpus_per_job else []
        if min(rooms) < 1:
            raise UserError(
                f"hydra.launcher.cpus_per_job={cpus_per_job} gpus_per_job={gpus_per_job}: the cluster has "
                f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"
            )
        self.size, self.environment = jobs or int(min(rooms)), thread_counts(threads or cpus_per_job)
        self.do = ray.remote(do).options(num_cpus=cpus_per_job, num_gpus=gpus_per_job, max_retries=0)

    def start(self, work: Work) -> Job:
        work.environment |= self.environment
        return Task(self.do.remote(work))

    def found(self, folder: Path) -> Job | None:
        return survivor(folder)

    def close(self) -> None:
        import ray

        ray.shutdown()


def do(work: Work) -> int:
    """A task."""
    return work()
