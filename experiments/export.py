"""Trained networks as files for other runtimes: ``python -m experiments.export checkpoint=RUN_OR_FILE to=onnx``."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from experiments.cli import UserError, command, require_known
from experiments.resume import quoting

if TYPE_CHECKING:
    from denoisers.exported import Facts
    from denoisers.weights import Opened

log = logging.getLogger(__name__)
KEPT = ("model", "channels", "value_range", "axes", "noise", "seed")  # of a run's configuration, in a file


def facts_of(opened: "Opened") -> "Facts":
    """What is written into the files of a network."""
    from denoisers.clips import reach_of
    from denoisers.exported import Facts
    from denoisers.exporting import takes_level
    from denoisers.memory import bytes_per_pixel
    from denoisers.receptive import receptive_field, sight_of
    from experiments import provenance

    config: Mapping[str, Any] = {"model": opened.spec, "channels": opened.channels}
    if opened.record:
        config = {key: opened.record["config"][key] for key in KEPT if key in opened.record["config"]}
    field = receptive_field(opened.network, opened.channels)
    halo, alignment = sight_of(opened.network, opened.channels)
    if field is not None:  # networks that halve the resolution see further to one side
        field = None if halo is None else max(field, 2 * halo + 1)
    return Facts(
        network=opened.name,
        channels=opened.channels,
        level=takes_level(opened.network, opened.channels),
        reach=reach_of(opened.network),
        receptive_field=field,
        whole_image=field is None,
        alignment=alignment,
        bytes_per_pixel=bytes_per_pixel(opened.network, opened.channels),
        record={"config": config},
        versions=provenance.versions(),
        commit=provenance.commit(),
    )


def targets_of(cfg: DictConfig, name: str) -> dict[str, Path]:
    """Format → its file.

    Raises:
        UserError: an unknown format, or a file that would be lost.
    """
    from denoisers.exporting import FORMATS

    asked = [cfg.to] if isinstance(cfg.to, str) else list(cfg.to or [])
    if not asked:
        raise UserError(f"to={cfg.to}: name at least one of {', '.join(FORMATS)}")
    require_known(asked, list(FORMATS), "to")
    stem = Path(cfg.output or name)
    suffixes = {suffix for suffix, _ in FORMATS.values()}
    stem = stem.with_suffix("") if stem.suffix in suffixes else stem
    found = {each: stem.with_name(stem.name + FORMATS[each][0]) for each in dict.fromkeys(asked)}
    weights = [found["openvino"].with_suffix(".bin")] if "openvino" in found else []
    for path in (*found.values(), *weights):
        if path.exists() and path.samefile(cfg.checkpoint):
            raise UserError(f"output={path} is the checkpoint, which is never overwritten: name another file")
        if path.exists() and not cfg.overwrite:
            raise UserError(f"output={path} exists: name another file, or add overwrite=true")
    return found


@command("export", quoting("checkpoint", "output"))
def main(cfg: DictConfig) -> None:
    from datamodules.files import replacing_together
    from denoisers.exporting import FORMATS, Exporter, require_parity
    from denoisers.weights import open_network

    opened = open_network(cfg.checkpoint)
    if opened.spec is None:
        raise UserError(f"checkpoint={cfg.checkpoint} is an exported file already: give what it was exported from")
    targets = targets_of(cfg, opened.name)
    log.info(opened.said)
    facts = facts_of(opened)
    exporter = Exporter(opened.network, facts)
    for form, path in targets.items():
        with replacing_together(path) as temporary:
            FORMATS[form][1](exporter, temporary)
            apart = require_parity(opened.network, open_network(temporary, trusted=True).network, facts, path)
            size = sum(file.stat().st_size for file in temporary.parent.iterdir())
        log.info(f"{path}  {size / 1e6:.1f} MB, differs by at most {apart:.1g} from {opened.name} in PyTorch")


if __name__ == "__main__":
    main()
