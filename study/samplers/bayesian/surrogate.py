"""What a study teaches: beliefs about objectives and feasibility at points not yet measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import NDArray

from objectives.space import Scalar
from study.results import Floats
from study.samplers.bayesian.acquisition import Belief, below
from study.samplers.bayesian.gaussian_process import Gaussian, Prior
from study.samplers.bayesian.observations import Observations
from study.samplers.candidates import Question
from study.samplers.encoding import Encoding

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


class Learner:
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
        self, question: Question, candidates: Sequence[Mapping[str, Scalar]], rows: Floats
    ) -> Floats:
        """Probability that each candidate is feasible, as launches and arithmetic tell.

        Args:
            question: Whose forecasts say what arithmetic knows.
            candidates: The points.
            rows: Their coordinates.
        """
        odds = np.ones(len(candidates))
        if question.forecasts.any:
            doubtful = [question.forecasts.of(point).feasible is False for point in candidates]
            odds[doubtful] = DOUBTFUL
        for name in self.seen.violated:
            excess, known = self.seen.excess(name)
            chosen = known[spread(known.size, MODEL_LIMIT)]
            apart = self._apart(chosen, rows)
            mean, deviation = self._learned(f"constraint {name}", apart, excess[chosen])
            odds *= below(-mean / np.maximum(deviation, 1e-9))
        return odds

    def beliefs(
        self, question: Question, points: Sequence[Mapping[str, Scalar]], rows: Floats
    ) -> list[Belief]:
        """What is believed of each objective at some points.

        Args:
            question: Whose forecasts say what arithmetic expects.
            points: The points.
            rows: Their coordinates.
        """
        chosen = self._chosen()
        apart = self._apart(chosen, rows)
        return [
            self._belief(question, column, chosen, points, apart)
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
        question: Question,
        column: int,
        chosen: Indices,
        points: Sequence[Mapping[str, Scalar]],
        apart: _Apart,
    ) -> Belief:
        """Where arithmetic expects a value, the model learns only how far reality is off."""
        values, name = self.seen.values[chosen, column], self.seen.names[column]
        if not self._informed:
            mean, deviation = self._learned(name, apart, values)
            return Belief(mean=mean, deviation=deviation)
        sign = 1 if (values > 0).all() else -1 if (values < 0).all() else 0
        learned = np.log(np.abs(values)) if sign else values
        measured = _expected(question, [self.seen.points[i] for i in chosen], name, sign)
        expected = None if measured is None else _expected(question, points, name, sign)
        if measured is None or expected is None or np.std(learned - measured) > np.std(learned):
            mean, deviation = self._learned(name, apart, learned)
        else:
            off, deviation = self._learned(f"off {name}", apart, learned - measured)
            mean = expected + off
        return Belief(mean=mean, deviation=deviation, sign=sign)

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
    question: Question, points: Sequence[Mapping[str, Scalar]], name: str, sign: int
) -> Floats | None:
    """What arithmetic expects of an objective at some points, as the model learns it.

    Returns:
        None if it does not expect anything everywhere.
    """
    figures = [question.forecasts.figure(name, point) for point in points]
    if any(figure is None or (sign and figure <= 0) for figure in figures):
        return None
    expected = np.array(figures, dtype=np.float64)
    if sign:
        return np.log(expected)
    return -expected if question.maximises(name) else expected


def spread(count: int, limit: int) -> Indices:
    """Indices of at most `limit` out of `count`, evenly, the first and the last among them."""
    if count <= limit:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, limit).round().astype(np.intp))
