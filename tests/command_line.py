"""Commands as people type them: in this process, or in one of their own."""

import logging
import os
import subprocess
import sys

from conftest import ROOT
from hydra.core.global_hydra import GlobalHydra


def call(monkeypatch, capfd, main, *arguments):
    """Runs a command in this process → its exit code and what it printed."""
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    handlers = list(logging.getLogger().handlers)
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code
    finally:
        logging.getLogger().handlers = handlers  # Hydra's own write into the run's folder
    out, err = capfd.readouterr()
    return code, out + err


def command(*arguments, **environment):
    """Runs a command as a process of its own."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
