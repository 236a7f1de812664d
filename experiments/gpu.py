"""What a GPU makes of this project: ``python -m experiments.gpu`` (``make gpu``), which writes docs/gpu.md.

In calls of at most nine minutes: the tests that need a GPU, what the framework, each noise and xUnits cost, the
throughput of every network, and trainings towards published figures. Each is a part; what a part found is kept in a
file, and the same command does the others. A dry run keeps its own, in ``dry/``. Exit codes: 0 all is done; 142 the
call's time is over; 3 all is done but what failed.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.cli import CONF, UserError, command, near
from experiments.signals import Interrupted

log = logging.getLogger(__name__)
GRACE = 20.0  # seconds of a call that are left to a training for its last checkpoint, and to write the page
TESTS = CONF.parent / "tests"
LEAST = 45.0  # seconds below which no part is begun
OF_TRAINING = 150.0  # below which no training is: that of a minute is to end in one go
SET, SIGMA, PUBLISHED = "BSD68", 25, {"dncnn_s": "DnCNN-S", "xdncnn": "xDnCNN"}  # that trainings are compared on
INTRO = """# On a GPU

    DENOISERS_DATA=/sets make gpu   # nine minutes at most; the same command goes on, until all is done
    while python -m experiments.gpu; [ $? -eq 142 ]; do :; done   # all of it: 142 says that a call's time is over
    python -m experiments.gpu 'models=[dncnn,xdncnn,swift]' '~trainings.speedrun_10min'   # less of it
    make gpu ARGS=dry=true          # every path of it at tiny size, without a GPU and without data

The trainings take Train400, CBSD432, Set12 and BSD68. What is done lies in `comparisons/gpu`, and is not done again.

