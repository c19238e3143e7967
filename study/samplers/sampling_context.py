"""What a chooser is asked: one trial's point, out of those that are worth a launch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from objectives.space import SearchSpace, point_key
from objectives.units import Scalar
from study.results import directions_of
from study.samplers.draws import random_point
from study.samplers.predictions import PointPrediction, PointPredictions
from study.samplers.tried_points import History

LOOK_LIMIT = 600
"""Of a large finite space, so many points are looked at for one proposal."""

DRAWS = 400
"""An infinite space is drawn from so often before an infeasible point is let through."""

Point = dict[str, Scalar]


@dataclass
class SamplingContext:
    """Which point should this trial measure?

    Attributes:
        trial: The trial that asks; it holds no point yet.
        history: What was tried, by everybody.
        predictions: What arithmetic knows.
        rng: To draw from: it depends on the seed and on the trial's number only.
        fixed: Values that the trial has to use.
        remaining: Points of a finite space that nobody finished; None for an infinite one.
    """

    study: optuna.Study
    trial: FrozenTrial
    space: SearchSpace
    history: History
    predictions: PointPredictions
    rng: np.random.Generator
    fixed: Mapping[str, Scalar]
    remaining: Mapping[str, Point] | None
    _claimed: Mapping[str, Point] = field(init=False)
    _listed: list[Point] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Look up once what is being measured now."""
        self._claimed = self.history.claimed

    @property
    def sees_all(self) -> bool:
        """Whether `candidates` lists every point that is worth proposing."""
        return self.remaining is not None and len(self.remaining) <= LOOK_LIMIT

    def candidates(self) -> list[Point]:
        """Points that are worth proposing; at most `LOOK_LIMIT` of a large space, at random.

        Nobody has them, and they are not infeasible. Points at which the bench broke before come
        only when there are no others.

        Returns:
            In the space's order; empty where a finite space is exhausted, and always for an
            infinite one.
        """
        if self._listed is None:
            fresh = self._worthy(lambda key: key not in self.history.failed)
            self._listed = fresh or self._worthy(lambda key: True)
        return self._listed

    def _worthy(self, wanted: Callable[[str], bool]) -> list[Point]:
        points = self.remaining or {}
        keys = [key for key in points if wanted(key)]
        if len(keys) > LOOK_LIMIT:
            keys = [keys[index] for index in self.rng.permutation(len(keys))]
        return list(
            islice((points[key] for key in keys if self._is_worthy(key, points[key])), LOOK_LIMIT)
        )

    def _is_worthy(self, key: str, point: Mapping[str, Scalar]) -> bool:
        return (
            all(point.get(name) == value for name, value in self.fixed.items())
            and not self.history.is_taken(key, self._claimed)
            and not self.predictions.of(point).is_infeasible
        )

    def allows(self, point: Mapping[str, Scalar]) -> bool:
        """Whether a point may be proposed: nobody has it, and it is not infeasible."""
        return self._is_worthy(point_key(point), point)

    def drawn(self, count: int) -> list[Point]:
        """Up to `count` different points of an infinite space that may be proposed.

        Returns:
            One point, the least bad of those that were drawn, if all of them are infeasible.
        """
        found: dict[str, Point] = {}
        infeasible: list[tuple[float, int, Point]] = []
        for turn in range(max(DRAWS, 2 * count)):
            point = self.with_fixed(random_point(self.space, self.rng))
            if self.allows(point):
                found[point_key(point)] = point
                if len(found) >= count:
                    break
            else:
                infeasible.append((_excess(self.predictions.of(point)), turn, point))
        return list(found.values()) or [min(infeasible)[2]]

    def maximises(self, objective: str) -> bool:
        """Whether an objective is to be maximised, by its name."""
        return directions_of(self.study).get(objective) == "maximize"

    def with_fixed(self, point: Point) -> Point:
        """The point with the values that the trial has to use."""
        return {**point, **{k: v for k, v in self.fixed.items() if k in point}}


def _excess(prediction: PointPrediction) -> float:
    return sum(max(value, 0.0) for value in prediction.excess.values())
