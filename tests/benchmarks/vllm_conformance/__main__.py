"""What we rely on, held against vLLM's own code, version by version.

    python -m tests.benchmarks.vllm_conformance [VERSION...] [--markdown docs/vllm-versions.md]

Takes vLLM's wheel from the package registry that pip is configured for (or from `--wheels`), reads
the source in it, and prints a table of checks x versions: yes; no, with what it is instead;
changed, with how; not found, where a check had nothing to look at. By hand: minutes.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from objectives.servers import study_home
from objectives.vllm import VllmRules
from tests.benchmarks.vllm_conformance.checks import Check, all_checks
from tests.benchmarks.vllm_conformance.options import Option, options
from tests.benchmarks.vllm_conformance.source import Source, from_folder, from_registry
from tests.paths import ROOT

VERSIONS = (
    *("0.8.5.post1", "0.9.0.1", "0.9.1", "0.9.2", "0.10.2", "0.11.0", "0.11.2", "0.12.0", "0.13.0"),
    *("0.14.1", "0.15.1", "0.16.0", "0.17.1", "0.18.1", "0.19.1", "0.20.2", "0.21.0", "0.22.1"),
    *("0.23.0", "0.24.0", "0.25.1", "0.26.0", "0.27.1", "0.28.0", "0.29.0", "0.30.0", "0.31.0"),
    *("0.32.0", "0.33.0"),
)
FAKE_OPTIONS = ROOT / "tests/fakes/vllm_options.json"
_INTRODUCTION = """# vLLM's versions

What this program relies on, held against the source in vLLM's own wheels. Made on {day} by
`python -m tests.benchmarks.vllm_conformance --markdown docs/vllm-versions.md`; nothing here was
started, and nothing was seen on a card. Rules by version are in `objectives/vllm/rules.py`.

{read}

A dot is yes, "none" that there is no such rule yet and that ours knows it. **no** and **changed**
have a number, told below the table; **?** is not found: the check saw nothing that it could judge.

"""


_BETWEEN = "Of a rule that changed between two of them the first that has it counts."

Table = Mapping[str, Sequence[str]]
"""Row to its cells, one a version."""


def table(sources: Sequence[Source], checks: Sequence[Check]) -> dict[str, list[str]]:
    """Every check asked of every version."""
    return {
        check.name: [check.answer(source, VllmRules(source.version)) for source in sources]
        for check in checks
    }


def markdown(
    versions: Sequence[str], rows: Table, checks: Sequence[Check], day: datetime.date
) -> str:
    """The page; neighbours that answer alike in every row share a column."""
    told: dict[str, int] = {}
    columns = _alike(versions, rows)
    heads = [
        versions[one[0]] + (f" – {versions[one[-1]]}" if len(one) > 1 else "") for one in columns
    ]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for name, cells in rows.items():
        shown = (_cell(cells[one[0]], told) for one in columns)
        lines.append(f"| {name} | {' | '.join(shown)} |")
    notes = [_wrapped(f"{number}. {text}") for text, number in told.items()]
    meanings = [_wrapped(f"- **{check.name}**: {check.means}") for check in checks]
    parts = [lines, ["", "## No, and changed", "", *notes], ["", "## The rows", "", *meanings]]
    read = f"Versions read: {', '.join(versions)}. {_BETWEEN}"
    said = _INTRODUCTION.format(day=day, read=_wrapped(read, indent=""))
    return said + "\n".join(line for part in parts for line in part) + "\n"


def _wrapped(text: str, indent: str = "  ") -> str:
    return textwrap.fill(text, 98, subsequent_indent=indent, break_on_hyphens=False)


def _alike(versions: Sequence[str], rows: Table) -> list[list[int]]:
    """Places of versions, in runs of those that have the same cells."""
    cells = [tuple(row[at] for row in rows.values()) for at in range(len(versions))]
    runs = itertools.groupby(range(len(versions)), key=cells.__getitem__)
    return [list(run) for _, run in runs]


def _cell(answer: str, told: dict[str, int]) -> str:
    word, _, more = answer.partition(": ")
    if word == "not found":
        return "?"
    if word == "yes":
        return more or "."
    return f"**{word}** {told.setdefault(answer, len(told) + 1)}"


def printed(versions: Sequence[str], rows: Table) -> str:
    """The table for a terminal: a check, then the versions that answer alike."""
    lines = []
    for name, cells in rows.items():
        lines.append(name)
        for answer in dict.fromkeys(cells):
            alike = [one for one, cell in zip(versions, cells, strict=True) if cell == answer]
            lines.append(f"    {answer}   ({', '.join(alike)})")
    return "\n".join(lines)


def options_file(sources: Sequence[Source]) -> str:
    """Which options each release has, for the fake vLLM: kind, first with, first without."""
    known = [(source.version, options(source)) for source in sources]
    names = sorted({name for _, found in known for name in found})
    lines = [f"  {json.dumps(name)}: {json.dumps(_life(name, known))}" for name in names]
    versions = json.dumps([version for version, _ in known])
    return f'{{"read_from": {versions},\n"options": {{\n' + ",\n".join(lines) + "\n}}\n"


def _life(name: str, known: Sequence[tuple[str, dict[str, Option]]]) -> list[str | None]:
    has = [at for at, (_, found) in enumerate(known) if name in found]
    option = known[has[-1]][1][name]
    kind = "switch" if option.has_no else "flag" if option.is_flag else "value"
    until = known[has[-1] + 1][0] if has[-1] + 1 < len(known) else None
    return [kind, known[has[0]][0], until]


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 2 where no version was found."""
    parser = argparse.ArgumentParser(
        prog="vllm_conformance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("versions", nargs="*", default=VERSIONS, metavar="VERSION")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page there, too")
    parser.add_argument(
        "--options",
        nargs="?",
        type=Path,
        const=FAKE_OPTIONS,
        metavar="FILE",
        help="write which options each release has, for the fake vLLM (default: its file)",
    )
    parser.add_argument("--wheels", type=Path, help="a folder of wheels, instead of the registry")
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="FOLDER",
        help="where what was read is kept; default: vllm-sources in the study's home",
    )
    given = parser.parse_args(argv)
    cache = given.cache or study_home() / "vllm-sources"
    sources = []
    for version in given.versions:
        found = (
            from_registry(version, cache)
            if given.wheels is None
            else from_folder(version, given.wheels)
        )
        if found is None:
            print(f"vLLM {version}: no such wheel", file=sys.stderr)
        else:
            sources.append(found)
    if not sources:
        return 2
    checks, versions = list(all_checks()), [source.version for source in sources]
    rows = table(sources, checks)
    print(printed(versions, rows))
    if given.markdown is not None:
        given.markdown.write_text(markdown(versions, rows, checks, datetime.date.today()))
    if given.options is not None:
        given.options.write_text(options_file(sources))
    return 0


if __name__ == "__main__":
    sys.exit(main())
