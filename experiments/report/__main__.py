"""Reports on what was found: ``python -m experiments.report PATH``."""

import logging
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from experiments.cli import UserError, command
from experiments.report import sweeps, write
from experiments.report.follow import follow
from experiments.resume import quoted

log = logging.getLogger(__name__)


def overrides(arguments: Sequence[str]) -> list[str]:
    """``PATH --follow output=DIR`` → ``path='PATH' follow=true output=DIR``.

    Raises:
        UserError: more than one path is given.
    """
    places = [a for a in arguments if not a.startswith("-") and ("=" not in a or Path(a).is_dir())]
    if len(places) > 1:
        raise UserError(f"{' and '.join(places)}: a report is about one path; put them into one folder")
    arguments = ["follow=true" if argument == "--follow" else argument for argument in arguments]
    return [f"path={quoted(Path(argument))}" if argument in places else argument for argument in arguments]


@command("report", overrides)
def main(cfg: DictConfig) -> None:
    source = Path(cfg.path)
    output = Path(cfg.output) if cfg.output is not None else source
    if cfg.follow and not sweeps.is_sweep(source):
        raise UserError(f"follow=true: {source} is no sweep (it has no ledger.json), and nothing else goes on")
    try:
        if cfg.follow:
            log.info(f"{output / 'report.html'} is written again whenever {source} changes, until the sweep is over")
            follow(source, output)
        for path in (output / "report.html", output / "report.md") if cfg.follow else write(source, output):
            log.info(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    except OSError as error:
        raise UserError(f"output={output} cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    main()
