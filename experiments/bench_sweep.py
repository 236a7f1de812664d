"""What a sweep costs beside its jobs: ``python -m experiments.bench_sweep`` (``make bench``).

The same jobs, with nothing to train and two small pictures to score, run one after another: each typed by hand, as one
sweep, and as that sweep again, when there is nothing left to do.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments import provenance
from experiments.cli import CONF

JOBS = 8
TRIVIAL = ("model=identity", "trainer=cpu", "channels=1")


def seconds(*arguments: str) -> float:
    """How long train.py takes."""
    started = time.perf_counter()
    command = [sys.executable, str(CONF.parent / "train.py"), *arguments, *TRIVIAL]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        by_hand = sum(seconds(f"seed={seed}", f"run_dir={folder / f'job-{seed}'}") for seed in range(JOBS))
        seeds = f"seed={','.join(map(str, range(JOBS)))}"
        whole = ["-m", seeds, "hydra.launcher.jobs=1", f"hydra.sweep.dir={folder / 'sweep'}"]
        sweep, nothing = seconds(*whole), seconds(*whole)
    each = (sweep - by_hand - nothing) / JOBS
    print(
        f"{JOBS} jobs take {by_hand:.1f} s typed one by one and {sweep:.1f} s as a sweep, {sweep / by_hand:.2f} times: "
        f"{nothing:.1f} s once, for imports and for looking at all cells, and {each:+.2f} s for each job; "
        f"{provenance.hardware()}"
    )


if __name__ == "__main__":
    main()
