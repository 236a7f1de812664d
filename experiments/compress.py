"""One network in smaller and faster forms: ``python -m experiments.compress checkpoint=RUN_OR_FILE``.

Each variant is a file in the run's folder that ``denoise`` and ``evaluate`` take. All are scored by
``experiments.evaluate``, and what they cost is measured in processes of their own; ``compress.md`` and ``compress.csv``
hold the table. What is there is kept, so that an interrupted table goes on. Forms that cannot be made of this network
are named beneath the table with the reason; the exit code is then 3.
"""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments.cli import UserError, command, near, require_known
from experiments.variants import BASES, SUFFIXES, Workshop, parts

log = logging.getLogger(__name__)
SIZES = {256: "256²", 1024: "1024²"}  # pixels at each side, the second about a megapixel
DECIDES = ("training", "calibration", "keep", "criterion", "finetune")  # what variants are


def asked_for(cfg: DictConfig) -> list[str]:
    """The variants, float32 first, with which all others are compared.

    Raises:
        UserError: one is unknown, or another value is none that can work.
    """
    known = [*SUFFIXES, *(f"{base}{form}" for base in BASES[1:] for form in ("", *(f"-{form}" for form in SUFFIXES)))]
    asked = [cfg.variants] if isinstance(cfg.variants, str) else list(cfg.variants)
    require_known(asked, known, "variants", "variant")
    if not 0 < cfg.keep < 1:
        raise UserError(f"keep={cfg.keep}: must be above 0 and below 1, the share of channels that stay")
    for name, value in cfg.calibration.items():
        if value < 1:
            raise UserError(f"calibration.{name}={value}: must be at least 1")
    if len(cfg.size) != 2 or not all(isinstance(side, int) and side > 0 for side in cfg.size):
        raise UserError(f"size={list(cfg.size)}: must be height and width, such as [321,481]")
    found = ["float32", *(variant for variant in dict.fromkeys(asked) if variant != "float32")]
    if cfg.student is not None:
        return found
    if any(parts(variant)[0] == "distilled" for variant in found):
        log.info("distilled is left out: student=RUN names one, which train.py experiment=distill trains")
    return [variant for variant in found if parts(variant)[0] != "distilled"]


def claim(cfg: DictConfig, folder: Path) -> None:
    """Writes down of what a folder's variants are made; a folder whose variants are of something else is refused."""
    from datamodules.files import write_text
    from denoisers.checkpoint import checksum, find

    now = {key: None if cfg[key] is None else checksum(find(cfg[key])) for key in ("checkpoint", "student")}
    everything: Any = OmegaConf.to_container(cfg)
    now |= {key: everything[key] for key in DECIDES}
    kept = folder / "made_from.json"
    if kept.exists():
        then = json.loads(kept.read_text())
        now = {key: then[key] if value is None else value for key, value in now.items()}
        if changed := [key for key, value in now.items() if then[key] not in (None, value)]:
            raise UserError(
                f"run_dir={folder} holds variants that were made with another {' and '.join(changed)}: choose another "
                "run_dir, or remove that folder"
            )
    write_text(kept, json.dumps(now, indent=2))


def kept(path: Path, key: Any, measure: Callable[[], Any]) -> Any:
    """A measurement; from the file that keeps it, if it is of the same key."""
    from datamodules.files import write_text

    if path.exists() and (found := json.loads(path.read_text()))["of"] == key:
        return found["found"]
    log.info(f"measuring {path.stem}")
    found = measure()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"of": key, "found": found}, indent=2))
    return found


def costs_of(path: Path, channels: int, size: int) -> dict[str, Any]:
    """What a variant costs for an image of that side."""
    from experiments.cost import measure_apart

    place = path.parent / "costs" / f"{path.name}-{size}.json"
    return kept(place, None, lambda: measure_apart(str(path), {}, channels, size))


