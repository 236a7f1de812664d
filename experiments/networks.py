"""Every network beside every other: ``python -m experiments.networks``, which writes ``networks.md``.

What a network costs is measured in a process of its own and kept, so that an interrupted table goes on. The smallest
networks are trained too, by train.py.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments.cli import CONF, UserError, command, near, require_known

log = logging.getLogger(__name__)
SIZES = {256: "256²", 1024: "1024²"}  # pixels at each side, the second about a megapixel
CLASSICAL = ("denoisers.classical.", "denoisers.networks.identity.")  # have nothing to learn


def learning(names: Sequence[str] | None, channels: int) -> dict[str, dict[str, Any]]:
    """Choice of the model axis → its configuration, of the named ones, or of all, that learn.

    Raises:
        UserError: there is no network of that name, or it has nothing to learn.
    """
    known = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
    require_known(names or [], known, "models")
    found = {}
    for name in names or known:
        composed = hydra.compose("train", [f"model={name}", f"channels={channels}"])
        config: Any = OmegaConf.to_container(composed.model, resolve=True)
        if not config["_target_"].startswith(CLASSICAL):
            found[name] = config
        elif names:
            raise UserError(f"models={list(names)}: {name} has nothing to learn")
    return found


def reach(model: dict[str, Any], channels: int) -> int | None:
    """:func:`denoisers.receptive.receptive_field` of a model's configuration."""
    from hydra.utils import instantiate

    from denoisers.receptive import receptive_field

    return receptive_field(instantiate(model).eval(), channels)


def measured(model: dict[str, Any], channels: int, kept: Path) -> dict[str, Any]:
    """What a network costs; from the file that keeps it, if it was measured already."""
    from datamodules.files import write_text
    from experiments.cost import measure_apart

    if kept.exists() and (found := json.loads(kept.read_text()))["model"] == model:
        return found
    log.info(f"measuring {kept.stem}")
    costs = {str(size): measure_apart(None, model, channels, size) for size in SIZES}
    found = {"model": model, "field": reach(model, channels), **costs}
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_text(kept, json.dumps(found, indent=2))
    return found


def trained(name: str, cfg: DictConfig, folder: Path) -> tuple[str, str]:
    """The steps that a network made, and the mean PSNR on each test set."""
    from experiments import plan
    from experiments.resume import quoted
    from experiments.sources import load_json

    asked = [*cfg.recipe, f"model={name}", f"channels={cfg.channels}", f"data_root={quoted(Path(cfg.data_root))}"]
    plan.done(plan.TRAIN, folder, asked)
    results = load_json(folder / "summary.json")["results"]
    steps = OmegaConf.load(folder / "config.yaml").trainer.max_steps
    return f"{steps:,}", " / ".join(f"{name} {result['psnr']:.2f}" for name, result in results.items())


@command("networks")
def main(cfg: DictConfig) -> None:
    if not isinstance(cfg.train, int) or cfg.train < 0:
        raise UserError(f"train={cfg.train}: must be a whole number from 0")

    from datamodules.files import write_text
    from experiments import provenance
    from experiments.tables import Table

    run_dir = near(HydraConfig.get().runtime.output_dir)
    models = learning(cfg.models, cfg.channels)
    found = {name: measured(model, cfg.channels, run_dir / "costs" / f"{name}.json") for name, model in models.items()}
    order = sorted(found, key=lambda name: found[name]["256"]["parameters"])
    learnt = {name: trained(name, cfg, run_dir / "runs" / name) for name in order[: cfg.train]}

    body = []
    for name in order:
        field, small = found[name]["field"], found[name]["256"]
        line = [name, f"{small['parameters']:,}", f"{small['macs'] / 1e9:.2f}", "all" if field is None else str(field)]
        for size in SIZES:
            cost = found[name][str(size)]
            line += [f"{cost['cpu_ms']:,.0f}", "–" if cost["peak_mb"] is None else f"{cost['peak_mb']:,.0f}"]
        body.append([*line, *learnt.get(name, ("–", "–"))])
    columns = ["network", "parameters", "GMACs 256²", "receptive field"]
    columns += [f"{what} {size}" for size in SIZES.values() for what in ("CPU ms", "peak MB")]
    note = (
        f"{'Grey' if cfg.channels == 1 else 'RGB'}, float32, each image whole; CPU ms: the median of up to 7 runs, "
        "one if it takes over 10 s; peak: memory beyond the network's own. Learnt: "
        f"{' '.join(cfg.recipe)}, seed 0; PSNR in dB, mean over images, protocol kair. "
        f"{provenance.hardware()}; commit {provenance.commit()}."
    )
    table = Table("The networks, by their parameters", [*columns, "steps", "learnt"], body, note)
    write_text(run_dir / "networks.md", table.markdown())
    table.show()
    log.info(f"table       {run_dir / 'networks.md'}")


if __name__ == "__main__":
    main()
