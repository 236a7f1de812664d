"""Every network in every export format: ``python -m experiments.exports``, which writes ``exports.md``.

Networks have weights as before training, but none is left at zero, and batch norm has statistics of its own.
"""

import json
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.cli import command, near
from experiments.networks import learning

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)


def stir(network: "nn.Module") -> "nn.Module":
    """Random numbers for weights that begin at zero, and for the statistics of batch norm; evaluation mode."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        if not weight.any():
            weight.data.normal_(0, 0.02, generator=generator)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1, generator=generator)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def tried(name: str, model: dict[str, Any], channels: int, kept: Path) -> dict[str, Any]:
    """Format → the file's bytes and how far it is from PyTorch, or why there is none; kept in a file."""
    from hydra.utils import instantiate

    from datamodules.files import write_text
    from denoisers.clips import reach_of
    from denoisers.exported import Facts
    from denoisers.exporting import FORMATS, Exporter, ExportError, require_parity, takes_level
    from denoisers.weights import open_network

    if kept.exists() and (found := json.loads(kept.read_text()))["model"] == model:
        return found
    network = stir(instantiate(model))
    record = {"config": {"model": model, "channels": channels}}
    facts = Facts(name, channels, takes_level(network, channels), reach_of(network), record=record)
    exporter, found = Exporter(network, facts), {"model": model}
    for form, (suffix, write) in FORMATS.items():
        log.info(f"{name} to {form}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}{suffix}"
            try:
                write(exporter, path)
                apart = require_parity(network, open_network(path, trusted=True).network, facts, path)
                found[form] = {"bytes": sum(file.stat().st_size for file in path.parent.iterdir()), "apart": apart}
            except ExportError as error:
                found[form] = {"refused": str(error)}
    write_text(kept, json.dumps(found, indent=2))
    return found


@command("exports")
def main(cfg: DictConfig) -> None:
    from datamodules.files import write_text
    from denoisers.exporting import FORMATS, LEVELS, TOLERANCE, TRIED
    from experiments import provenance
    from experiments.tables import Table

    run_dir = near(HydraConfig.get().runtime.output_dir)
    models = learning(cfg.models, cfg.channels)
    body, refusals = [], []
    for name, model in models.items():
        found = tried(name, model, cfg.channels, run_dir / "files" / f"{name}.json")
        row = [name]
        for form in FORMATS:
            cell = found[form]
            row.append("refused" if "refused" in cell else f"{cell['bytes'] / 1e6:.1f} MB, {cell['apart']:.1g}")
            refusals += [f"{name} to {form}: {cell['refused']}"] if "refused" in cell else []
        body.append(row)
    sizes = ", ".join(f"{batch}×{height}×{width}" for batch, _, height, width in TRIED)
    note = (
        f"{'Grey' if cfg.channels == 1 else 'RGB'}; the file's size, and the largest difference from the network in "
        f"PyTorch, of estimates in [0, 1], over images of {sizes} (batch, height, width; clips of "
        f"{', '.join(str(frames) for _, frames, _, _ in TRIED)} frames), told networks at σ = "
        f"{' and '.join(f'{level * 255:.0f}' for level in LEVELS)}; above {TOLERANCE:g} it is refused. "
        f"{provenance.hardware()}; commit {provenance.commit()}."
    )
    table = Table("The networks in each format", ["network", *FORMATS], body, "\n\n".join([note, *refusals]))
    write_text(run_dir / "exports.md", table.markdown())
    table.show()
    log.info(f"table       {run_dir / 'exports.md'}")


if __name__ == "__main__":
    main()