def scored(cfg: DictConfig, variant: str, path: Path) -> float:
    """The mean PSNR of a variant."""
    from experiments import plan
    from experiments.resume import quoted
    from experiments.sources import load_json

    folder = path.parent / "evaluations" / variant
    plain = ["metrics=[psnr,ssim]", "pictures=false", f"data_root={quoted(Path(cfg.data_root))}"]
    plan.done(plan.EVALUATE, folder, [f"checkpoint={quoted(path)}", *cfg.case, *plain])
    results = load_json(folder / "summary.json")["results"].values()
    return sum(r["psnr"] * r["n"] for r in results) / sum(r["n"] for r in results)


def made(workshop: Workshop, variants: Sequence[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """The variants' files, and of those that this network does not have the reason.

    Raises:
        CheckpointError: it has none in float32, with which all others are compared.
    """
    from denoisers.exporting import ExportError
    from denoisers.pruning import PruningError

    files: dict[str, Path] = {}
    refused: dict[str, str] = {}
    for variant in variants:
        try:
            files[variant] = workshop.make(variant)
        except (ExportError, PruningError) as error:
            if variant == "float32":
                raise
            refused[variant] = str(error)
            log.warning(f"WARNING: {variant} is left out: {error}")
    return files, refused


@command("compress")
def main(cfg: DictConfig) -> None:
    variants = asked_for(cfg)

    from datamodules.files import write_text
    from denoisers.pruning import CRITERIA
    from experiments import provenance
    from experiments.cost import turns_apart
    from experiments.tables import Table

    require_known([cfg.criterion], CRITERIA, "criterion")
    run_dir = near(HydraConfig.get().runtime.output_dir)
    workshop = Workshop(cfg, run_dir)
    channels = workshop.network("").channels
    claim(cfg, run_dir)
    files, refused = made(workshop, variants)
    psnr = {variant: scored(cfg, variant, path) for variant, path in files.items()}
    costs = {variant: {size: costs_of(path, channels, size) for size in SIZES} for variant, path in files.items()}
    places, (height, width) = {variant: str(path) for variant, path in files.items()}, cfg.size
    key = [places, height, width]
    ms = kept(run_dir / "costs" / "turns.json", key, lambda: turns_apart(places, channels, height, width))

    body = []
    for variant, path in files.items():
        size = sum(file.stat().st_size for file in {path, path.with_suffix(".bin")} if file.exists())
        line = [variant, f"{psnr[variant]:.2f}", f"{psnr[variant] - psnr['float32']:+.3f}", f"{size / 1e6:.2f}"]
        line += [f"{ms[variant]:,.0f}", f"{ms['eager'] / ms[variant]:.1f}×"]
        for pixels in SIZES:
            cost = costs[variant][pixels]
            line += [f"{cost['cpu_ms']:,.0f}", "–" if cost["peak_mb"] is None else f"{cost['peak_mb']:,.0f}"]
        body.append(line)
    columns = ["variant", "PSNR", "difference", "MB", f"CPU ms {width}×{height}", "against eager"]
    columns += [f"{what} {size}" for size in SIZES.values() for what in ("CPU ms", "peak MB")]
    note = (
        f"{workshop.network('').name}, {'grey' if channels == 1 else 'RGB'}; PSNR in dB, mean over images: "
        f"{' '.join(cfg.case)}; MB: of the file; CPU ms: the median of 7 runs, at {width}×{height} all by turns in one "
        f"process, beside eager PyTorch in float32 as it comes ({ms['eager']:,.0f} ms; float32 here is channels_last); "
        f"peak: memory beyond the network's own. Calibrated and fine-tuned: {' '.join(cfg.training)}; pruned: keep="
        f"{cfg.keep} by {cfg.criterion}. {provenance.hardware()}; commit {provenance.commit()}."
    )
    reasons = [f"{variant} is left out: {reason}." for variant, reason in refused.items()]
    table = Table("Smaller and faster forms", columns, body, "\n\n".join([note, *reasons]))
    write_text(run_dir / "compress.csv", table.csv())
    write_text(run_dir / "compress.md", table.markdown())
    table.show()
    log.info(f"table       {run_dir / 'compress.md'}")
    if refused:
        raise SystemExit(3)


if __name__ == "__main__":
    main()
