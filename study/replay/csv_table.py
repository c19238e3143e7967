"""Recorded tables as files: a study as rows, and rows to run a study on without measuring.

One row a measurement; rows of the same point are replicates. `param:`, `value:` and `constraint:`
columns, `state`, `cause`, `duration_s`. Values are empty where the point is infeasible.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pandas as pd

from objectives.errors import UsageError
from objectives.evidence import infeasible_of
from objectives.units import Scalar
from study.replay.table import Row, Table
from study.results import TrialRecord, objective_names, read_trials

STATES = ("COMPLETE", "PRUNED")
"""A failed trial says nothing of its point, and has no row."""

PLAIN = ("state", "cause", "duration_s")
GROUPS = ("param", "value", "constraint")

Reader = Callable[[str], Scalar]
"""From a cell to a parameter's value."""

Columns = Mapping[str, Mapping[str, int]]
"""Where everything stands in a line: name to position, by group; `plain` is one, too."""


def read_table(path: Path) -> Table:
    """Read and check a recorded table.

    Raises:
        UsageError: It cannot be read, or says something that a table cannot say.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    if len(lines) < 2:
        raise UsageError(f"{path}: found no rows, allowed: a header and at least one row")
    header, cells = lines[0], lines[1:]
    columns = _columns(path, header)
    for number, line in enumerate(cells, start=2):
        if len(line) != len(header):
            raise UsageError(
                f"{path}: line {number}: found {len(line)} cells, allowed: {len(header)}"
            )
    readers = {name: _reader([line[at] for line in cells]) for name, at in columns["param"].items()}
    rows = tuple(
        _row(f"{path}: line {number}", line, columns, readers)
        for number, line in enumerate(cells, start=2)
    )
    param, value, constraint = (tuple(columns[group]) for group in GROUPS)
    return Table(path, param, value, constraint, rows)


def _columns(path: Path, header: Sequence[str]) -> Columns:
    named: dict[str, dict[str, int]] = {group: {} for group in GROUPS}
    for at, column in enumerate(header):
        group, _, name = column.partition(":")
        if column in PLAIN:
            continue
        if group not in GROUPS or not name:
            raise UsageError(
                f"{path}: column {at + 1}: found {column!r}, allowed: param:NAME, value:NAME, "
                "constraint:NAME, state, cause, duration_s"
            )
        if name in named[group]:
            raise UsageError(f"{path}: column {column} is there twice")
        named[group][name] = at
    for group in ("param", "value"):
        if not named[group]:
            raise UsageError(f"{path}: found no {group}: column, allowed: at least one")
    if "state" not in header:
        raise UsageError(f"{path}: found no column state")
    return {**named, "plain": {name: header.index(name) for name in PLAIN if name in header}}


def _reader(cells: Sequence[str]) -> Reader:
    """How a parameter's cells are to be understood: all of them the same way."""
    filled = [cell for cell in cells if cell]
    if all(cell in ("True", "False") for cell in filled):
        return lambda cell: cell == "True"
    for kind in (int, float):
        try:
            numbers = [kind(cell) for cell in filled]
        except ValueError:
            continue
        if all(math.isfinite(number) for number in numbers):
            return kind
    return str


def _row(where: str, line: Sequence[str], columns: Columns, readers: Mapping[str, Reader]) -> Row:
    plain = {name: line[at] for name, at in columns["plain"].items()}
    if plain["state"] not in STATES:
        raise UsageError(f"{where}: state: found {plain['state']!r}, allowed: {', '.join(STATES)}")
    measured = plain["state"] == "COMPLETE"
    if not measured and any(line[at] for at in columns["value"].values()):
        raise UsageError(f"{where}: found a value, allowed: none where the state is PRUNED")
    constraints = {
        name: _float(f"{where}: constraint:{name}", line[at])
        for name, at in columns["constraint"].items()
        if line[at]
    }
    if measured and any(excess > 0 for excess in constraints.values()):
        raise UsageError(f"{where}: found COMPLETE with a violated constraint, allowed: PRUNED")
    values = {
        name: _float(f"{where}: value:{name}", line[at])
        for name, at in columns["value"].items()
        if measured
    }
    took = plain.get("duration_s")
    return Row(
        params={name: readers[name](line[at]) for name, at in columns["param"].items() if line[at]},
        values=values or None,
        constraints=constraints,
        cause=plain.get("cause") or None,
        duration_s=_float(f"{where}: duration_s", took) if took else None,
    )


def _float(where: str, cell: str) -> float:
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{where}: found {cell!r}, allowed: a number")
    return number


def table_frame(study: optuna.Study) -> pd.DataFrame:
    """A study as a recorded table, to be written with `to_csv(index=False)`.

    Returns:
        A row for every trial that was measured or found infeasible, by number; what a trial does
        not have is missing.
    """
    trials = [trial for trial in read_trials(study) if trial.state in STATES and trial.params]
    # The study's order: SQL storages give a trial's constraints in another one.
    declared = study.user_attrs.get("constraints", ())
    constraints = dict.fromkeys([*declared, *(name for t in trials for name in t.constraints)])
    columns = [
        *dict.fromkeys(f"param:{name}" for trial in trials for name in trial.params),
        *(f"value:{name}" for name in objective_names(study)),
        *(f"constraint:{name}" for name in constraints),
        *PLAIN,
    ]
    return pd.DataFrame([_cells(trial) for trial in trials], columns=columns, dtype=object)


def _cells(trial: TrialRecord) -> dict[str, Any]:
    said = infeasible_of(trial.attrs)
    return {
        **{f"param:{name}": value for name, value in trial.params.items()},
        **{f"value:{name}": value for name, value in (trial.values or {}).items()},
        **{f"constraint:{name}": excess for name, excess in trial.constraints.items()},
        "state": trial.state,
        "cause": None if said is None else said.cause,
        "duration_s": _duration_s(trial),
    }


def _duration_s(trial: TrialRecord) -> float | None:
    """What the trial took; on a replay, what its row took."""
    stored = trial.attrs.get("recorded_duration_s")
    if isinstance(stored, int | float):
        return float(stored)
    return None if trial.duration_s is None else round(trial.duration_s, 3)
