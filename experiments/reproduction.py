"""Published trainings beside what they gave here: ``python -m experiments.reproduction``, which writes
docs/reproduction.md.

Of every preset below conf/experiment/reproduce/ it finds the finished runs; blind networks are scored at each σ, by
``experiments.evaluate``. What has not been run is stated with the GPU-hours that it may take.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from experiments import ledger, resume
from experiments.cli import UserError, command, near
from experiments.sources import load_json

log = logging.getLogger(__name__)
COLUMNS = ("preset", "trained with", "σ", "published", "measured", "difference", "seed", "with", "time", "hardware")
SETS = ("Set12", "BSD68")  # of a preset's test
SIGMAS = (15, 25, 50)  # at which blind networks are scored
BACKWARD = 3  # a training step costs about so many forward passes
# overrides that say nothing of how a preset was changed, or that the ledger says otherwise
OF_THE_LEDGER = ("experiment", "noise", "seed", "data_root", "trainer.max_steps", "budget")
INTRO = """# Reproductions

Presets that train as published, what is published of them, and what they gave here. Each preset's file,
`conf/experiment/reproduce/PRESET.yaml`, cites where its recipe is from, and says what is other here.

    python train.py experiment=reproduce/dncnn_s noise=sigma25 slice=9min

trains for nine minutes, saves, and ends with exit code 142; the same command goes on, to the same last bit, until the
run is finished and scored (exit code 0):

    while python train.py experiment=reproduce/xdncnn noise=sigma50 slice=9min; [ $? -eq 142 ]; do :; done

`seed=1` is another run. The folder is `runs/reproduce/PRESET-NOISE-SEED`. Sets that are missing are named before any
work, with how to get them; Urban100 joins the test with `data.splits.test=[Set12,BSD68,Urban100]`. This page is written
by `python -m experiments.reproduction`. A run that is shorter than its preset says so; those of

    python -m experiments.compare comparison=sigma50 run_dir=comparisons/sigma50
    python -m experiments.compare comparison=sigma50_minutes run_dir=comparisons/sigma50_minutes

teach DnCNN-S and xDnCNN for as many steps, or minutes, as each other ([comparisons.md](comparisons.md)).

"""


def gpu_hours(model: Mapping[str, Any], channels: int, training: Mapping[str, Any], tflops: float) -> float:
    """How long a training takes on a GPU that sustains so many 10¹² floating-point operations a second.

    Args:
        model: its configuration.
        channels: of its pictures.
        training: ``steps``; ``micro`` batches of each; ``stages``: (share of the run, patch size, batch size).
        tflops: see above.

    Returns:
        Σ over stages of steps × crops × multiply–accumulates of a crop × 2 × 3 (forward and backward) / throughput.
    """
    operations = 0.0
    for share, patch, batch in training["stages"]:
        crops = share * training["steps"] * training["micro"] * batch
        operations += crops * multiplications(model, channels, patch) * 2 * BACKWARD
    return operations / (tflops * 1e12) / 3600


def multiplications(model: Mapping[str, Any], channels: int, patch: int) -> int:
    """Multiply–accumulates of one crop, counted without computing any."""
    import torch
    from hydra.utils import instantiate
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        instantiate(dict(model)).eval()(torch.empty(1, channels, patch, patch), torch.empty(1, 1, 1, 1))
    return counter.get_total_flops() // 2


def training_of(cfg: DictConfig) -> dict[str, Any]:
    """The length of a preset's training, as :func:`gpu_hours` takes it."""
    stages = cfg.data.progressive or [[0, cfg.data.patch_size, cfg.data.batch_size]]
    ends = [begin for begin, *_ in stages[1:]] + [1]
    shares = [(end - begin, patch, batch) for (begin, patch, batch), end in zip(stages, ends, strict=True)]
    return {"steps": cfg.trainer.max_steps, "micro": cfg.trainer.accumulate_grad_batches, "stages": shares}


def changes(run: Path, steps: int, whole: int) -> str:
    """How much shorter a run of so many steps is than the preset's whole, and what was typed beside the preset."""
    typed = " ".join(text for key, text in resume.started_with(run).items() if key not in OF_THE_LEDGER)
    short = f"shortened: {steps:,} of {whole:,} steps" if steps < whole else ""
    return "; ".join(filter(None, [short, typed])) or "–"


def runs_of(preset: str, noise: str, cfg: DictConfig) -> list[Path]:
    """Of a preset's runs for one noise: those in ``cfg.runs`` by their names, in ``cfg.others`` by what was typed."""
    named, typed = re.compile(rf"{preset}-{noise}-\d+"), {f"experiment=reproduce/{preset}", f"noise={noise}"}
    found = [folder for folder in sorted(Path(cfg.runs).glob("*")) if named.fullmatch(folder.name)]
    for others in cfg.others:
        found += [f for f in sorted(Path(others).glob("*")) if typed <= {*resume.started_with(f).values()}]
    return [folder for folder in found if (folder / "config.yaml").is_file()]


