"""A callback that writes down each time a job trains: named on the command line by tests of killed sweeps."""

import fcntl
from pathlib import Path
from typing import Any

import lightning as L

STARTS = "starts.txt"
BEGAN, TWICE, DONE = "began", "began beside another process", "began after it was done"


class Starts(L.Callback):
    """Adds a line to ``starts.txt`` in the run's folder when training begins; a lock that dies with the process tells
    whether another one trains there."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit" or not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        self._file: Any = (folder / STARTS).open("a")
        line = DONE if (folder / "summary.json").exists() else BEGAN
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            line = TWICE
        print(line, file=self._file, flush=True)
