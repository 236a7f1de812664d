"""Writes the report of a sweep again and again, as long as the sweep goes on."""

import time
from pathlib import Path

from experiments.report import write
from experiments.signals import Interrupted
from experiments.sweeps.ledger import LEDGER, driven, load, pids_of

EVERY = 5.0  # seconds between looks
SHARE = 0.5  # of a core's time, at most


def follow(source: Path, output: Path) -> None:
    """Writes the report whenever the sweep has changed; returns when it is over.

    The last page that it writes no longer loads itself again.

    Raises:
        Interrupted: a signal has come.
        UserError, OSError: see :func:`experiments.report.write`.
    """
    seen = None
    try:
        while goes_on(source):
            began = time.monotonic()
            if (found := traces(source)) != seen:
                write(source, output, followed=True)
                seen = found
            time.sleep(max(EVERY, (time.monotonic() - began) * (1 - SHARE) / SHARE))
    except Interrupted:
        write(source, output)
        raise
    write(source, output)


def goes_on(folder: Path) -> bool:
    """Whether a process runs the sweep, or a cell waits or runs."""
    ledger = load(folder)
    states = {entry.number: ledger.state_of(entry) for entry in ledger.entries.values()}
    runs = any(pids_of(folder / str(number)) for number, state in states.items() if state == "running")
    return runs or "waiting" in states.values() or driven(folder)


def traces(folder: Path) -> list[tuple[str, int, int]]:
    """What a change of the sweep shows in: its files' sizes and times."""
    files = [folder / LEDGER, *sorted(folder.glob("[0-9]*/*.csv")), *sorted(folder.glob("[0-9]*/summary.json"))]
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