def results(run: Path, noise: str, entry: Mapping[str, Any], data_root: str) -> dict[str, dict[str, Any]]:
    """σ as text → set → what a finished run scored there; the test of its own, or, of a blind network, evaluations."""
    own = load_json(run / "summary.json")["results"]
    if not noise.startswith("blind"):
        return {noise.removeprefix("sigma").replace("none", "real"): own}
    found: dict[str, dict[str, Any]] = {}
    for sigma in SIGMAS:
        for data in entry["data"]:
            folder = run / "evaluations" / f"{data}-{sigma}"
            found.setdefault(str(sigma), {}).update(ledger.scored(run, data, sigma, folder, data_root)["results"])
    return found


def lines(
    preset: str,
    noise: str,
    entry: Mapping[str, Any],
    runs: Sequence[Path],
    hours: float,
    whole: int,
    data_root: str,
    published: Mapping[tuple[str, str, int, int], Mapping[str, str]],
) -> list[list[str]]:
    """The table's rows of a preset trained for one noise.

    Args:
        preset, noise, entry: its name, the choice of noise, and what conf/reproduction.yaml says of it.
        runs: the folders of its runs.
        hours, whole: of a GPU, and steps, that the whole preset takes.
        data_root: where named data sets lie.
        published: see :func:`experiments.ledger.published`.
    """
    from experiments.callbacks import duration

    known = {k[1:]: row["psnr"] for k, row in published.items() if k[0] == entry["published"]}
    sigmas = [str(s) for s in SIGMAS] if noise.startswith("blind") else [noise.removeprefix("sigma")]

    def theirs(sigma: str) -> dict[str, str]:
        return {name: psnr for (name, channels, level), psnr in known.items() if (channels, str(level)) == (1, sigma)}

    finished = [run for run in runs if (run / "summary.json").is_file()]
    if not finished:
        state = "begun, not finished" if runs else "not run here"
        scale = f"about {hours:,.1f} GPU-hours" if hours < 10 else f"about {hours:,.0f} GPU-hours"
        said = {sigma: cell({name: theirs(sigma).get(name) for name in SETS}) for sigma in sigmas}
        shown = {sigma: sigma.replace("none", "real") for sigma in sigmas}
        return [[preset, noise, shown[s], said[s], state, "–", "–", "–", scale, "–"] for s in sigmas]
    body = []
    for run in finished:
        summary = load_json(run / "summary.json")
        time = duration(summary["train_seconds"])
        for sigma, sets in results(run, noise, entry, data_root).items():
            row = [preset, noise, sigma, cell({name: theirs(sigma).get(name) for name in sets})]
            row += [cell({name: f"{result['psnr']:.2f}" for name, result in sets.items()})]
            row += [cell({name: difference(result["psnr"], theirs(sigma).get(name)) for name, result in sets.items()})]
            body.append([*row, str(summary["seed"]), changes(run, summary["steps"], whole), time, summary["hardware"]])
    return body


def difference(measured: float, published: str | None) -> str | None:
    """As it is printed; None where nothing is published."""
    return None if published is None else f"{measured - float(published):+.2f}"


def cell(values: Mapping[str, str | None]) -> str:
    """``Set12 30.44, BSD68 29.23``; a dash if there is nothing to say."""
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None) or "–"


@command("reproduction")
def main(cfg: DictConfig) -> None:
    from datamodules.files import write_text
    from experiments import provenance
    from experiments.tables import Table

    if not isinstance(cfg.tflops, (int, float)) or cfg.tflops <= 0:
        raise UserError(f"tflops={cfg.tflops}: must be a number above 0")
    published, body = ledger.published(), []
    for preset, entry in cfg.presets.items():
        for noise in entry.noises:
            composed = hydra.compose("train", [f"experiment=reproduce/{preset}", f"noise={noise}"])
            model: Any = OmegaConf.to_container(composed.model, resolve=True)
            hours = gpu_hours(model, composed.channels, training_of(composed), cfg.tflops)
            runs, whole = runs_of(preset, noise, cfg), composed.trainer.max_steps
            body += lines(preset, noise, entry, runs, hours, whole, cfg.data_root, published)
    note = (
        "PSNR in dB, mean over images, protocol kair, grey; published figures are those of experiments/published.csv: "
        "none is given where none could be confirmed (Restormer's) or where the sets differ (NAFNet's). GPU-hours: "
        f"steps × crops × multiply–accumulates of a crop × 2 × {BACKWARD} (forward and backward) at {cfg.tflops:g} "
        "TFLOP/s, which is assumed, not measured; networks of many small or depthwise convolutions get less. "
        f"Commit {provenance.commit()}."
    )
    table = Table("Published trainings", COLUMNS, body, note)
    output = Path(cfg.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, INTRO + table.markdown())
    table.show()
    log.info(f"ledger      {near(output)}")


if __name__ == "__main__":
    main()
