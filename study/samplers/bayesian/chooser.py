"""The model behind the default sampler: where is the next measurement expected to add most?

A candidate is worth the hypervolume that it is expected to add to the front, times the probability
that it is feasible. Of candidates that are worth about the same, the one that costs least is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
import optuna

from objectives.space import SearchSpace, point_key
from objectives.units import Scalar
from study.results import Floats, far_corner
from study.samplers.bayesian.acquisition import expected_gain
from study.samplers.bayesian.gaussian_process import Prior
from study.samplers.bayesian.surrogate import Surrogate
from study.samplers.choosers import NoAncestry
from study.samplers.draws import neighbour
from study.samplers.encoding import Encoding
from study.samplers.sampling_context import Point, SamplingContext

DRAWN = 200
"""Of a space that is too large to look at every point, so many around the front; of an infinite
one, as many at random."""


@dataclass(frozen=True, kw_only=True)
class ChooserOptions:
    """How the model searches; the defaults are what the benchmark showed to be best.

    Attributes:
        design: Feasible points to measure before the model is asked: far from each other.
        random_design: Whether they are drawn at random instead.
        exploration_weight: Factor on the model's deviations: less than 1 trusts it more.
        near_enough: Candidates worth this share of the best one's worth are as good as it.
        informed: Whether the models start from what is known without measuring.
        prior: Of the models.
    """

    design: int = 3
    random_design: bool = False
    exploration_weight: float = 1.0
    near_enough: float = 0.995
    informed: bool = True
    prior: Prior = field(default_factory=lambda: Prior(length=3.0, length_spread=0.7))


class ModelChooser(NoAncestry):
    """Proposes where the model expects most."""

    def __init__(self, space: SearchSpace, settings: ChooserOptions | None = None) -> None:
        self._space = space
        self._options = settings or ChooserOptions()
        self._encoding = Encoding(space)
        self._learners: WeakKeyDictionary[optuna.Study, Surrogate] = WeakKeyDictionary()

    def choose(self, context: SamplingContext) -> Mapping[str, Scalar]:
        """The point from which most is expected."""
        surrogate = self._learner(context)
        candidates = list(context.candidates()) or context.drawn(DRAWN)
        if not context.sees_all:
            candidates += self._around_the_front(context, surrogate)
        if len(candidates) == 1:
            return candidates[0]
        pending = list(context.history.claimed.values())
        designed = int(surrogate.seen.feasible.sum()) + len(pending)
        if designed < self._options.design and self._options.random_design:
            return candidates[context.rng.integers(len(candidates))]
        rows, pending_rows = self._encoding.rows(candidates), self._encoding.rows(pending)
        odds = surrogate.odds(context, candidates, rows)
        if designed < self._options.design or not surrogate.seen.feasible.any():
            tried = np.concatenate([surrogate.seen.rows, pending_rows])
            return candidates[self._farthest(context, rows, tried, odds)]
        everywhere = np.concatenate([rows, pending_rows])
        gain = self._gain(context, surrogate, [*candidates, *pending], everywhere, len(candidates))
        return self._cheapest(context, surrogate, candidates, gain * odds)

    def _learner(self, context: SamplingContext) -> Surrogate:
        study = context.study
        if study not in self._learners:
            self._learners[study] = Surrogate(
                self._encoding, study, self._options.prior, informed=self._options.informed
            )
        self._learners[study].seen.update(context.history)
        return self._learners[study]

    def _around_the_front(self, context: SamplingContext, surrogate: Surrogate) -> list[Point]:
        """Neighbours of the best points, for spaces that are too large to look at every point."""
        points: dict[str, Point] = {}
        front = surrogate.seen.front
        for _ in range(DRAWN if len(front) else 0):
            best = surrogate.seen.points[front[context.rng.integers(len(front))]]
            point = context.with_fixed(neighbour(self._space, best, context.rng))
            if context.allows(point):
                points[point_key(point)] = point
        return list(points.values())

    def _farthest(self, context: SamplingContext, rows: Floats, tried: Floats, odds: Floats) -> int:
        """The candidate that is likely feasible and farthest from all that was tried."""
        apart = np.ones(len(rows))
        if len(tried):
            apart = np.sqrt(self._encoding.squares(rows, tried)).sum(axis=2).min(axis=1)
        return int((apart * odds + 1e-9 * context.rng.random(len(odds))).argmax())

    def _gain(
        self,
        context: SamplingContext,
        surrogate: Surrogate,
        points: Sequence[Mapping[str, Scalar]],
        rows: Floats,
        count: int,
    ) -> Floats:
        """Hypervolume that the first `count` points are expected to add, in shares of the box.

        The others are being measured: they count as if they came out as expected.
        """
        seen = surrogate.seen
        values, front = seen.values[seen.feasible], seen.values[seen.front]
        reference = far_corner(values)
        posteriors = surrogate.posteriors(context, points, rows)
        pending = np.stack([posterior.centre[count:] for posterior in posteriors], axis=1)
        asked = [
            posterior.first(count, exploration_weight=self._options.exploration_weight)
            for posterior in posteriors
        ]
        gain = expected_gain(asked, np.concatenate([front, pending]), reference)
        gain /= float(np.prod(reference - values.min(axis=0)))
        if gain.max() > 1e-12:
            return gain
        doubts = [b.deviation / max(float(b.deviation.max()), 1e-300) for b in asked]
        unknown: Floats = 1e-12 * (1 + np.sum(doubts, axis=0))
        return unknown  # nothing is to be won: learn

    def _cheapest(
        self,
        context: SamplingContext,
        surrogate: Surrogate,
        candidates: Sequence[Point],
        worth: Floats,
    ) -> Point:
        """Of those that are worth about as much as the best: least time, fewest changes."""
        good = np.flatnonzero(worth >= self._options.near_enough * worth.max())
        last = surrogate.seen.points[-1]

        def price(index: int) -> tuple[float, int, float]:
            point = candidates[index]
            cost_s = context.predictions.of(point).cost_s
            changes = sum(last.get(name) != value for name, value in point.items())
            return (cost_s or 0.0, changes, -float(worth[index]))

        return candidates[min((int(index) for index in good), key=price)]
