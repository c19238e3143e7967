"""What a study teaches: posteriors of objectives and feasibility at points not yet measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial
from scipy.special import ndtr

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
from study.samplers.bayesian.acquisition import Posterior, density
from study.samplers.bayesian.gaussian_process import Gaussian, Prior
from study.samplers.encoding import Encoding
from study.samplers.sampling_context import SamplingContext
from study.samplers.tried_points import History

Indices = NDArray[np.intp]


class Observations:
    """Finished trials as arrays, a row a point; everything is to be minimised.

    Attributes:
        names: Of the objectives.
        points: Each point that was finished, in order.
        rows: (points, width) coordinates.
        counts: (points,) measurements of each point, 1 where there is none.
        values: (points, objectives) medians; meaningless where not feasible.
        feasible: (points,) which points have a feasible measurement.
        front: Indices of the feasible points that no other dominates, by their medians.
        violated: Constraints that some launched trial violated.
    """

    def __init__(self, encoding: Encoding, study: optuna.Study) -> None:
        self._encoding = encoding
        self._directions = directions_of(study)
        self.names = list(self._directions)
        self.points: list[dict[str, Scalar]] = []
        self.violated: set[str] = set()
        self._index: dict[str, int] = {}
        self._rows: list[list[float]] = []
        self._measured: list[list[TrialRecord]] = []
        self._values: list[Floats] = []
        self._excess: dict[str, dict[int, float]] = {}
        self._read = 0
        self.front: Indices = np.zeros(0, dtype=np.intp)
        self.feasible = np.zeros(0, dtype=np.bool_)
        self._arrange(afresh=True)

    def update(self, history: History) -> None:
        """Take in what was finished since the last time."""
        known, new = len(self.points), history.finished[self._read :]
        taken = [self._take(trial) for trial in new]
        self._read = len(history.finished)
        if taken:
            self._arrange(afresh=min(taken) < known)  # a replicate moves its point's median

    def _arrange(self, *, afresh: bool) -> None:
        """The arrays, as the trials that were read have it."""
        count, known = len(self.points), 0 if afresh else len(self.feasible)
        measured = np.array([len(records) for records in self._measured], dtype=np.float64)
        self.rows = np.array(self._rows).reshape(count, self._encoding.width)
        self.counts, self.feasible = np.maximum(measured, 1.0), measured > 0
        self.values = np.array(self._values).reshape(count, len(self.names))
        new = known + np.flatnonzero(self.feasible[known:])
        kept = new if afresh else np.concatenate([self.front, new])
        self.front = kept[nondominated(self.values[kept])]

    def _take(self, trial: FrozenTrial) -> int:
        record = trial_record(trial, self.names)
        at = self._index.setdefault(record.point, len(self.points))
        if at == len(self.points):
            self.points.append(self._encoding.space.spelt(trial.params))
            self._rows.append(self._encoding.row(self.points[at]))
            self._measured.append([])
            self._values.append(np.zeros(len(self.names)))
        for name, excess in trial.constraints.items():
            self._excess.setdefault(name, {})[at] = excess
            if excess > 0 and record.launched:
                self.violated.add(name)
        if record.feasible:
            self._measured[at].append(record)
            known = MeasuredPoint(point=record.point, trials=tuple(self._measured[at]))
            self._values[at] = losses([known], self._directions)[0]
        return at

    def excess(self, name: str) -> tuple[Floats, Indices]:
        """A constraint's excess where it is known, and at which points that is."""
        known = self._excess[name]
        return np.array(list(known.values())), np.array(list(known), dtype=np.intp)


MODEL_LIMIT = 128
"""Points that a model rests on: those nearest to the front, and some of all others."""

DOUBTFUL = 0.2
"""Probability that a candidate works of which arithmetic, unsure, says that it does not."""

AT_CEILING = 0.98
"""From this share of its ceiling on, a value is taken to be held down by it."""

UNSEEN = 0.5
"""Deviation of the logarithm of what a ceiling hides, while every value touches its ceiling."""

_ROUNDS = 2


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """Points that are known, then those that are asked for; squared distances by parameter."""

    points: Sequence[Mapping[str, Scalar]]
    counts: Floats
    among_known: Floats
    to_known: Floats


