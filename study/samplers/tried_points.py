"""Which points of the space were tried, are being tried, or wait to be: read from the study only.

Nothing is kept that the storage does not hold; a `History` only remembers how far it has read, so
that asking stays cheap when a study is long. Trials of other workers count as much as our own.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import optuna
from optuna.trial import FrozenTrial, TrialState

from objectives.space import SearchSpace, point_key
from objectives.units import Scalar
from study.results import (
    directions_of,
    intervals,
    may_dominate,
    measured_points,
    read_trials,
    undominated,
)

ATTEMPTS = 3
"""A point is tried so often, where the bench breaks; then it is left alone."""

PATIENCE_S = 5.0
"""Seconds that a trial may take from its begin until its parameters are stored."""

_POLL_S = 0.02


@dataclass
class History:
    """What a study has tried, kept up to date with as few reads as possible.

    Attributes:
        finished: COMPLETE and PRUNED trials with a whole point, by number of their end's reading.
        counts: How often each point was finished.
        failed: How often the bench broke at a point.
        running: Unfinished trials that hold a point: RUNNING, or WAITING with all of it fixed.
        silent: RUNNING trials whose point is not known yet, by number.
    """

    space: SearchSpace
    finished: list[FrozenTrial] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    running: dict[int, dict[str, Scalar]] = field(default_factory=dict)
    silent: dict[int, FrozenTrial] = field(default_factory=dict)
    _read: int = 0
    _open: set[int] = field(default_factory=set)

    def update(self, study: optuna.Study, *, but: int | None = None) -> None:
        """Read what is new, but not the trial that asks: it holds no point yet."""
        trials = study.get_trials(deepcopy=False)
        # Only what was open at the last look, and what is new: a study of 10,000 trials is asked
        # for a point in milliseconds.
        numbers = [*sorted(self._open), *range(self._read, len(trials))]
        self._read = len(trials)
        self.running.clear()
        self.silent.clear()
        for number in numbers:
            trial = trials[number]
            if trial.state.is_finished():
                self._open.discard(number)
                self._finish(trial)
            else:
                self._open.add(number)
                if number != but:
                    self._see_unfinished(trial)

    def _finish(self, trial: FrozenTrial) -> None:
        if not is_whole(self.space, trial.params):
            return
        key = point_key(trial.params)
        if trial.state == TrialState.FAIL:
            self.failed[key] += 1
        else:
            self.finished.append(trial)
            self.counts[key] += 1

    def _see_unfinished(self, trial: FrozenTrial) -> None:
        params = {**fixed_params(trial), **trial.params}
        if is_whole(self.space, params):
            self.running[trial.number] = params
        elif trial.state == TrialState.RUNNING:
            self.silent[trial.number] = trial

    @property
    def claimed(self) -> dict[str, dict[str, Scalar]]:
        """Points that somebody measures now, or that wait in the queue, by key."""
        return {point_key(params): self.space.spelt(params) for params in self.running.values()}

    def is_taken(self, key: str, claimed: Container[str]) -> bool:
        """Whether a point needs no further proposal."""
        return key in self.counts or key in claimed or self.failed[key] >= ATTEMPTS


def fixed_params(trial: FrozenTrial) -> dict[str, Scalar]:
    """What a trial that was put in the queue has to use."""
    fixed = trial.system_attrs.get("fixed_params")
    return dict(fixed) if isinstance(fixed, Mapping) else {}


def is_whole(space: SearchSpace, params: Mapping[str, Scalar]) -> bool:
    """Whether every parameter that exists at this point has a value."""
    return bool(params) and all(
        parameter.name in params for parameter in space if space.is_active(parameter.name, params)
    )


def wait_for_turn(study: optuna.Study, history: History, number: int) -> None:
    """Wait until every trial with a smaller number has stored its point, and read them.

    Trial numbers are handed out by the storage one by one, so they are a queue that all workers
    share: who waits for the smaller numbers cannot propose the same point as they do. Nobody
    waits for a trial that began `PATIENCE_S` ago or earlier: its worker is gone.
    """
    began_s = time.monotonic()
    history.update(study, but=number)
    while time.monotonic() - began_s < PATIENCE_S and any(
        other < number and _is_young(trial) for other, trial in history.silent.items()
    ):
        time.sleep(_POLL_S)
        history.update(study, but=number)


def _is_young(trial: FrozenTrial) -> bool:
    began = trial.datetime_start
    return began is not None and (datetime.now() - began).total_seconds() < PATIENCE_S


ENOUGH = 5
"""A point that was measured so often is not measured again."""


def points_to_repeat(study: optuna.Study, space: SearchSpace) -> list[dict[str, Scalar]]:
    """Points of the front that another point may dominate, as far as anyone can tell.

    Returns:
        The least often measured first, then the oldest; none that a launch found infeasible.
        Empty once the front is sure, or every doubtful point was measured `ENOUGH` times.
    """
    directions = directions_of(study)
    points = measured_points(read_trials(study))
    known = intervals(points, directions)
    doubtful = [
        each
        for each in undominated(points, directions)
        if not each.failures
        and len(each.trials) < ENOUGH
        and any(
            may_dominate(known[other.point], known[each.point], directions)
            for other in points
            if other is not each
        )
    ]
    doubtful.sort(key=lambda each: (len(each.trials), each.trials[0].number))
    return [space.spelt(each.trials[0].params) for each in doubtful]


def repeats_used(history: History) -> int:
    """How many finished trials measured a point that had been finished before."""
    return sum(count - 1 for count in history.counts.values())
