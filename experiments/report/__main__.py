"""Reports on what was found: ``python -m experiments.report PATH``."""

import logging
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from experiments.cli import UserError, command
from experiments.report import write
from experiments.resume import quoted

log = logging.getLogger(__name__)


def overrides(arguments: Sequence[str]) -> list[str]:
    """``PATH output=DIR`` → ``path='PATH' output=DIR``.

    Raises:
        UserError: more than one path is given.
    """
    places = [a for a in arguments if not a.startswith("-") and ("=" not in a or Path(a).is_dir())]
    if len(places) > 1:
        raise UserError(f"{' and '.join(places)}: a report is about one path; put them into one folder")
    return [f"path={quoted(Path(argument))}" if argument in places else argument for argument in arguments]


@command("report", overrides)
def main(cfg: DictConfig) -> None:
    source = Path(cfg.path)
    output = Path(cfg.output) if cfg.output is not None else source
    try:
        for path in write(source, output):
            log.info(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    except OSError as error:
        raise UserError(f"output={output} cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    main()
