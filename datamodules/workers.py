"""Loader processes: they leave signals to the main process, which finishes its step first, and never outlive it."""

import atexit
import ctypes
import multiprocessing
import signal
import sys

PR_SET_PDEATHSIG = 1  # Linux: the signal that a process gets when its parent has died


def leave_signals_to_parent(worker: int) -> None:
    """What a loader process does first (``worker_init_fn``)."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(name, signal.SIG_IGN)
    end_with_parent()


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """From now on this process gets a signal when the one that has started it ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


@atexit.register
def end_workers() -> None:
    """Ends them with the main process: multiprocessing would ask them with the signal that they ignore, and wait."""
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
