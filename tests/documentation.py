"""The documentation's commands and code blocks, as they stand in README.md and docs/."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUNS = re.compile(r"(\w+=\S* )*(timeout .* )?(python|make|pip|pytest)\b")
AGAIN = re.compile(r"^while (.*?); \[ \$\? -eq 142 \]; do :; done")
IN_TEXT = re.compile(r"`((?:python|make|pip|pytest)\s[^`]+)`")


class Block(NamedTuple):
    """A fenced block: page, line, language, title or None, text."""

    page: Path
    line: int
    language: str
    title: str | None
    text: str


class Command(NamedTuple):
    """A command of a page: its words, without comment, environment, placeholder alone and path of the interpreter."""

    page: Path
    line: int
    words: tuple[str, ...]


def blocks() -> list[Block]:
    """Every fenced block of every page."""
    fence = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)
    return [
        Block(page, page.read_text()[: found.start()].count("\n") + 2, found[1], found[2], found[3])
        for page in PAGES
        for found in fence.finditer(page.read_text())
    ]


def commands() -> list[Command]:
    """Every command of every page, in indented blocks and between backticks."""
    return [command for page in PAGES for command in commands_of(page)]


def commands_of(page: Path) -> list[Command]:
    """Those of one page.

    Raises:
        ValueError: an indented block holds something else.
    """
    text = re.sub(r"^```.*?^```$", lambda fenced: "\n" * fenced[0].count("\n"), page.read_text(), flags=re.M | re.S)
    found = []
    for typed in re.finditer(r"^ {4,}(\S(?:\\\n|.)*)", text, re.M):
        line = AGAIN.sub(r"\1", typed[1].replace("\\\n", " ").replace(".venv/bin/", ""))
        if not RUNS.match(line):
            raise ValueError(f"{page.name}: {line!r} is no command; code goes between ``` and ```")
        found.append((typed.start(), line))
    found += [
        (typed.start(1), typed[1].replace("\n", " ").replace(".venv/bin/", "")) for typed in IN_TEXT.finditer(text)
    ]
    return [Command(page, text[:start].count("\n") + 1, words(line)) for start, line in sorted(found)]


def words(line: str) -> tuple[str, ...]:
    """What the program is given; ``runs/…`` and ``seed=S`` stand for anything of their kind."""
    typed = shlex.split(line.replace("$DENOISERS_DATA", "/sets"), comments=True)
    while re.match(r"[A-Z_]+=", typed[0]):
        typed = typed[1:]
    if typed[0] == "timeout":
        typed = typed[typed.index("python") :]
    return tuple(re.sub("=S$", "=1", word.replace("…", "x")) for word in typed if word != "…")
