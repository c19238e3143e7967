"""What arithmetic knows of a candidate before anything is launched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from objectives.errors import BenchError
from objectives.space import SearchSpace, point_key
from objectives.units import Scalar

MEMO_TRIALS = 20
"""A prediction is made anew after so many finished trials: every start teaches the arithmetic."""


class SpaceExhaustedError(BenchError):
    """Every point is measured, being measured, or known not to work: there is nothing to ask."""


@dataclass(frozen=True, kw_only=True)
class PointPrediction:
    """What is known of a candidate before its launch.

    Attributes:
        feasible: Whether it will work; None if nobody knows.
        certain: Whether `feasible` is beyond the prediction's margin. A candidate that is
            certainly infeasible is never launched; an uncertain one is launched late.
        excess: Constraint name to predicted excess, > 0 violated.
        figures: Objective name to the value that arithmetic expects, in the objective's unit;
            a model then only has to learn how far reality is off.
    """

    feasible: bool | None = None
    certain: bool = False
    excess: Mapping[str, float] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_infeasible(self) -> bool:
        """Whether it certainly will not work."""
        return self.feasible is False and self.certain


UNKNOWN = PointPrediction()
"""Where nothing predicts."""

Predict = Callable[[Mapping[str, Scalar]], PointPrediction]
"""From a point of the space to what is known of it; may be slow, must not launch anything."""


class PointPredictions:
    """PointPredictions, remembered for a while."""

    def __init__(self, space: SearchSpace, predict: Predict | None) -> None:
        self._predict = predict
        self._known: dict[object, PointPrediction] = {}
        self._era = 0
        bound = [p.name for p in space if str(p.binding) == "vllm.args.max-num-seqs"]
        self._most = bound[0] if bound else ""

    @property
    def any(self) -> bool:
        """Whether anything predicts at all."""
        return self._predict is not None

    def begin(self, finished: int) -> None:
        """Forget what is old, `finished` trials into the study."""
        era = finished // MEMO_TRIALS
        if era != self._era:
            self._known.clear()
            self._era = era

    def ceiling(self, objective: str, params: Mapping[str, Scalar]) -> float | None:
        """What an objective cannot exceed; None where nobody knows, or arithmetic knows better.

        vLLM runs as many requests at once as its limit allows, unless its cache is too small.
        """
        if objective != "concurrent_capacity" or objective in self.of(params).figures:
            return None
        return float(params[self._most]) if self._most in params else None

    def of(self, params: Mapping[str, Scalar], *, fresh: bool = False) -> PointPrediction:
        """The prediction for a point; `fresh` asks again."""
        if self._predict is None:
            return UNKNOWN
        key = point_key(params)
        if fresh or key not in self._known:
            self._known[key] = self._predict(params)
        return self._known[key]


def infeasible_points(space: SearchSpace, predict: Predict) -> list[dict[str, Scalar]]:
    """The points of a finite space that certainly will not work; empty for an infinite one."""
    return [point for point in space.points() or [] if predict(point).is_infeasible]
