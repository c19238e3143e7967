"""What was recorded of every point: drawn from by replays, and by comparisons of samplers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from objectives.errors import UsageError
from objectives.space import Binding, Parameter, SearchSpace, point_key
from objectives.units import Scalar
from study.config import BINDINGS
from study.samplers import UNKNOWN, PointPrediction, Predict


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


@dataclass(frozen=True)
class Table:
    """A recorded table, checked.

    Attributes:
        source: Where it was read.
        parameters: Names, in the table's order; likewise of objectives and constraints.
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
            self._points.setdefault(point_key(row.params), []).append(row)

    @property
    def points(self) -> list[Mapping[str, Scalar]]:
        """Every point that has a row, in order."""
        return [rows[0].params for rows in self._points.values()]

    def at(self, params: Mapping[str, Scalar]) -> list[Row]:
        """All rows of a point.

        Raises:
            UsageError: It has none.
        """
        rows = self._points.get(point_key(params))
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
        """Median of every objective at a point; None where no row of it is feasible."""
        measured = [row.values for row in self.at(params) if row.values is not None]
        if not measured:
            return None
        return {name: median(values[name] for values in measured) for name in self.objectives}

    def predictor(self, *, margin: float = 0.0) -> Predict | None:
        """A prediction that knows the table's constraints, as arithmetic would before a launch.

        None if it has none. A point with an excess within the margin, a share of the column's
        range, is not certain.
        """
        if not self.constraints:
            return None
        spans = {name: margin * _span(self.rows, name) for name in self.constraints}

        def predict(params: Mapping[str, Scalar]) -> PointPrediction:
            rows = self._points.get(point_key(params))
            if rows is None:
                return UNKNOWN
            known = set.intersection(*(set(row.constraints) for row in rows))
            excess = {n: median(row.constraints[n] for row in rows) for n in sorted(known)}
            over = [value for value in excess.values() if value > 0]
            return PointPrediction(
                feasible=not over,
                certain=all(abs(value) >= spans[name] for name, value in excess.items()),
                excess=excess,
            )

        return predict

    def space(self) -> SearchSpace:
        """The table's parameters as a search space: each column's values, in order.

        Parameters that are not the legacy's are bound to vLLM's options of the same name.
        """
        parameters = []
        for name in self.parameters:
            choices = dict.fromkeys(row.params[name] for row in self.rows if name in row.params)
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
        return tuple(values)
    return tuple(sorted(values, key=float))
