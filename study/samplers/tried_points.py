"""Which points of the space were tried, are being tried, or wait to be: read from the study only.

Nothing is kept that the storage does not hold; a `History` only remembers how far it has read, so
that asking stays cheap when a study is long. Trials of other workers count as much as our own.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from objectives.space import Scalar, SearchSpace, point_key
from study.results import nondominated, objective_names

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
    counts: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    running: dict[int, dict[str, Scalar]] = field(default_factory=dict)
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


class Remaining:
    """The points of a finite space that nobody finished."""

    def __init__(self, points: Sequence[dict[str, Scalar]]) -> None:
        self._left = {point_key(point): point for point in points}
        self._read = 0

    def after(self, history: History) -> Mapping[str, dict[str, Scalar]]:
        """What is left after a history; it only ever grows."""
        for trial in history.finished[self._read :]:
            self._left.pop(point_key(trial.params), None)
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


ENOUGH = 5
"""A point that was measured so often is not measured again."""

EVERYTHING = (-math.inf, math.inf)
"""The interval of a value whose noise nobody knows."""

# Two-sided 95 % points of Student's t by degrees of freedom, 1 to 10; about 2 beyond.
_T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


@dataclass(frozen=True, kw_only=True)
class Replicates:
    """All measurements of one point.

    Attributes:
        point: The key that they share.
        params: The point.
        numbers: Of its feasible trials, rising.
        medians: Objective name to the median, in the objective's unit.
        intervals: Objective name to where its true value lies (95 %); `EVERYTHING` if unknown.
        steady: Whether it was never found infeasible by a launch.
    """

    point: str
    params: Mapping[str, Scalar]
    numbers: tuple[int, ...]
    medians: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    steady: bool


def median_values(study: optuna.Study) -> dict[str, Replicates]:
    """Every point that was measured, by its key: medians, and how sure they are.

    An interval comes from how far replicates lay apart, over all points of the study that have
    any; where none has, from what the single trial stored of itself.
    """
    names = objective_names(study)
    groups: dict[str, list[FrozenTrial]] = {}
    refused: set[str] = set()
    for trial in study.get_trials(deepcopy=False):
        if is_feasible(trial):
            groups.setdefault(point_key(trial.params), []).append(trial)
        elif trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and is_launched(trial):
            refused.add(point_key(trial.params))
    noises = [_noise(list(groups.values()), column) for column in range(len(names))]
    return {
        key: Replicates(
            point=key,
            params=trials[0].params,
            numbers=tuple(trial.number for trial in trials),
            medians={n: median(t.values[i] for t in trials) for i, n in enumerate(names)},
            intervals={
                n: _interval(trials, i, n, noise)
                for i, (n, noise) in enumerate(zip(names, noises, strict=True))
            },
            steady=key not in refused,
        )
        for key, trials in groups.items()
    }


def points_to_repeat(study: optuna.Study, space: SearchSpace) -> list[dict[str, Scalar]]:
    """Points of the front that another point may dominate, as far as anyone can tell.

    Returns:
        The least often measured first, then the oldest; empty once the front is sure, or every
        doubtful point was measured `ENOUGH` times.
    """
    known = [each for each in median_values(study).values() if each.steady]
    if not known:
        return []
    signs = [1 if d == StudyDirection.MINIMIZE else -1 for d in study.directions]
    rows = [_losses(each.medians, signs) for each in known]
    front = [each for each, kept in zip(known, nondominated(rows), strict=True) if kept]
    doubtful = [
        each
        for each in front
        if len(each.numbers) < ENOUGH
        and any(_may_dominate(other, each, signs) for other in known if other is not each)
    ]
    doubtful.sort(key=lambda each: (len(each.numbers), each.numbers[0]))
    return [space.spelt(each.params) for each in doubtful]


def repeats_used(history: History) -> int:
    """How many finished trials measured a point that had been finished before."""
    return sum(count - 1 for count in history.counts.values())


def _losses(medians: Mapping[str, float], signs: Sequence[int]) -> list[float]:
    return [sign * value for sign, value in zip(signs, medians.values(), strict=True)]


def _may_dominate(left: Replicates, right: Replicates, signs: Sequence[int]) -> bool:
    """Whether left's best case is nowhere worse than right's worst case."""
    for sign, best, worst in zip(
        signs, left.intervals.values(), right.intervals.values(), strict=True
    ):
        if (best[0] > worst[1]) if sign > 0 else (best[1] < worst[0]):
            return False
    return True


@dataclass(frozen=True, kw_only=True)
class _Noise:
    """How far single measurements of a point lie apart, pooled over points."""

    deviation: float
    freedom: int
    relative: bool


def _noise(groups: Sequence[Sequence[FrozenTrial]], column: int) -> _Noise | None:
    """None where no point was measured twice."""
    samples = [np.array([trial.values[column] for trial in trials]) for trials in groups]
    relative = all((values > 0).all() for values in samples)
    several = [np.log(v) if relative else v for v in samples if len(v) > 1]
    freedom = sum(len(values) - 1 for values in several)
    if not freedom:
        return None
    squares = sum(float(np.square(values - values.mean()).sum()) for values in several)
    return _Noise(deviation=math.sqrt(squares / freedom), freedom=freedom, relative=relative)


def _interval(
    trials: Sequence[FrozenTrial], column: int, name: str, noise: _Noise | None
) -> tuple[float, float]:
    """Where the true value of an objective lies."""
    centre = median(trial.values[column] for trial in trials)
    if noise is None:
        return _stored(trials[0], name)
    t = _T95[noise.freedom - 1] if noise.freedom <= len(_T95) else 2.0
    # The median of many normal values is less sure than their mean by sqrt(pi / 2).
    blur = math.sqrt(math.pi / 2) if len(trials) > 2 else 1.0
    half = t * blur * noise.deviation / math.sqrt(len(trials))
    if noise.relative:
        return (centre * math.exp(-half), centre * math.exp(half))
    return (centre - half, centre + half)


def _stored(trial: FrozenTrial, name: str) -> tuple[float, float]:
    stored = trial.user_attrs.get("intervals")
    found = stored.get(name) if isinstance(stored, Mapping) else None
    return EVERYTHING if found is None else (float(found[0]), float(found[1]))
