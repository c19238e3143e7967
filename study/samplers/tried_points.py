"""Which points of the space were tried, are being tried, or wait to be: read from the study only.

Nothing is kept that the storage does not hold; a `History` only remembers how far it has read, so
that asking stays cheap when a study is long. Trials of other workers count as much as our own.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import optuna
from optuna.trial import FrozenTrial, TrialState

from objectives.space import Scalar, SearchSpace

Key = tuple[tuple[str, Scalar], ...]
"""`SearchSpace.canonical` of a point."""

ATTEMPTS = 3
"""A point whose trials failed so often, because the bench broke, is left alone."""

PATIENCE_S = 5.0
"""Seconds that a trial may take from its begin until its parameters are stored."""

_POLL_S = 0.02


@dataclass
class History:
    """What a study has tried, kept up to date with as few reads as possible.

    Attributes:
        space: What may vary.
        finished: COMPLETE and PRUNED trials with a whole point, by number of their end's reading.
        counts: How often each point was finished.
        failed: How often the bench broke at a point.
        running: Unfinished trials that hold a point: RUNNING, or WAITING with all of it fixed.
        silent: RUNNING trials whose point is not known yet, by number.
    """

    space: SearchSpace
    finished: list[FrozenTrial] = field(default_factory=list)
    counts: Counter[Key] = field(default_factory=Counter)
    failed: Counter[Key] = field(default_factory=Counter)
    running: dict[int, Key] = field(default_factory=dict)
    silent: dict[int, FrozenTrial] = field(default_factory=dict)
    _read: int = 0
    _open: set[int] = field(default_factory=set)

    def update(self, study: optuna.Study, *, but: int | None = None) -> None:
        """Read what is new.

        Args:
            study: The study.
            but: The number of the trial that asks; it holds no point yet.
        """
        trials = study.get_trials(deepcopy=False)
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
        key = self.space.canonical(trial.params)
        if trial.state == TrialState.FAIL:
            self.failed[key] += 1
        else:
            self.finished.append(trial)
            self.counts[key] += 1

    def _see_unfinished(self, trial: FrozenTrial) -> None:
        params = {**fixed_params(trial), **trial.params}
        if is_whole(self.space, params):
            self.running[trial.number] = self.space.canonical(params)
        elif trial.state == TrialState.RUNNING:
            self.silent[trial.number] = trial

    @property
    def claimed(self) -> set[Key]:
        """Points that somebody measures now, or that wait in the queue."""
        return set(self.running.values())

    def is_taken(self, key: Key, claimed: set[Key]) -> bool:
        """Whether a point needs no further proposal."""
        return key in self.counts or key in claimed or self.failed[key] >= ATTEMPTS


class Remaining:
    """The points of a finite space that nobody finished."""

    def __init__(self, space: SearchSpace, points: Sequence[dict[str, Scalar]]) -> None:
        self._space = space
        self._left = {space.canonical(point): point for point in points}
        self._read = 0

    def after(self, history: History) -> Mapping[Key, dict[str, Scalar]]:
        """What is left after a history; it only ever grows."""
        for trial in history.finished[self._read :]:
            self._left.pop(self._space.canonical(trial.params), None)
        self._read = len(history.finished)
        return self._left


def fixed_params(trial: FrozenTrial) -> dict[str, Scalar]:
    """What a trial that was put in the queue has to use."""
    fixed = trial.system_attrs.get("fixed_params")
    return dict(fixed) if isinstance(fixed, Mapping) else {}


def is_whole(space: SearchSpace, params: Mapping[str, Scalar]) -> bool:
    """Whether every parameter that exists at this point has a value."""
    return bool(params) and all(
        parameter.name in params for parameter in space if space.is_active(parameter.name, params)
    )


def is_launched(trial: FrozenTrial) -> bool:
    """Whether a finished trial used a slot of the budget: measured, or launched and infeasible."""
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        return False
    said = trial.user_attrs.get("infeasible")
    return not (isinstance(said, Mapping) and said.get("predicted"))


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether a trial was measured and no constraint of it is violated."""
    return trial.state == TrialState.COMPLETE and all(
        excess <= 0 for excess in trial.constraints.values()
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