"""


PRINTED = {  # part → its title, and how many of its last lines are shown
    "tests": ("Tests", 3),
    "framework": ("The framework's share of a step", 12),
    "noise": ("Noise", 99),
    "xunit": ("xUnits", 99),
}


class Part(NamedTuple):
    """A program, and the file that its result is read from, if it does not print it."""

    name: str
    command: list[str]
    file: Path | None = None


def parts(cfg: DictConfig, run_dir: Path) -> list[Part]:
    """All that is to be done."""
    from experiments.networks import learning
    from experiments.plan import TRAIN
    from experiments.resume import quoted
    from experiments.sweeps.work import Work

    def program(module: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", module, *arguments]

    # of others' files imports may be missing where the GPU is
    marked = [str(path) for path in sorted(TESTS.glob("test_*.py")) if "mark.cuda" in path.read_text("utf-8")]
    tests, size = program("pytest", "-n", "0", "-m", "cuda", *marked), []
    bench, noise, xunit = [f"run_dir={quoted(run_dir / 'bench')}"], [f"run_dir={quoted(run_dir / 'noise')}"], cfg.xunit
    trainings = {name: [*typed, *cfg.fast] for name, typed in cfg.trainings.items()}
    if cfg.dry:
        tests = program("pytest", "-n", "0", "-k", "cpu and bf16", str(TESTS / "test_device.py"))
        bench += ["model.num_layers=3", "model.num_features=4", "data.batch_size=2", "data.patch_size=12"]
        noise += ["noises=[sigma25]"]
        xunit = ["features=4", "kernel_size=3", "batch_size=1", "patch_size=8", "rounds=1"]
        size = ["batch_size=1", "patch_size=16", "seconds=0.01", "backend=aot_eager"]
        trainings = {name: [*typed, *cfg.tiny] for name, typed in cfg.trainings.items()}
    found = [
        Part("tests", tests),
        Part("framework", program("experiments.bench", *bench)),
        Part("noise", program("experiments.bench_noise", *noise)),
        Part("xunit", program("experiments.bench_xunit", *xunit)),
    ]
    for name in learning(cfg.models, 1):
        folder = run_dir / "throughput"
        typed = [f"models=[{name}]", f"run_dir={quoted(folder)}", *size]
        found.append(Part(f"throughput {name}", program("experiments.throughput", *typed), folder / f"{name}.json"))
    for name, typed in trainings.items():
        folder = run_dir / "runs" / name
        work = Work(TRAIN, [*typed, f"data_root={quoted(Path(cfg.data_root))}"], folder)
        found.append(Part(f"training {name}", work.command(), folder / "summary.json"))
    return found


def do(part: Part, left: float) -> tuple[int, str]:
    """Runs a part's program; it is stopped after so many seconds, a training so that it can go on.

    Returns:
        its exit code, and what it printed.
    """
    training = part.name.startswith("training")
    typed = [f"slice={left:.0f}"] if training else []
    process = subprocess.Popen(
        [*part.command, *typed],
        process_group=0,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"COLUMNS": "120"},  # of tables
    )
    try:
        printed, _ = process.communicate(timeout=left + GRACE if training else left)
    except subprocess.TimeoutExpired:
        process.terminate()
        printed, _ = process.communicate()
        return 143, printed
    except Interrupted as end:
        process.send_signal(end.number)
        process.wait()
        raise
    return process.returncode, printed


@command("gpu")
def main(cfg: DictConfig) -> None:
    import torch

    from datamodules.files import write_text
    from experiments import provenance
    from experiments.budget import parse
    from experiments.sources import load_json

    ends = time.monotonic() + parse(cfg.slice, "slice").seconds
    if not (cfg.dry or torch.cuda.is_available()):
        raise UserError("there is no GPU here: dry=true runs every path at tiny size")
    run_dir = near(HydraConfig.get().runtime.output_dir) / ("dry" if cfg.dry else "")
    wanted, kept = parts(cfg, run_dir), run_dir / "parts"
    kept.mkdir(parents=True, exist_ok=True)

    def file(part: Part, kind: str = "json") -> Path:
        return kept / f"{part.name.replace(' ', '-')}.{kind}"

    failed: dict[str, str] = {}
    over = False
    left_to_do = [part for part in wanted if not file(part).is_file()]
    left_to_do.sort(key=lambda part: file(part, "failed").is_file())  # what has failed comes last
    for part in left_to_do:
        left = ends - time.monotonic() - GRACE
        if over := left < (OF_TRAINING if part.name.startswith("training") and not cfg.dry else LEAST):
            break
        log.info(f"--- {part.name}: {' '.join(part.command[1:])}")
        code, printed = do(part, left)
        # what had not the whole call has it in the next one
        if over := code == 128 + signal.SIGALRM or (code == 128 + signal.SIGTERM and part is not left_to_do[0]):
            break
        if code:
            failed[part.name] = (printed.strip().splitlines() or ["nothing was printed"])[-1]
            write_text(file(part, "failed"), printed)
            log.info(f"failed with exit code {code}: {failed[part.name]}")
            continue
        facts = {
            "hardware": provenance.hardware(),
            "commit": provenance.commit(),
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
        }
        write_text(
            file(part),
            json.dumps(facts | (load_json(part.file) if part.file else {"printed": printed.strip()}), indent=2),
        )
    done = {part.name: load_json(file(part)) for part in wanted if file(part).is_file()}
    output = run_dir / "gpu.md" if cfg.dry else Path(cfg.output)
    write_text(output, page(done, failed))
    log.info(f"{len(done)} of {len(wanted)} parts are done: {near(output)}")
    if over:
        log.info("the call's time is over; the same command goes on")
        raise Interrupted(signal.SIGALRM)
    if failed:
        log.info("failed:\n" + "\n".join(f"  {name}: {reason}" for name, reason in failed.items()))
        raise SystemExit(3)


# --- the page ---------------------------------------------------------------------------------------------------------


def page(done: Mapping[str, Mapping[str, Any]], failed: Mapping[str, str]) -> str:
    """Markdown of what the parts found."""
    if not done and not failed:
        return INTRO + "Nothing has been measured on a GPU yet.\n"
    pieces = [INTRO.strip()]
    for name, (title, tail) in PRINTED.items():
        if name in done:
            shown = done[name]["printed"].splitlines()[-tail:]
            pieces.append(
                "\n".join([f"## {title}\n", *(f"    {line}".rstrip() for line in shown), "", where(done[name])])
            )
    if trained := {
        name.removeprefix("training "): facts for name, facts in done.items() if name.startswith("training")
    }:
        pieces.append("## Trainings\n\n" + trainings(trained))
    if measured := {name.removeprefix("throughput "): f for name, f in done.items() if name.startswith("throughput")}:
        pieces.append("## Throughput\n\n" + throughput(measured))
    if failed:
        pieces.append("## Failed\n\n" + "\n".join(f"- {name}: {reason}" for name, reason in failed.items()))
    return "\n\n".join(piece.strip() for piece in pieces) + "\n"


def where(facts: Mapping[str, Any]) -> str:
    """Under what something was found."""
    return f"{facts['hardware']}; {facts['date']}; commit {facts['commit']}."


def trainings(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A table: each training beside what is published."""
    from experiments.callbacks import duration
    from experiments.ledger import published
    from experiments.tables import Table

    known, body = published(), []
    for name, facts in found.items():
        sets = ", ".join(f"{set_} {scores['psnr']:.2f}" for set_, scores in facts["results"].items())
        row = known.get((PUBLISHED.get(name, ""), SET, 1, SIGMA))
        there = "–" if row is None else f"{SET} {row['psnr']}"
        body.append(
            [
                name,
                sets,
                there,
                f"{facts['steps']:,}",
                duration(facts["train_seconds"]),
                str(facts["seed"]),
                where(facts),
            ]
        )
    columns = ("training", "measured", "published", "steps", "training time", "seed", "where")
    note = f"PSNR in dB, mean over images, σ = {SIGMA}, protocol kair."
    return Table("Trainings", columns, body, note).markdown()


def throughput(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A table: 10⁶ pixels a second of each network."""
    from experiments.throughput import table_of

    return table_of(found, where(next(iter(found.values()))).rstrip(".")).markdown()


if __name__ == "__main__":
    main()
