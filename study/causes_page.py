"""The page of constraints and causes, made from the table: it cannot say other than the program."""

from __future__ import annotations

from collections.abc import Iterable

from objectives.causes import CAUSES, Cause, Whose, remedy_of
from objectives.constraints import CONSTRAINTS

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
    "time_budget_s": ("s", "the trial took longer than `budget.trial_timeout_s`"),
    "failed_share": ("share of requests", "more than one request in twenty got no answer"),
}
"""Constraint to its unit, and when it is violated."""
_BELOW = """\
Each hard limit of `slo` adds one, `slo_` and the objective's name, in the objective's unit.

The three memory constraints are predicted before anything is launched. A candidate that fails by
more than the prediction's margin is not launched at all; inside the margin the launch decides, and
teaches the next prediction.

## Whose fault it was

Of the causes below, `study.diagnose` names those that are known from a log, for any log of vLLM or
Whisper. A trial whose server died names them too. Where the log prints a number that helps, the
remedy has it: the length that would fit, the share that is free, the port.

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
