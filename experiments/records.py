"""Time to quality: ``python -m experiments.records``, which trains what has no record yet and writes docs/records.md.

The clock of a training runs from the start of its process to its last weights: imports, decoding, training, validation
on held-out training images. The test images are scored once, afterwards.
"""

import json
import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.cli import command, near, require_known
from experiments.sources import load_json

log = logging.getLogger(__name__)
CLOCK = "clock.json"  # in a run's folder: seconds
COLUMNS = ("preset", "target", "reached", "seeds", "clock", "steps", "parameters", "hardware", "commit")
INTRO = """# Records: the least time to a given quality

    python -m experiments.records                   # trains what has no record yet, then writes this page
    python train.py experiment=speedrun/cpu seed=3  # one more seed of one of them

From scratch, on the photographs of CBSD432 in grey; σ = 25. A recipe, `conf/experiment/speedrun/PRESET.yaml`, is
chosen on training images that are held out ([how](networks.md#swift)); BSD68 is scored once, after the clock has
stopped, under protocol `kair`, by the network's single plain estimate. The clock runs from the start of the process to
the last weights: Python's imports, decoding, training and validation count.

"""


def timed(folder: Path, typed: Sequence[str]) -> None:
    """Trains into a folder, unless that has been done, and keeps what the clock said of a training in one go."""
    from datamodules.files import write_text
    from experiments import plan

    begun, started = (folder / "config.yaml").exists(), time.monotonic()
    plan.done(plan.TRAIN, folder, typed)
    if not begun:
        summary = load_json(folder / "summary.json")
        testing = summary["wall_seconds"] - summary["train_seconds"]
        write_text(folder / CLOCK, json.dumps({"seconds": round(time.monotonic() - started - testing, 1)}))


def spread(values: Sequence[float], said: Callable[[float], str]) -> str:
    """The mean as it is said, and of several values their standard deviation: ``28.97 ± 0.01``."""
    mean = said(statistics.fmean(values))
    return mean if len(values) < 2 else f"{mean} ± {said(statistics.stdev(values))}"


def row(preset: str, target: float, runs: Mapping[int, Path]) -> list[str]:
    """What a table says of a preset.

    Args:
        target: PSNR in dB, mean over BSD68.
        runs: seed → the folder of its run, finished or not.
    """
    from experiments.callbacks import duration

    done = {seed: run for seed, run in runs.items() if (run / "summary.json").is_file()}
    if not done:
        return [preset, f"{target:.2f}", "not run here", *["–"] * 6]
    found = [load_json(run / "summary.json") for run in done.values()]
    clocks = [load_json(run / CLOCK).get("seconds") for run in done.values()]
    clock = "interrupted" if None in clocks else spread(clocks, duration)
    [name] = found[0]["results"]
    scores = f"{name} {spread([summary['results'][name]['psnr'] for summary in found], '{:.2f}'.format)}"
    facts = [f"{found[0][key]:,}" for key in ("steps", "parameters")]
    return [
        preset,
        f"{target:.2f}",
        scores,
        ", ".join(map(str, done)),
        clock,
        *facts,
        found[0]["hardware"],
        found[0]["commit"][:7],
    ]


@command("records")
def main(cfg: DictConfig) -> None:
    from datamodules.files import write_text
    from experiments import provenance
    from experiments.resume import quoted
    from experiments.tables import Table

    require_known(cfg.presets, cfg.records, "presets")
    run_dir = near(HydraConfig.get().runtime.output_dir)
    body = []
    for preset, entry in cfg.records.items():
        runs = {seed: Path(run_dir) / f"{preset}-{seed}" for seed in entry.seeds}
        for seed, folder in runs.items():
            if preset in cfg.presets:
                typed = [f"experiment=speedrun/{preset}", f"seed={seed}", f"data_root={quoted(Path(cfg.data_root))}"]
                timed(folder, [*typed, *cfg.training])
        body.append(row(preset, entry.target, runs))
    shown: Any = [[*beside] for beside in cfg.beside]
    versions = provenance.versions()
    named = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "lightning"))
    note = f"PSNR in dB, mean over images; ± is the standard deviation over seeds. {named}."
    table = Table("Records", COLUMNS, body, note)
    others = Table("Beside them", ("method", "BSD68", "training", "from"), shown)
    write_text(Path(cfg.output), INTRO + table.markdown() + "\n" + others.markdown())
    table.show()
    log.info(f"records     {near(cfg.output)}")


if __name__ == "__main__":
    main()
