"""What a study has measured, as arrays: one row a point, replicates as their mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from objectives.space import Scalar
from study.results import Floats, nondominated
from study.samplers.encoding import Encoding
from study.samplers.tried_points import History, Key, is_launched

_ROOM = 64


class Observations:
    """Finished trials as arrays that grow; everything is to be minimised.

    Attributes:
        names: Of the objectives.
        points: Each point that was finished, in order.
    """

    def __init__(self, encoding: Encoding, study: optuna.Study) -> None:
        self._encoding = encoding
        names = study.metric_names or [f"objective {i}" for i in range(len(study.directions))]
        self.names: Sequence[str] = names
        self._signs = np.array(
            [1.0 if d == optuna.study.StudyDirection.MINIMIZE else -1.0 for d in study.directions]
        )
        self.points: list[dict[str, Scalar]] = []
        self._index: dict[Key, int] = {}
        self._rows = np.zeros((_ROOM, encoding.width))
        self._sums = np.zeros((_ROOM, len(names)))
        self._measured = np.zeros(_ROOM)
        self._refused = np.zeros(_ROOM, dtype=np.bool_)
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
                self._front = None  # a replicate moves its point's mean
            elif self._front is not None and self.feasible[at]:
                self._front = self._with(self._front, at)
        self._read = len(history.finished)

    def _with(self, front: NDArray[np.intp], at: int) -> NDArray[np.intp]:
        """The front after one more point was measured."""
        rows, new = self.values[front], self.values[at]
        if (np.all(rows <= new, axis=1) & np.any(rows < new, axis=1)).any():
            return front
        beaten = np.all(rows >= new, axis=1) & np.any(rows > new, axis=1)
        return np.append(front[~beaten], at)

    def _take(self, trial: FrozenTrial) -> int:
        at = self._place(self._encoding.space.spelt(trial.params))
        for name, excess in trial.constraints.items():
            self._excess.setdefault(name, {})[at] = excess
            if excess > 0 and is_launched(trial):
                self._violated.add(name)
        if trial.state == TrialState.COMPLETE and not _is_violated(trial):
            self._sums[at] += self._signs * np.array(trial.values)
            self._measured[at] += 1
        else:
            self._refused[at] = True
        return at

    def _place(self, params: dict[str, Scalar]) -> int:
        key = self._encoding.space.canonical(params)
        if key not in self._index:
            self._index[key] = len(self.points)
            self.points.append(params)
            if len(self.points) > len(self._rows):
                self._grow()
            self._rows[len(self.points) - 1] = self._encoding.row(params)
        return self._index[key]

    def _grow(self) -> None:
        self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._sums = np.concatenate([self._sums, np.zeros_like(self._sums)])
        self._measured = np.concatenate([self._measured, np.zeros_like(self._measured)])
        self._refused = np.concatenate([self._refused, np.zeros_like(self._refused)])

    @property
    def rows(self) -> Floats:
        """Coordinates: (points, width)."""
        return self._rows[: len(self.points)]

    @property
    def counts(self) -> Floats:
        """Measurements of each point, 1 where there is none: (points,)."""
        return np.maximum(self._measured[: len(self.points)], 1.0)

    @property
    def values(self) -> Floats:
        """Means of the objectives; meaningless where not feasible: (points, objectives)."""
        means: Floats = self._sums[: len(self.points)] / self.counts[:, None]
        return means

    @property
    def feasible(self) -> NDArray[np.bool_]:
        """Which points were measured and never refused: (points,)."""
        n = len(self.points)
        feasible: NDArray[np.bool_] = (self._measured[:n] > 0) & ~self._refused[:n]
        return feasible

    @property
    def front(self) -> NDArray[np.intp]:
        """Indices of the feasible points that no other dominates, by their means."""
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


def _is_violated(trial: FrozenTrial) -> bool:
    return any(excess > 0 for excess in trial.constraints.values())
