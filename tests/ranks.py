"""A callback that writes down what each rank has learnt: named on the command line by tests of several processes."""

import json
import os
import time
from pathlib import Path
from typing import Any

import lightning as L
from torture import fingerprint


class Ranks(L.Callback):
    """Writes ``rank-N.json`` into the run's folder: the process, and a hash of each parameter and buffer when training
    has ended and when the test begins.

    Args:
        pause: seconds after each step.
    """

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause

    def on_train_batch_end(self, *unused: Any) -> None:
        time.sleep(self.pause)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.trained = {name: fingerprint(value) for name, value in pl_module.state_dict().items()}

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        tested = {name: fingerprint(value) for name, value in pl_module.state_dict().items()}
        content = {"pid": os.getpid(), "trained": self.trained, "tested": tested}
        (Path(trainer.default_root_dir) / f"rank-{trainer.global_rank}.json").write_text(json.dumps(content))