class Surrogate:
    """One study's observations, and the models that rest on them.

    Args:
        encoding: Of points.
        study: Which one.
        prior: Of the models.
        informed: Whether the models start from what is known without measuring: that
            figures that are never negative differ by factors, what arithmetic expects, and what
            no value can exceed.
    """

    def __init__(
        self, encoding: Encoding, study: optuna.Study, prior: Prior, *, informed: bool = True
    ) -> None:
        self.seen = Observations(encoding, study)
        self._encoding = encoding
        self._prior = prior
        self._informed = informed
        self._models: dict[str, Gaussian] = {}
        self._rests_on: Counter[str] = Counter()  # points, by model, of its hyperparameters

    def odds(
        self, context: SamplingContext, candidates: Sequence[Mapping[str, Scalar]], rows: Floats
    ) -> Floats:
        """Probability that each candidate is feasible, as launches and arithmetic tell."""
        odds = np.ones(len(candidates))
        if context.predictions.any:
            doubtful = [context.predictions.of(point).feasible is False for point in candidates]
            odds[doubtful] = DOUBTFUL
        for name in sorted(self.seen.violated):
            excess, known = self.seen.excess(name)
            some = spread(known.size, MODEL_LIMIT)
            asked = self._asked(known[some], candidates, rows)
            mean, deviation = self._learned(f"constraint {name}", asked, excess[some])
            odds *= ndtr(-mean / np.maximum(deviation, 1e-9))
        return odds

    def posteriors(
        self, context: SamplingContext, points: Sequence[Mapping[str, Scalar]], rows: Floats
    ) -> list[Posterior]:
        """What is believed of each objective at some points; rows are their coordinates."""
        chosen = self._chosen()
        asked = self._asked(chosen, points, rows)
        return [
            self._posterior(context, name, values, asked)
            for name, values in zip(self.seen.names, self.seen.values[chosen].T, strict=True)
        ]

    def _asked(
        self, chosen: Indices, points: Sequence[Mapping[str, Scalar]], rows: Floats
    ) -> _Asked:
        known = self.seen.rows[chosen]
        return _Asked(
            points=[*(self.seen.points[index] for index in chosen), *points],
            counts=self.seen.counts[chosen],
            among_known=self._encoding.squares(known, known),
            to_known=self._encoding.squares(rows, known),
        )

    def _chosen(self) -> Indices:
        """Which feasible points the models rest on: all, or the nearest to the front and some."""
        feasible = np.flatnonzero(self.seen.feasible)
        if len(feasible) <= MODEL_LIMIT:
            return feasible
        values = self.seen.values[feasible]
        width = np.maximum(np.ptp(values, axis=0), 1e-300)
        front = self.seen.values[self.seen.front]
        behind = np.full(len(feasible), np.inf)
        for best in front[spread(len(front), MODEL_LIMIT // 2)]:
            behind = np.minimum(behind, ((values - best) / width).max(axis=1))
        near, rest = np.split(np.argsort(behind, kind="stable"), [MODEL_LIMIT * 3 // 4])
        return feasible[[*near, *np.sort(rest)[spread(rest.size, MODEL_LIMIT // 4)]]]

    def _posterior(
        self, context: SamplingContext, name: str, values: Floats, asked: _Asked
    ) -> Posterior:
        """Where arithmetic expects a value, the model learns only how far reality is off."""
        if not self._informed:
            mean, deviation = self._learned(name, asked, values)
            return Posterior(mean=mean, deviation=deviation)
        sign = 1 if (values > 0).all() else -1 if (values < 0).all() else 0
        learned = np.log(np.abs(values)) if sign else values
        ceilings = _ceilings(context, asked.points, name)
        if ceilings is not None and sign < 0 and (-values <= ceilings[: len(values)]).all():
            mean, deviation = self._held_down(name, asked, learned, np.log(ceilings[: len(values)]))
            limits = ceilings[len(values) :]
            return Posterior(mean=mean, deviation=deviation, sign=sign, ceiling=limits)
        expected = _expected(context, asked.points, name, sign)
        if expected is not None and np.std(learned - expected[: len(values)]) <= np.std(learned):
            off, deviation = self._learned(f"off {name}", asked, learned - expected[: len(values)])
            return Posterior(mean=expected[len(values) :] + off, deviation=deviation, sign=sign)
        mean, deviation = self._learned(name, asked, learned)
        return Posterior(mean=mean, deviation=deviation, sign=sign)

    def _held_down(
        self, name: str, asked: _Asked, values: Floats, ceilings: Floats
    ) -> tuple[Floats, Floats]:
        """What a value would be without its ceiling: where it touches it, at least that much.

        Such a value is replaced by what the other points let expect of it, given that it is not
        less (expectation-maximisation, each point on its own).
        """
        held = values > ceilings + np.log(AT_CEILING)
        filled = np.where(held, np.maximum(values, np.median(values)), values)
        for _ in range(_ROUNDS):
            mean, deviation = self._fitted(f"held {name}", asked, filled).left_out()
            far = (values - mean) / deviation
            risen = mean + deviation * density(far) / np.maximum(ndtr(-far), 1e-12)
            filled = np.where(held & (far < 5), np.maximum(risen, values), values)
        mean, deviation = self._learned(f"held {name}", asked, filled)
        return mean, np.maximum(deviation, 1 - AT_CEILING)

    def _learned(self, name: str, asked: _Asked, values: Floats) -> tuple[Floats, Floats]:
        """Mean and deviation at the points that are asked for, from the values at the known."""
        return self._fitted(name, asked, values).predict(asked.to_known)

    def _fitted(self, name: str, asked: _Asked, values: Floats) -> Gaussian:
        if name not in self._models:
            least = UNSEEN if name.startswith("held") else 0.0
            self._models[name] = Gaussian(self._prior, least=least)
        model, total, before = self._models[name], len(self.seen.points), self._rests_on[name]
        steps = 0
        if total >= before * 1.1:  # hyperparameters change slowly
            steps = 60 if before < 10 else 20
            self._rests_on[name] = total
        model.fit(asked.among_known, values, asked.counts, steps=steps)
        return model


def _ceilings(
    context: SamplingContext, points: Sequence[Mapping[str, Scalar]], name: str
) -> Floats | None:
    """What an objective cannot exceed at some points; None if nobody knows everywhere."""
    found = [context.predictions.ceiling(name, point) for point in points]
    return None if None in found else np.array(found, dtype=np.float64)


def _expected(
    context: SamplingContext, points: Sequence[Mapping[str, Scalar]], name: str, sign: int
) -> Floats | None:
    """What arithmetic expects of an objective, as the model learns it; None if not everywhere."""
    figures = [context.predictions.of(point).figures.get(name) for point in points]
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
