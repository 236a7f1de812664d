"""A job for tests of engines, a second long: ``engine_job.py kind=KIND run_dir='FOLDER'``.

It counts its starts, and ends in the way that its kind says.
"""

import os
import signal
import sys
import time
from pathlib import Path

said = dict(argument.split("=", 1) for argument in sys.argv[1:])
folder = Path(said["run_dir"].strip("'"))
with (folder / "starts").open("a") as file:
    file.write(f"{os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\n")
starts = len((folder / "starts").read_text().splitlines())


def save(number: int, frame: object) -> None:
    (folder / "saved").touch()
    sys.exit(128 + number)


for ending in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    signal.signal(ending, save)
if said["kind"] == "fail":
    sys.exit("a reason")
if said["kind"] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if said["kind"] == "wait" and starts == 1:
    time.sleep(60)
(folder / "summary.json").write_text("{}")
