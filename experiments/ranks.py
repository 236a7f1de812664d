"""The processes of one run (``trainer=ddp``): none outlives the first, and of one that died the log says so."""

import logging
import os
import re
import signal
import time
from typing import Any

from datamodules.workers import end_with_parent

log = logging.getLogger(__name__)
FIRST = "DENOISERS_FIRST_RANK"  # in the environment: the process that starts the others
# Lightning's words for it, too, when it ends a first rank that hangs
DIED = re.compile(r"\[rank: (\d+)\] Child process .*terminated with code (-?\d+)")
PATIENCE = 1.0  # seconds between the end of a connection and that of the process at its other end


def follow() -> None:
    """A rank that another has started ends with it, however that ends."""
    if int(os.environ.get("LOCAL_RANK", 0)) and FIRST in os.environ:
        end_with_parent()
        if os.getppid() != int(os.environ[FIRST]):  # it is gone already
            os.kill(os.getpid(), signal.SIGKILL)
    else:
        os.environ[FIRST] = str(os.getpid())


def say_who_died(trainer: Any) -> None:
    """Logs which other rank has died, if one has: the first itself sees only that a connection is closed."""
    processes = getattr(trainer.strategy.launcher, "procs", [])
    end = time.monotonic() + PATIENCE
    while processes and time.monotonic() < end:
        for number, process in enumerate(processes, 1):
            if process.poll():
                log.error(f"[rank: {number}] Child process terminated with code {process.returncode}")
                return
        time.sleep(0.05)
