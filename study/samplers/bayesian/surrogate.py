"""What a study teaches: posteriors of objectives and feasibility at points not yet measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial

from objectives.units import Scalar
from study.results import (
    Floats,
    MeasuredPoint,
    TrialRecord,
    directions_of,
    losses,
    nondominated,
    trial_record,
)
from study.samplers.bayesian.acquisition import Posterior, below
from study.samplers.bayesian.gaussian_process import Gaussian, Prior
from study.samplers.encoding import Encoding
from study.samplers.sampling_context import SamplingContext
from study.samplers.tried_points import History

_ROOM = 64


class Observations:
    """Finished trials as arrays that grow; everything is to be minimised.

    Attributes:
        names: Of the objectives.
        points: Each point that was finished, in order.
    """

    def __init__(self, encoding: Encoding, study: optuna.Study) -> None:
        self._encoding = encoding
        self._directions = directions_of(study)
        self.names: Sequence[str] = list(self._directions)
        self.points: list[dict[str, Scalar]] = []
        self._index: dict[str, int] = {}
        self._measured: list[list[TrialRecord]] = []
        self._rows = np.zeros((_ROOM, encoding.width))
        self._values = np.zeros((_ROOM, len(self.names)))
        self._counts = np.zeros(_ROOM)
        self._excess: dict[str, dict[int, float]] = {}
        self._violated: set[str] = set()
        self._read = 0
        self._front: NDArray[np.intp] | None = None

    def update(self, history: History) -> None:
        """Take in what was finished since the last time."""
        for trial in history.finished[self._read :]:
            known = len(self.points)
            at = self._take(trial)
            if at < known:
                self._front = None  # a replicate moves its point's median
            elif self._front is not None and self.feasible[at]:
                self._front = self._with(self._front, at)
        self._read = len(history.finished)

    def _with(self, front: NDArray[np.intp], at: int) -> NDArray[np.intp]:
        """The front after one more point was measured."""
        front = np.append(front, at)
        return front[nondominated(self.values[front])]

    def _take(self, trial: FrozenTrial) -> int:
        record = trial_record(trial, self.names)
        at = self._place(record.point, self._encoding.space.spelt(trial.params))
        for name, excess in trial.constraints.items():
            self._excess.setdefault(name, {})[at] = excess
            if excess > 0 and record.launched:
                self._violated.add(name)
        if record.feasible:
            self._measured[at].append(record)
            known = MeasuredPoint(point=record.point, trials=tuple(self._measured[at]))
            self._values[at] = losses([known], self._directions)[0]
            self._counts[at] += 1
        return at

    def _place(self, key: str, params: dict[str, Scalar]) -> int:
        if key not in self._index:
            self._index[key] = len(self.points)
            self.points.append(params)
            self._measured.append([])
            if len(self.points) > len(self._rows):
                self._grow()
            self._rows[len(self.points) - 1] = self._encoding.row(params)
        return self._index[key]

    def _grow(self) -> None:
        self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._values = np.concatenate([self._values, np.zeros_like(self._values)])
        self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])

    @property
    def rows(self) -> Floats:
        """Coordinates: (points, width)."""
        return self._rows[: len(self.points)]

    @property
    def counts(self) -> Floats:
        """Measurements of each point, 1 where there is none: (points,)."""
        return np.maximum(self._counts[: len(self.points)], 1.0)

    @property
    def values(self) -> Floats:
        """Medians of the objectives; meaningless where not feasible: (points, objectives)."""
        return self._values[: len(self.points)]

    @property
    def feasible(self) -> NDArray[np.bool_]:
        """Which points have a feasible measurement: (points,)."""
        return self._counts[: len(self.points)] > 0

    @property
    def front(self) -> NDArray[np.intp]:
        """Indices of the feasible points that no other dominates, by their medians."""
        if self._front is None:
            feasible = np.flatnonzero(self.feasible)
            self._front = feasible[nondominated(self.values[feasible])]
        return self._front

    @property
    def violated(self) -> list[str]:
        """Constraints that some launched trial violated."""
        return sorted(self._violated)

    def excess(self, name: str) -> tuple[Floats, NDArray[np.intp]]:
        """A constraint's excess by point, and the points where it is known."""
        known = self._excess[name]
        every = np.zeros(len(self.points))
        at = np.fromiter(known, dtype=np.intp, count=len(known))
        every[at] = list(known.values())
        return every, at


MODEL_LIMIT = 128
"""Points that a model rests on: those nearest to the front, and some of all others."""

DOUBTFUL = 0.2
"""Probability that a candidate works of which arithmetic, unsure, says that it does not."""

Indices = NDArray[np.intp]


@dataclass
class _Fitted:
    """A model, and on how many points its hyperparameters rest."""

    model: Gaussian
    points: int = 0


@dataclass(frozen=True, kw_only=True)
class _Apart:
    """Squared distances by parameter, among known points and from those that are asked for."""

    counts: Floats
    known: Floats
    asked: Floats


