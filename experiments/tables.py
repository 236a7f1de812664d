"""A table, as Markdown, LaTeX and CSV."""

import csv
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import rich.box
import rich.table
from rich.console import Console
from rich.markup import escape

SHORT = 24  # a column of such cells is never broken
LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"} | {"±": r"$\pm$", "σ": r"$\sigma$", "×": r"$\times$", "–": "--", "−": "$-$"}
)


@dataclass(frozen=True)
class Table:
    """A title, columns and rows of text.

    Args:
        best: (row, column) of the cells that are set in bold.
        note: what stands below.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    best: frozenset[tuple[int, int]] = field(default=frozenset())

    def plain(self) -> dict[str, Any]:
        """As plain containers, for JSON."""
        return {"title": self.title, "note": self.note, "columns": [*self.columns], "rows": [[*r] for r in self.rows]}

    def markdown(self) -> str:
        """GitHub's: figures to the right."""
        aligned = ["---" if i == 0 else "---:" for i in range(len(self.columns))]
        body = [
            [f"**{c}**" if (i, j) in self.best else c for j, c in enumerate(row)] for i, row in enumerate(self.rows)
        ]
        lines = ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in (self.columns, aligned, *body)]
        return "\n".join([f"**{self.title}**", "", *lines, *(["", self.note] if self.note else [])]) + "\n"

    def latex(self) -> str:
        """A ``table`` that needs no package."""

        def line(cells: Sequence[str]) -> str:
            return "  " + " & ".join(cells) + r" \\"

        def cell(i: int, j: int, text: str) -> str:
            escaped = text.translate(LATEX)
            return rf"\textbf{{{escaped}}}" if (i, j) in self.best else escaped

        body = [line([cell(i, j, text) for j, text in enumerate(row)]) for i, row in enumerate(self.rows)]
        caption = " ".join(filter(None, (f"{self.title}.", self.note))).translate(LATEX)
        head = line([column.translate(LATEX) for column in self.columns])
        form = "l" + "r" * (len(self.columns) - 1)
        begin = [r"\begin{table}", rf"  \caption{{{caption}}}", rf"  \begin{{tabular}}{{{form}}}", r"  \hline"]
        return "\n".join([*begin, head, r"  \hline", *body, r"  \hline", r"  \end{tabular}", r"\end{table}"]) + "\n"

    def rich(self) -> rich.table.Table:
        """For the terminal: titles are broken at their blanks, figures never."""
        shown = rich.table.Table(
            title=self.title, caption=self.note or None, title_justify="left", caption_justify="left"
        )
        shown.box, shown.padding, shown.pad_edge = rich.box.SIMPLE_HEAD, (0, 1, 0, 0), False
        for j, column in enumerate(self.columns):
            widest = max(len(row[j]) for row in self.rows)
            narrowest = max(map(len, column.split()))
            heading = "\n".join(textwrap.wrap(column, max(widest, narrowest)))
            shown.add_column(
                heading,
                justify="right" if j else "left",
                no_wrap=widest <= SHORT,
                min_width=max(narrowest, widest if widest <= SHORT else 0),
                vertical="bottom",
            )
        for i, row in enumerate(self.rows):
            shown.add_row(*(f"[bold]{escape(c)}[/]" if (i, j) in self.best else escape(c) for j, c in enumerate(row)))
        return shown

    def show(self) -> None:
        """Prints it, on lines as long as its figures need."""
        console = Console()
        console.width = max(console.width, Console(width=10_000).measure(self.rich()).minimum)
        console.print(self.rich())

    def csv(self) -> str:
        """Comma-separated values, title and note left out."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *self.rows])
        return text.getvalue()
