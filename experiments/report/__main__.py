"""Reports on what was found: ``python -m experiments.report PATH``."""

import logging
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from experiments.cli import UserError, command
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
    from datamodules.files import write_text
    from experiments.report import folders, markdown, page

    source = Path(cfg.path)
    output = Path(cfg.output) if cfg.output is not None else source
    study = folders.read(source)
    html = page.render(study)
    text = markdown.render(study, output)
    try:
        write_text(output / "report.html", html)
        write_text(output / "report.md", text)
    except OSError as error:
        raise UserError(f"output={output} cannot be written: {error.strerror}") from error
    log.info(f"{output / 'report.html'} ({len(html.encode()) / 1e6:.1f} MB), {output / 'report.md'}")


if __name__ == "__main__":
    main()