class Surrogate:
    """One study's observations, and the models that rest on them.

    Args:
        encoding: Of points.
        study: Which one.
        prior: Of the models.
        informed: Whether the models start from what is known without measuring: that
            figures that are never negative differ by factors, and what arithmetic expects.

    Attributes:
        seen: What was measured.
    """

    def __init__(
        self, encoding: Encoding, study: optuna.Study, prior: Prior, *, informed: bool = True
    ) -> None:
        self.seen = Observations(encoding, study)
        self._encoding = encoding
        self._prior = prior
        self._informed = informed
        self._models: dict[str, _Fitted] = {}
        self._kept: tuple[Indices, int] = (np.zeros(0, dtype=np.intp), 0)

    def odds(
        self, context: SamplingContext, candidates: Sequence[Mapping[str, Scalar]], rows: Floats
    ) -> Floats:
        """Probability that each candidate is feasible, as launches and arithmetic tell.

        Args:
            context: Whose predictions say what arithmetic knows.
            candidates: The points.
            rows: Their coordinates.
        """
        odds = np.ones(len(candidates))
        if context.predictions.any:
            doubtful = [context.predictions.of(point).feasible is False for point in candidates]
            odds[doubtful] = DOUBTFUL
        for name in self.seen.violated:
            excess, known = self.seen.excess(name)
            chosen = known[spread(known.size, MODEL_LIMIT)]
            apart = self._apart(chosen, rows)
            mean, deviation = self._learned(f"constraint {name}", apart, excess[chosen])
            odds *= below(-mean / np.maximum(deviation, 1e-9))
        return odds

    def posteriors(
        self, context: SamplingContext, points: Sequence[Mapping[str, Scalar]], rows: Floats
    ) -> list[Posterior]:
        """What is believed of each objective at some points.

        Args:
            context: Whose predictions say what arithmetic expects.
            points: The points.
            rows: Their coordinates.
        """
        chosen = self._chosen()
        apart = self._apart(chosen, rows)
        return [
            self._belief(context, column, chosen, points, apart)
            for column in range(len(self.seen.names))
        ]

    def _apart(self, chosen: Indices, rows: Floats) -> _Apart:
        known = self.seen.rows[chosen]
        return _Apart(
            counts=self.seen.counts[chosen],
            known=self._encoding.squares(known, known),
            asked=self._encoding.squares(rows, known),
        )

    def _chosen(self) -> Indices:
        """Which feasible points the models rest on: all, or those nearest to the front."""
        feasible = np.flatnonzero(self.seen.feasible)
        if len(feasible) <= MODEL_LIMIT:
            return feasible
        kept, known = self._kept
        if len(self.seen.points) > known * 1.02 or not self.seen.feasible[kept].all():
            kept, known = self._nearest(feasible), len(self.seen.points)
            self._kept = (kept, known)
        return np.concatenate([kept, feasible[feasible >= known][-MODEL_LIMIT:]])

    def _nearest(self, feasible: Indices) -> Indices:
        """Those nearest to the front, and of all others some."""
        values = self.seen.values[feasible]
        width = np.maximum(np.ptp(values, axis=0), 1e-300)
        front = self.seen.values[self.seen.front]
        front = front[spread(len(front), MODEL_LIMIT // 2)]
        behind = np.full(len(feasible), np.inf)
        for best in front:
            behind = np.minimum(behind, ((values - best) / width).max(axis=1))
        near = feasible[np.argsort(behind, kind="stable")[: MODEL_LIMIT * 3 // 4]]
        rest = np.setdiff1d(feasible, near)
        return np.concatenate([near, rest[spread(rest.size, MODEL_LIMIT // 4)]])

    def _belief(
        self,
        context: SamplingContext,
        column: int,
        chosen: Indices,
        points: Sequence[Mapping[str, Scalar]],
        apart: _Apart,
    ) -> Posterior:
        """Where arithmetic expects a value, the model learns only how far reality is off."""
        values, name = self.seen.values[chosen, column], self.seen.names[column]
        if not self._informed:
            mean, deviation = self._learned(name, apart, values)
            return Posterior(mean=mean, deviation=deviation)
        sign = 1 if (values > 0).all() else -1 if (values < 0).all() else 0
        learned = np.log(np.abs(values)) if sign else values
        measured = _expected(context, [self.seen.points[i] for i in chosen], name, sign)
        expected = None if measured is None else _expected(context, points, name, sign)
        if measured is None or expected is None or np.std(learned - measured) > np.std(learned):
            mean, deviation = self._learned(name, apart, learned)
        else:
            off, deviation = self._learned(f"off {name}", apart, learned - measured)
            mean = expected + off
        return Posterior(mean=mean, deviation=deviation, sign=sign)

    def _learned(self, name: str, apart: _Apart, values: Floats) -> tuple[Floats, Floats]:
        """Mean and deviation at the points that are asked for, from the values at the known."""
        fitted = self._models.setdefault(name, _Fitted(model=Gaussian(self._prior)))
        total = len(self.seen.points)
        steps = 0
        if total >= fitted.points * 1.1:  # hyperparameters change slowly
            steps = 60 if fitted.points < 10 else 20
            fitted.points = total
        fitted.model.fit(apart.known, values, apart.counts, steps=steps)
        return fitted.model.predict(apart.asked)


def _expected(
    context: SamplingContext, points: Sequence[Mapping[str, Scalar]], name: str, sign: int
) -> Floats | None:
    """What arithmetic expects of an objective at some points, as the model learns it.

    Returns:
        None if it does not expect anything everywhere.
    """
    figures = [context.predictions.figure(name, point) for point in points]
    if any(figure is None or (sign and figure <= 0) for figure in figures):
        return None
    expected = np.array(figures, dtype=np.float64)
    if sign:
        return np.log(expected)
    return -expected if context.maximises(name) else expected


def spread(count: int, limit: int) -> Indices:
    """Indices of at most `limit` out of `count`, evenly, the first and the last among them."""
    if count <= limit:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, limit).round().astype(np.intp))
