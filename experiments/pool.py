"""Jobs as processes of their own: as many at a time as there are places, each with its threads and its GPUs."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiments import resume
from experiments.cli import UserError
from experiments.ranks import DIED
from experiments.signals import Interrupted, signals
from experiments.sweep import Cell, Ledger, pids_of

POLL = 0.2  # seconds between looks at the jobs
LOG = "job.log"
ATTEMPT = "--- attempt "  # begins the line in the log with which each begins
MEMORY = ("can't allocate memory", "out of memory", "MemoryError", "bad_alloc", "Cannot allocate memory")
OOM_KILLS = Path("/sys/fs/cgroup/memory.events")


@dataclass
class Running:
    """A job that works: a process that was started here, or one that outlived the sweep that started it."""

    cell: Cell
    place: int
    process: subprocess.Popen[bytes] | None
    began: float = field(default_factory=time.monotonic)
    kills: int = field(default_factory=lambda: oom_kills())


@dataclass
class Pool:
    """Runs cells.

    Args:
        ledger: of the sweep; every change of state is written down before anything follows from it.
        places: the environment of each place for a job.
        memory: bytes that a job may take, or None.
        changed: called as often as changes are looked for.
        running: fingerprint → job, of those that run at the moment.
    """

    ledger: Ledger
    places: Sequence[dict[str, str]]
    memory: int | None
    changed: Callable[[], None]
    running: dict[str, Running]

    def run(self, cells: Sequence[Cell]) -> None:
        """Runs every cell that is not done, until all are done or have failed.

        Raises:
            Interrupted: a signal has come. All jobs have got it, and have ended.
        """
        for cell in [cell for cell in cells if pids_of(self.ledger.folder_of(cell))]:
            self.running[cell.fingerprint] = Running(cell, len(self.running) % len(self.places), None)
        waiting = [c for c in cells if c.fingerprint not in self.running and self.ledger.state(c) != "done"]
        signals.deferred = True  # or one that comes between a job's start and its place in ``running`` would lose it
        try:
            while waiting or self.running:
                for running in list(self.running.values()):
                    self.look(running)
                while waiting and len(self.running) < len(self.places):
                    self.start(waiting.pop(0))
                if signals.received:
                    raise Interrupted(signals.received)
                self.changed()
                time.sleep(POLL)
        except BaseException as end:
            self.stop(end.number if isinstance(end, Interrupted) else signal.SIGTERM)
            raise
        finally:
            signals.deferred = False

    def start(self, cell: Cell) -> None:
        """Starts a job in a free place: from where its folder stands, or anew."""
        taken = {running.place for running in self.running.values()}
        place = next(number for number in range(len(self.places)) if number not in taken)
        folder = self.ledger.folder_of(cell).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        arguments = [*cell.overrides, f"run_dir={resume.quoted(folder)}"]
        if self.ledger.program[-1].endswith("train.py") and (folder / "config.yaml").is_file():
            arguments = [f"resume={resume.quoted(folder)}"]
        self.ledger.mark(cell, "running")
        with (folder / LOG).open("ab", buffering=0) as log:
            log.write(f"{ATTEMPT}{self.ledger.entries[cell.fingerprint].attempts}: {' '.join(arguments)}\n".encode())
            # in a group of its own, so that Ctrl-C reaches it once, from here
            process = subprocess.Popen(
                [sys.executable, *self.ledger.program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | self.places[place],
                process_group=0,
            )
        if self.memory is not None:
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (self.memory, self.memory))
        self.running[cell.fingerprint] = Running(cell, place, process)

    def look(self, running: Running) -> None:
        """Writes down how a job has ended, if it has."""
        folder, code = self.ledger.folder_of(running.cell), running.process.poll() if running.process else None
        if pids_of(folder) if running.process is None else code is None:
            return
        del self.running[running.cell.fingerprint]
        if self.ledger.state(running.cell) == "done":
            self.ledger.mark(running.cell, "done")
        else:
            self.ledger.mark(running.cell, "failed", reason(code, folder / LOG, oom_kills() > running.kills))

    def stop(self, number: int) -> None:
        """Hands a signal on to every job, and waits for them; each leaves its checkpoint."""
        for running in self.running.values():
            pids = [running.process.pid] if running.process else pids_of(self.ledger.folder_of(running.cell))
            for pid in pids:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
        for running in self.running.values():
            if running.process is not None:
                running.process.wait()
            while running.process is None and pids_of(self.ledger.folder_of(running.cell)):
                time.sleep(POLL)
            done = self.ledger.state(running.cell) == "done"
            self.ledger.mark(running.cell, "done" if done else "interrupted")
        self.running.clear()


def reason(code: int | None, log: Path, oom: bool) -> str:
    """Why a job has failed, in one line: what killed it, or the last line that it printed.

    ``code`` is its exit code, which is not known of one that another sweep has started.
    """
    printed = log.read_text(errors="replace").rpartition(ATTEMPT)[2]
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    died = [(number, found) for number, line in enumerate(lines) if (found := DIED.search(line))]
    if died:  # one of several processes: the others print what follows from that
        number, found = died[-1]
        return f"rank {found[1]}: {ending(int(found[2]), lines[:number], oom)}"
    return ending(code, lines, oom)


def ending(code: int | None, lines: Sequence[str], oom: bool) -> str:
    """How a process has ended, from its exit code and what it printed."""
    # box drawing and progress are no reason
    last = next((line for line in reversed(lines) if line[0].isalnum()), "it printed nothing")
    if any(word in line for line in lines[-30:] for word in MEMORY):
        return f"out of memory: {last}"
    if code is None:
        return f"it ended without a result: {last}"
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return "killed for want of memory" if oom else "killed (SIGKILL)"
    if code < 0:
        return f"killed ({signal.Signals(-code).name})"
    return f"exit code {code}: {last}"


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
    number = str(threads or max(1, cores // len(devices)))
    common = {"OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number}
    return [common | ({"CUDA_VISIBLE_DEVICES": device} if device else {}) for device in devices]


def groups(number: int, size: int) -> Iterator[range]:
    """0 … number − 1 in groups of a size; what is left over is left out."""
    return (range(first, first + size) for first in range(0, number - size + 1, size))
