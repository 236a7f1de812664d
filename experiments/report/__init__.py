"""What was found, for the eye: one page that needs nothing else, and the same as Markdown."""

from pathlib import Path


def write(source: Path, output: Path | None = None) -> tuple[Path, Path]:
    """Writes ``report.html`` and ``report.md`` about a run, an evaluation, a comparison or a folder of them.

    Args:
        source: that folder.
        output: where to; None: there.

    Raises:
        UserError: there is nothing to report on.
        OSError: the output cannot be written.
    """
    from datamodules.files import write_text
    from experiments.report import folders, markdown, page

    output = source if output is None else output
    study = folders.read(source)
    write_text(output / "report.html", page.render(study))
    write_text(output / "report.md", markdown.render(study, output))
    return output / "report.html", output / "report.md"
