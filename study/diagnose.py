"""Say why a vLLM, Whisper or faster-whisper died: cause, telling line, and what to change.

Logs of vLLM, openai-whisper and faster-whisper (CTranslate2) are taken alike, and those of the
container around them; the log tells whose it is, and the remedy is in that server's words.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO, cast

from objectives.causes import CAUSES, Cause, Whose, remedy_of
from objectives.constraints import CONSTRAINTS
from objectives.diagnosis import Diagnosis, Ended, diagnose
from objectives.errors import UsageError
from objectives.units import GIB, MIB
from objectives.vllm import lines_of
from study.command import put, refused

_HEAD = """\
# Constraints and causes

`python -m study.diagnose --causes` prints this page from the program's own table: change
`objectives/causes.py`, not the page.

A candidate is infeasible when a constraint is violated. A constraint is a number with a unit:
above 0 it is violated by so much, at or below 0 it is met with so much to spare. Every trial of a
study carries the same constraints in the same order, whether it was launched or not.

A cause is one word for why a trial has no measurement, or why a server died. It comes with the line
that tells it, and with a remedy.

## Constraints
"""
_ABOUT = {
    "bounds": ("the parameter's", "a value lies outside the hard bounds of its parameter"),
    "start_memory_gib": ("GiB", "less is free than vLLM asks for when it starts"),
    "kv_cache_gib": (
        "GiB",
        "the KV cache that is left holds less than one request of the longest length",
    ),
    "device_memory_gib": (
        "GiB",
        "all tenants together, with the headroom, need more than the device has, or a server ran "
        "out of memory",
    ),
    "placement_gib": ("GiB", "a model is on another device than the candidate put it; its size"),
    "start_refused": ("1 or -1", "a server does not take an option or value of the candidate here"),
    "time_budget_s": (
        "s",
        "the trial took longer than `budget.trial_timeout_s`, its starts left out",
    ),
    "failed_share": ("share of requests", "more than one request in twenty got no answer"),
}
"""Constraint to its unit, and when it is violated."""
_BELOW = """\
Each hard limit of `slo` adds one, `slo_` and the objective's name, in the objective's unit.

The three memory constraints are predicted before anything is launched. A candidate that fails by
more than the prediction's margin is not launched at all; inside the margin the launch decides, and
teaches the next prediction.

## Whose fault it was

Of the causes below, `study.diagnose` names those that are known from a log, for any log of vLLM,
Whisper or faster-whisper. A line that names its own cure (an option, a package, a service) has that
in place of the remedy below. A trial whose server died names them too. Where the log prints a
number that helps, the remedy has it: the length that would fit, the share that is free, the port.

```sh
python -m study.diagnose vllm.log
python -m study.diagnose --json --returncode -9 vllm.log
```
"""
_SECTIONS: dict[Whose, str] = {
    "candidate": """\
### The candidate's fault

The setting does not work here: the trial is pruned as infeasible, and its constraint says by how
much. What the prediction is sure of is not launched.
""",
    "bench": """\
### The bench's fault

The trial fails, nothing is held against the candidate, and its point is tried again. Only a bug
ends the command.

If memory is not back after a trial, or a process cannot be ended, the study stops: nothing that was
measured after that would be true.
""",
    "machine": """\
### The machine's fault

The trial fails, and the study stops.
""",
    "nobody": """\
### Nobody's fault

Nothing is wrong with the server, the setting or the machine.
""",
}


def causes_page() -> str:
    """The constraints and every cause, by whose fault it is, as Markdown."""
    constraints = [f"| `{name}` | {' | '.join(_ABOUT[name])} |" for name in CONSTRAINTS]
    head = _table("constraint | unit | violated when", constraints)
    sections = [f"{about}\n{_causes_of(fault)}" for fault, about in _SECTIONS.items()]
    return "\n".join([_HEAD, head, _BELOW, *sections]).rstrip("\n")


def _causes_of(fault: Whose) -> str:
    """The table of the causes that are one side's fault; only a candidate violates constraints."""
    rows = [cause for cause in CAUSES.values() if cause.fault == fault]
    if fault == "candidate":
        cells = [_row(cause, f"`{cause.constraint}`") for cause in rows]
        return _table("cause | constraint | means | remedy | known from", cells)
    return _table("cause | means | remedy | known from", map(_row, rows))


