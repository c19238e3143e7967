"""The documentation's pages, and what can be read out of them: blocks, tables, links, commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.paths import ROOT

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_FENCE = re.compile(r"^```(?P<language>\S*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_COMMAND = re.compile(r"^(?:\S*/)?python3? -m study\.(?P<module>\w+)(?P<rest>.*)$")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block.

    Attributes:
        page: The page's file name.
        language: What stands behind the fence; empty for nothing.
        text: What stands inside.
    """

    page: str
    language: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command line of the program.

    Attributes:
        page: The page's file name.
        module: What follows `python -m study.`.
        arguments: As the shell would hand them over.
    """

    page: str
    module: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: study.{self.module} {shlex.join(self.arguments)}"


def blocks(language: str | None = None) -> list[Block]:
    """Every fenced block of every page, or those in one language."""
    found = [
        Block(page=page.name, language=match["language"], text=match["text"])
        for page in PAGES
        for match in _FENCE.finditer(page.read_text())
    ]
    return [block for block in found if language in (None, block.language)]


def commands() -> list[Command]:
    """Every command line of the program in a `sh` block, each once."""
    found = [
        Command(
            page=block.page,
            module=match["module"],
            arguments=tuple(shlex.split(match["rest"], comments=True)),
        )
        for block in blocks("sh")
        for line in block.text.replace("\\\n", " ").splitlines()
        for part in re.split(r"&&|\|", line)
        if (match := _COMMAND.match(part.strip()))
    ]
    return list(dict.fromkeys(found))


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text())


def links(page: Path) -> Iterator[str]:
    """Where a page's links lead, those into the web left out."""
    for match in _LINK.finditer(prose(page)):
        if "://" not in match["target"]:
            yield match["target"]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    heads = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def table(name: str, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, cells stripped, without its head."""
    text = (ROOT / "docs" / name).read_text()
    below = text.partition(f"\n{heading}\n")[2]
    assert below, f"{name} has no {heading!r}"
    lines = re.search(r"(?:^\|.*\n?)+", below, re.MULTILINE)
    assert lines, f"{name}: no table below {heading!r}"
    rows = [line.strip().strip("|") for line in lines[0].splitlines()[2:]]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)] for row in rows]


def coded(cell: str) -> list[str]:
    """What stands between backticks in a cell."""
    return re.findall(r"`([^`]+)`", cell)
