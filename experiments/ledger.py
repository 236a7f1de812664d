"""Published weights beside what is published of them: ``python -m experiments.ledger``, which writes ``ledger.md``.

Each file is scored on each set and noise level that conf/ledger.yaml lists, by ``experiments.evaluate`` in a process of
its own; what has been scored is kept, so that an interrupted ledger goes on.
"""

import csv
import logging
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.cli import UserError, command, near

log = logging.getLogger(__name__)
COLUMNS = ("file", "set", "images", "σ", "published", "measured", "difference", "SSIM", "published as", "source")


def cases(cfg: DictConfig) -> list[tuple[str, str, int, str]]:
    """File, data set, σ and name under which it is published; files that are not there are left out, which is said.

    Raises:
        UserError: none is there.
    """
    found = []
    for file, entry in cfg.files.items():
        if not (Path(cfg.weights) / file).is_file():
            log.info(f"left out: there is no {Path(cfg.weights) / file}")
            continue
        found += [(file, data, sigma, entry.published) for data in entry.data for sigma in entry.sigmas]
    if not found:
        raise UserError(f"weights={cfg.weights}: none of {', '.join(cfg.files)} is there")
    return found


def published() -> dict[tuple[str, str, int, int], dict[str, str]]:
    """Name, set, channels and σ → the row of experiments/published.csv."""
    from experiments.findings import PUBLISHED

    with PUBLISHED.open(encoding="utf-8") as file:
        return {(r["published_as"], r["set"], int(r["channels"]), int(r["sigma"])): r for r in csv.DictReader(file)}


def scored(checkpoint: Path, data: str, sigma: int, folder: Path, data_root: str) -> dict[str, Any]:
    """The summary of an evaluation under ``kair``, which is made unless the folder holds it."""
    from experiments import plan
    from experiments.resume import quoted
    from experiments.sources import load_json

    asked = [f"checkpoint={quoted(checkpoint)}", f"data={data}", f"noise=sigma{sigma}", "protocol=kair"]
    asked += ["metrics=[psnr,ssim]", "pictures=false", f"data_root={quoted(Path(data_root))}"]
    plan.done(plan.EVALUATE, folder, asked)
    return load_json(folder / "summary.json")


@command("ledger")
def main(cfg: DictConfig) -> None:
    from datamodules.files import write_text
    from experiments import provenance
    from experiments.tables import Table

    run_dir, weights = near(HydraConfig.get().runtime.output_dir), Path(cfg.weights)
    known, body = published(), []
    for name, data, sigma, published_as in cases(cfg):
        folder = run_dir / "evaluations" / "-".join([*Path(name).with_suffix("").parts, data, str(sigma)])
        summary = scored(weights / name, data, sigma, folder, cfg.data_root)
        [(set_name, result)] = summary["results"].items()
        row = known.get((published_as, set_name, summary["channels"], sigma))
        theirs = ["–", "–"] if row is None else [row["psnr"], f"{result['psnr'] - float(row['psnr']):+.4f}"]
        figures = [theirs[0], f"{result['psnr']:.4f}", theirs[1], f"{result['ssim']:.4f}"]
        source = "–" if row is None else row["source"]
        body.append([name, set_name, str(result["n"]), str(sigma), *figures, published_as, source])

    note = f"PSNR in dB, mean over images, protocol kair; {provenance.hardware()}; commit {provenance.commit()}."
    table = Table("Published weights, scored here", COLUMNS, body, note)
    write_text(run_dir / "ledger.md", table.markdown())
    table.show()
    log.info(f"ledger      {run_dir / 'ledger.md'}")


if __name__ == "__main__":
    main()
