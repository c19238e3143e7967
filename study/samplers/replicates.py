"""Points that were measured several times, and points that should be.

A single measurement can be lucky. Whether a point belongs on the front is decided by comparing it
with others, so a point of the front is measured again as long as another one could dominate it
within what both are uncertain by. Trials of the same point are replicates; medians count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from objectives.space import Scalar, SearchSpace, point_key
from study.results import nondominated, objective_names
from study.samplers.tried_points import History, is_feasible, is_launched

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
            groups.setdefault(_key(trial), []).append(trial)
        elif trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and is_launched(trial):
            refused.add(_key(trial))
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


def _key(trial: FrozenTrial) -> str:
    stored = trial.user_attrs.get("point")
    return str(stored) if stored else point_key(trial.params)


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
