"""Recorded tables: a study as rows, and rows to run a study on without measuring anything.

One row a measurement; rows of the same point are replicates. `param:`, `value:` and `constraint:`
columns, `state`, `cause`, `duration_s`. Values are empty where the point is infeasible.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from objectives.errors import UsageError
from objectives.space import Binding, Parameter, Scalar, SearchSpace
from study.document import objective_names
from study.forecast import UNKNOWN, Forecast, Predict
from study.legacy import BINDINGS

STATES = ("COMPLETE", "PRUNED")
"""A failed trial says nothing of its point, and has no row."""

PLAIN = ("state", "cause", "duration_s")
GROUPS = ("param", "value", "constraint")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement.

    Attributes:
        params: The point; a conditional parameter that does not exist there is left out.
        values: Objective to value, in its own unit; None where infeasible.
        constraints: Constraint to excess, > 0 violated.
        cause: Why it is infeasible, one word; None where it is not.
        duration_s: What it took; None where nobody wrote it down.
    """

    params: Mapping[str, Scalar]
    values: Mapping[str, float] | None
    constraints: Mapping[str, float]
    cause: str | None
    duration_s: float | None

    @property
    def state(self) -> str:
        """COMPLETE or PRUNED."""
        return "PRUNED" if self.values is None else "COMPLETE"