def _row(cause: Cause, *constraint: str) -> str:
    others = [f"{kind}: {words}" for kind, words in cause.remedies.items()]
    remedies = "<br>".join([remedy_of(cause.name, {}), *others])
    cells = [f"`{cause.name}`", *constraint, cause.meaning, remedies, ", ".join(cause.told_by)]
    return f"| {' | '.join(cells)} |"


def _table(heads: str, rows: Iterable[str]) -> str:
    line = "---|" * (heads.count("|") + 1)
    return "\n".join([f"| {heads} |", f"|{line}", *rows, ""])


PROG = "python -m study.diagnose"
_GZIP_MAGIC = b"\x1f\x8b"
_EPILOG = f"""\
examples:
  {PROG} vllm.log
  docker logs judge 2>&1 | {PROG} -
  {PROG} --json --returncode -9 vllm.log.gz
  {PROG} faster-whisper.log

exit status: 0 a cause is named ("ok" is one), 1 it is unknown, 2 LOG cannot be read
"""
_SIZES = ((GIB, "GiB"), (MIB, "MiB"), (1 << 10, "KiB"), (1, "bytes"))


def render(diagnosis: Diagnosis) -> str:
    """A diagnosis as a person reads it: a paragraph of labelled lines."""
    rows = [("cause", diagnosis.cause)]
    if diagnosis.line:
        rows.append((f"line {diagnosis.line:,}", diagnosis.evidence.strip()))
    elif diagnosis.evidence:
        rows.append(("evidence", diagnosis.evidence))
    if diagnosis.figures:
        rows.append(("figures", ", ".join(_figure(*pair) for pair in diagnosis.figures.items())))
    rows.append(("remedy", diagnosis.remedy))
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{width}}  {text}" for label, text in rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit 0: a cause is named; 1: unknown; 2: LOG cannot be read; 130: interrupted."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.causes:
        put(causes_page())
        return 0
    if args.log is None:
        parser.error("the following arguments are required: LOG")
    ended = None
    if args.returncode is not None or args.asked:
        ended = Ended(returncode=args.returncode, was_asked=args.asked)
    try:
        with _opened(args.log) as stream:
            found = diagnose(lines_of(stream), ended=ended)
    except UsageError as error:
        return refused(PROG, error)
    except KeyboardInterrupt:
        return 130
    document = json.dumps(asdict(found), ensure_ascii=False, indent=1)
    put(document if args.json else render(found))
    return 1 if found.cause == "unknown" else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG,
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "log", metavar="LOG", nargs="?", help="a log file, also gzipped; - reads a pipe"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--returncode",
        type=int,
        metavar="N",
        help="how the server ended: its exit status, or -N for signal N (128+N means the same)",
    )
    parser.add_argument(
        "--asked", action="store_true", help="the server was asked to end; that is no failure"
    )
    parser.add_argument("--causes", action="store_true", help="print every cause, in Markdown")
    return parser


@contextmanager
def _opened(log: str) -> Iterator[BinaryIO]:
    """The bytes of a log, unpacked where they are gzipped.

    Raises:
        UsageError: It cannot be opened, or read to its end.
    """
    try:
        if log == "-":
            yield _unpacked(sys.stdin.buffer)
            return
        with Path(log).open("rb") as file:
            yield _unpacked(file)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{log} cannot be read: {reason}") from error


def _unpacked(stream: BinaryIO) -> BinaryIO:
    peek = getattr(stream, "peek", None)
    if peek is None or not peek(len(_GZIP_MAGIC)).startswith(_GZIP_MAGIC):
        return stream
    return cast("BinaryIO", gzip.GzipFile(fileobj=stream))


def _figure(name: str, value: float | int | str) -> str:
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{_words(name, '_bytes')} {_size(value)}"
    if name.endswith("_s") and not isinstance(value, str):
        return f"{_words(name, '_s')} {value:g} s"
    return f"{_words(name)} {value:g}" if isinstance(value, float) else f"{_words(name)} {value}"


def _words(name: str, unit: str = "") -> str:
    return name.removesuffix(unit).replace("_", " ")


def _size(value: int) -> str:
    """Bytes in the largest unit of which there is one, to two decimals."""
    for scale, unit in _SIZES:
        if abs(value) >= scale:
            return f"{value / scale:.2f}".rstrip("0").rstrip(".") + f" {unit}"
    return "0 bytes"


if __name__ == "__main__":
    sys.exit(main())
