"""A cell's job: a process of its own, on whichever machine it is called."""

import contextlib
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datamodules.workers import end_with_parent
from experiments import resume
from experiments.signals import ENDING

LOG = "job.log"
BEGIN = "--- started: "  # of the line in it that says what is started
POLL = 0.2  # seconds between looks at the process


@dataclass
class Work:
    """What is to be done for a cell; can be pickled.

    Args:
        program: the command that the sweep's jobs run.
        overrides: of the cell.
        folder: where it writes.
        environment: added to that of the process which starts it.
        memory: bytes that it may take, or None.
        patience: seconds that a caller waits for its own end after a signal from outside has ended the process.
    """

    program: Sequence[str]
    overrides: Sequence[str]
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    memory: int | None = None
    patience: float = 0.0
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False, repr=False)

    def command(self) -> list[str]:
        """From where its folder stands, or anew."""
        arguments = [*self.overrides, f"run_dir={resume.quoted(self.folder)}"]
        if self.program[-1].endswith("train.py") and (self.folder / "config.yaml").is_file():
            arguments = [f"resume={resume.quoted(self.folder)}"]
        return [sys.executable, *self.program, *arguments]

    def start(self, bound: bool = False) -> "subprocess.Popen[bytes]":
        """Starts it; what it prints goes to its log.

        Args:
            bound: it ends when the process that starts it has ended.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        command = self.command()
        with (self.folder / LOG).open("ab", buffering=0) as log:
            log.write(f"{BEGIN}{shlex.join(command)}\n".encode())
            # in a group of its own, so that Ctrl-C reaches it once, from here
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | self.environment,
                process_group=0,
                preexec_fn=bind if bound else None,
            )
        if self.memory is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended already
                resource.prlimit(self.process.pid, resource.RLIMIT_DATA, (self.memory, self.memory))
        return self.process

    def __call__(self) -> int:
        """Does it within a process of an engine, whose end is its end too.

        Returns:
            its exit code, negative for a signal.
        """
        process = self.start(bound=True)
        try:
            while (code := process.poll()) is None:  # Ray's interrupt would not end a wait
                time.sleep(POLL)
            if code - 128 in ENDING:  # SLURM takes the machine away: it tells the job first, then who called it
                time.sleep(self.patience)
            return code
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Has it save its state and end."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait()

    def checkpoint(self) -> Any:
        """What submitit calls before it queues a job again: the same, which then goes on from its checkpoint."""
        from submitit.helpers import DelayedSubmission

        self.end()
        return DelayedSubmission(replace(self))


def bind() -> None:
    """Makes a new process end in good order when its parent has died; the signal of submitit is its parent's alone."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    end_with_parent(signal.SIGTERM)
