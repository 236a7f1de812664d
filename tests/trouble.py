"""A callback that ends a run in ways that runs end: named on the command line by tests of sweeps."""

import os
import signal
import sys

import lightning as L
import torch


class Trouble(L.Callback):
    """Ends its run when the test begins, unless the environment says that all is well.

    Args:
        kind: ``raise``, ``exit``, ``kill``, ``memory``, ``wait``; anything else is no trouble.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if os.environ.get("ALL_IS_WELL"):
            return
        if self.kind == "raise":
            raise RuntimeError("a mistake of somebody's")
        if self.kind == "exit":
            sys.exit(1)
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "memory":
            self.kept = [torch.ones(10**8) for _ in range(100)]
        if self.kind == "wait":
            signal.pause()