@dataclass(frozen=True)
class Table:
    """A recorded table, checked.

    Attributes:
        source: Where it was read.
        parameters: Their names, in the table's order.
        objectives: Their names.
        constraints: Their names.
        rows: All measurements, in order.
    """

    source: Path
    parameters: tuple[str, ...]
    objectives: tuple[str, ...]
    constraints: tuple[str, ...]
    rows: tuple[Row, ...]
    _points: dict[str, list[Row]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Sort the rows by point."""
        for row in self.rows:
            self._points.setdefault(_key(row.params), []).append(row)

    @property
    def points(self) -> list[Mapping[str, Scalar]]:
        """Every point that has a row, in order."""
        return [rows[0].params for rows in self._points.values()]

    def at(self, params: Mapping[str, Scalar]) -> list[Row]:
        """All rows of a point.

        Raises:
            UsageError: It has none.
        """
        rows = self._points.get(_key(params))
        if rows is None:
            shown = ", ".join(f"{name}={value}" for name, value in params.items())
            raise UsageError(f"{self.source}: no row for {shown}")
        return rows

    def draw(self, params: Mapping[str, Scalar], *, seed: int, number: int) -> Row:
        """One row of a point at random: the same for the same seed and trial number.

        Raises:
            UsageError: The point has no row.
        """
        rows = self.at(params)
        return rows[np.random.default_rng([seed, number]).integers(len(rows))]

    def medians(self, params: Mapping[str, Scalar]) -> dict[str, float] | None:
        """Median of every objective at a point; None where any row of it is infeasible."""
        measured = [row.values for row in self.at(params)]
        values = [each for each in measured if each is not None]
        if len(values) < len(measured):
            return None
        return {name: median(each[name] for each in values) for name in self.objectives}

    def predictor(self, *, margin: float = 0.0) -> Predict | None:
        """A prediction that knows the table's constraints, as arithmetic would before a launch.

        Args:
            margin: How unsure it pretends to be: a point whose largest excess is within this
                share of the column's range is not certain.

        Returns:
            None if the table has no constraints.
        """
        if not self.constraints:
            return None
        spans = {name: margin * _span(self.rows, name) for name in self.constraints}

        def predict(params: Mapping[str, Scalar]) -> Forecast:
            rows = self._points.get(_key(params))
            if rows is None:
                return UNKNOWN
            excess = {n: median(row.constraints[n] for row in rows) for n in rows[0].constraints}
            durations = [row.duration_s for row in rows if row.duration_s is not None]
            over = [value for value in excess.values() if value > 0]
            return Forecast(
                feasible=not over,
                certain=all(abs(value) >= spans[name] for name, value in excess.items()),
                excess=excess,
                cost_s=median(durations) if durations else None,
            )

        return predict

    def space(self) -> SearchSpace:
        """The table's parameters as a search space: each column's values, in order.

        Parameters that are not the legacy's are bound to vLLM's options of the same name.
        """
        parameters = []
        for name in self.parameters:
            choices = {row.params[name] for row in self.rows if name in row.params}
            binding = BINDINGS.get(name, f"vllm.args.{name}")
            parameters.append(
                Parameter(name=name, binding=Binding.parse(binding), choices=_sorted(list(choices)))
            )
        return SearchSpace(tuple(parameters))

    def check(self, space: SearchSpace, objectives: Sequence[str]) -> None:
        """See to it that a study over `space` can be run on this table.

        Raises:
            UsageError: A parameter, an objective or a point of the study is not in the table.
        """
        for names, have, what in (
            (space.names, self.parameters, "param"),
            (objectives, self.objectives, "value"),
        ):
            missing = [name for name in names if name not in have]
            if missing:
                raise UsageError(
                    f"{self.source}: no column {what}:{missing[0]}; found: "
                    + (", ".join(f"{what}:{name}" for name in have) or "none")
                )
        points = space.points()
        if points is None:
            raise UsageError(
                f"{self.source}: the study's space has no end, a table has one; "
                "give every range a step"
            )
        for point in points:
            self.at(point)


def _span(rows: Sequence[Row], name: str) -> float:
    values = [row.constraints[name] for row in rows if name in row.constraints]
    return max(values) - min(values) if values else 0.0


def _sorted(values: list[Scalar]) -> tuple[Scalar, ...]:
    if any(isinstance(value, str) for value in values):
        return tuple(dict.fromkeys(values))
    return tuple(sorted(values, key=float))


def _key(params: Mapping[str, Scalar]) -> str:
    """A point whatever the spelling of its numbers: 2, 2.0 and 0.55 or 0.5500000000000001."""
    return " ".join(f"{name}={_plain(params[name])}" for name in sorted(params))


def _plain(value: Scalar) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:.10g}"


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
    named = _columns(path, header)
    for number, line in enumerate(cells, start=2):
        if len(line) != len(header):
            raise UsageError(
                f"{path}: line {number}: found {len(line)} cells, allowed: {len(header)}"
            )
    readers = {name: _reader([line[at] for line in cells]) for name, at in named["param"].items()}
    rows = tuple(
        _row(path, number, line, header, named, readers)
        for number, line in enumerate(cells, start=2)
    )
    return Table(
        path, tuple(named["param"]), tuple(named["value"]), tuple(named["constraint"]), rows
    )


def _columns(path: Path, header: Sequence[str]) -> dict[str, dict[str, int]]:
    """For each group of columns, name to position."""
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
    return named


def _reader(cells: Sequence[str]) -> Callable[[str], Scalar]:
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


def _row(
    path: Path,
    number: int,
    line: Sequence[str],
    header: Sequence[str],
    named: Mapping[str, Mapping[str, int]],
    readers: Mapping[str, Callable[[str], Scalar]],
) -> Row:
    where = f"{path}: line {number}"
    plain = {name: line[header.index(name)] if name in header else "" for name in PLAIN}
    state = plain["state"]
    if state not in STATES:
        raise UsageError(f"{where}: state: found {state!r}, allowed: {', '.join(STATES)}")
    measured = state == "COMPLETE"
    if not measured and any(line[at] for at in named["value"].values()):
        raise UsageError(f"{where}: found a value, allowed: none where the state is PRUNED")
    constraints = {
        name: _float(f"{where}: constraint:{name}", line[at])
        for name, at in named["constraint"].items()
        if line[at]
    }
    if measured and any(excess > 0 for excess in constraints.values()):
        raise UsageError(f"{where}: found COMPLETE with a violated constraint, allowed: PRUNED")
    return Row(
        params={n: readers[n](line[at]) for n, at in named["param"].items() if line[at]},
        values={n: _float(f"{where}: value:{n}", line[at]) for n, at in named["value"].items()}
        if measured
        else None,
        constraints=constraints,
        cause=plain["cause"] or None,
        duration_s=_float(f"{where}: duration_s", plain["duration_s"])
        if plain["duration_s"]
        else None,
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
    trials = [
        trial
        for trial in study.get_trials(
            deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)
        )
        if trial.params
    ]
    objectives = objective_names(study)
    columns = [
        *(f"param:{name}" for name in _named(trials, lambda trial: trial.params)),
        *(f"value:{name}" for name in objectives),
        *(f"constraint:{name}" for name in _constraint_names(study, trials)),
        *PLAIN,
    ]
    return pd.DataFrame(
        [_cells(trial, objectives) for trial in trials], columns=columns, dtype=object
    )


def _named(
    trials: Sequence[FrozenTrial], of: Callable[[FrozenTrial], Mapping[str, object]]
) -> list[str]:
    return list(dict.fromkeys(name for trial in trials for name in of(trial)))


def _constraint_names(study: optuna.Study, trials: Sequence[FrozenTrial]) -> list[str]:
    """In the study's order; SQL storages give a trial's constraints in another one."""
    declared = cast(Sequence[str], study.user_attrs.get("constraints", ()))
    return list(dict.fromkeys([*declared, *_named(trials, lambda trial: trial.constraints)]))


def _cells(trial: FrozenTrial, objectives: Sequence[str]) -> dict[str, Any]:
    said = trial.user_attrs.get("infeasible")
    measured = trial.state == TrialState.COMPLETE
    return {
        **{f"param:{name}": _spelt(value) for name, value in trial.params.items()},
        **{
            f"value:{name}": value
            for name, value in zip(objectives, trial.values if measured else (), strict=False)
        },
        **{f"constraint:{name}": excess for name, excess in trial.constraints.items()},
        "state": trial.state.name,
        "cause": said.get("cause") if isinstance(said, Mapping) else None,
        "duration_s": _duration_s(trial),
    }


def _spelt(value: Scalar) -> Scalar:
    return round(value, 12) if isinstance(value, float) else value


def _duration_s(trial: FrozenTrial) -> float | None:
    """What the trial took; on a replay, what its row took."""
    stored = trial.user_attrs.get("duration_s")
    if isinstance(stored, int | float):
        return float(stored)
    return None if trial.duration is None else round(trial.duration.total_seconds(), 3)
