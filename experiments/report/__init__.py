"""What was found, for the eye: one page that needs nothing else, and the same as Markdown."""

from pathlib import Path


def write(source: Path, output: Path | None = None, followed: bool = False) -> tuple[Path, Path]:
    """Writes ``report.html`` and ``report.md`` about a run, an evaluation, a comparison, a sweep or a folder of them.

    Args:
        source: that folder.
        output: where to; None: there.
        followed: whether a sweep's page loads itself again and again.

    Raises:
        UserError: there is nothing to report on.
        OSError: the output cannot be written.
    """
    from datamodules.files import write_text
    from experiments.report import folders, markdown, page, sweeps

    output = source if output is None else output
    study = sweeps.read(source, followed) if sweeps.is_sweep(source) else folders.read(source)
    write_text(output / "report.html", page.render(study))
    write_text(output / "report.md", markdown.render(study, output))
    return output / "report.html", output / "report.md"
