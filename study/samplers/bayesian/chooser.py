"""The model behind the default sampler: where is the next measurement expected to add most?

A candidate is worth the hypervolume that it is expected to add to the front, times the probability
that it is feasible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import numpy as np
import optuna

from objectives.space import SearchSpace, point_key
from objectives.units import Scalar
from study.results import Floats, far_corner
from study.samplers.bayesian.acquisition import expected_gain
from study.samplers.bayesian.gaussian_process import Prior
from study.samplers.bayesian.surrogate import Surrogate
from study.samplers.choosers import Chooser
from study.samplers.draws import neighbour
from study.samplers.encoding import Encoding
from study.samplers.sampling_context import Point, SamplingContext

DRAWN = 200
"""Of a space that is too large to look at every point, so many around the front; of an infinite
one, as many at random."""

SMOOTH = Prior(length=3.0, length_spread=0.7)
"""Most settings do little to most objectives."""


class ModelChooser(Chooser):
    """Proposes where the model expects most.

    Args:
        space: What may vary.
        design: Feasible points to measure before the model is asked.
        informed: Whether they lie far from each other, and the models start from what is known
            without measuring; otherwise as a textbook has it: a random start and no knowledge.
    """

    def __init__(self, space: SearchSpace, *, design: int = 3, informed: bool = True) -> None:
        self._space = space
        self._design = design
        self._informed = informed
        self._encoding = Encoding(space)
        self._surrogates: WeakKeyDictionary[optuna.Study, Surrogate] = WeakKeyDictionary()

    def choose(self, context: SamplingContext) -> Mapping[str, Scalar]:
        """The point from which most is expected."""
        surrogate = self._surrogate(context)
        candidates = list(context.candidates()) or context.drawn(DRAWN)
        if not context.sees_all:
            candidates += self._around_the_front(context, surrogate)
        if len(candidates) == 1:
            return candidates[0]
        pending = list(context.history.claimed.values())
        measured = int(surrogate.seen.feasible.sum())
        designing = measured + len(pending) < self._design
        if designing and not self._informed:
            return candidates[context.rng.integers(len(candidates))]
        rows, pending_rows = self._encoding.rows(candidates), self._encoding.rows(pending)
        odds = surrogate.odds(context, candidates, rows)
        if designing or not measured:
            tried = np.concatenate([surrogate.seen.rows, pending_rows])
            return candidates[self._farthest(context, rows, tried, odds)]
        everywhere = np.concatenate([rows, pending_rows])
        gain = self._gain(context, surrogate, [*candidates, *pending], everywhere, len(candidates))
        return candidates[int((gain * odds).argmax())]

    def _surrogate(self, context: SamplingContext) -> Surrogate:
        study = context.study
        if study not in self._surrogates:
            prior = SMOOTH if self._informed else Prior()
            self._surrogates[study] = Surrogate(
                self._encoding, study, prior, informed=self._informed
            )
        self._surrogates[study].seen.update(context.history)
        return self._surrogates[study]

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
        posteriors = surrogate.posteriors(context, points, rows)
        centres = np.stack([posterior.centre for posterior in posteriors], axis=1)
        known = np.concatenate([seen.values[seen.feasible], centres])
        reference = far_corner(known)
        asked = [posterior.first(count) for posterior in posteriors]
        front = np.concatenate([seen.values[seen.front], centres[count:]])
        gain = expected_gain(asked, front, reference)
        gain /= float(np.prod(reference - known.min(axis=0)))
        if gain.max() > 1e-12:
            return gain
        doubts = [b.deviation / max(float(b.deviation.max()), 1e-300) for b in asked]
        unknown: Floats = 1e-12 * (1 + np.sum(doubts, axis=0))
        return unknown  # nothing is to be won: learn
