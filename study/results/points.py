"""All measurements of one point of the space: which belong together, their middle, how sure it is.

Reports, samplers, the stopping rule and replays take a point's figures from here, so that all of
them draw the same front.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from study.results.records import TrialRecord

EVERYTHING = (-math.inf, math.inf)
"""The interval of a value whose noise nobody knows."""


@dataclass(frozen=True, kw_only=True)
class MeasuredPoint:
    """All measurements of one point of the space that were feasible.

    Attributes:
        point: The key that they share.
        trials: At least one, by number.
        failures: How many other launches found the point infeasible.
    """

    point: str
    trials: tuple[TrialRecord, ...]
    failures: int = 0

    @property
    def doubted(self) -> bool:
        """Whether every measurement of it is doubted."""
        return all(trial.doubts for trial in self.trials)

    @property
    def trial(self) -> TrialRecord:
        """The measurement that stands for it: the first without a doubt, else the first."""
        return next((trial for trial in self.trials if not trial.doubts), self.trials[0])

    def figure(self, name: str) -> float | None:
        """The median of a quantity over the measurements; None where none has it."""
        found = [value for trial in self.trials if (value := trial.figure(name)) is not None]
        return median(found) if found else None

    def measured(self, name: str) -> list[float]:
        """Every measured value of an objective."""
        return [trial.values[name] for trial in self.trials if trial.values is not None]

    def values(self) -> dict[str, float]:
        """The median of every objective, in the objectives' order."""
        return {name: median(self.measured(name)) for name in self.trials[0].values or ()}


def measured_points(trials: Iterable[TrialRecord]) -> tuple[MeasuredPoint, ...]:
    """The feasible trials, measurements of the same point together, in order of appearance."""
    groups: dict[str, list[TrialRecord]] = {}
    failures: Counter[str] = Counter()
    for trial in trials:
        if trial.feasible:
            groups.setdefault(trial.point, []).append(trial)
        elif trial.feasible is False and trial.launched:
            failures[trial.point] += 1
    return tuple(
        MeasuredPoint(point=key, trials=tuple(found), failures=failures[key])
        for key, found in groups.items()
    )


def with_unsteady_settings(trials: Sequence[TrialRecord]) -> tuple[TrialRecord, ...]:
    """The same trials; feasible ones doubted whose setting was infeasible another time."""
    doubts = {
        each.point: f"infeasible in {each.failures} of {each.failures + len(each.trials)} "
        "measurements of this setting"
        for each in measured_points(trials)
        if each.failures
    }
    return tuple(
        replace(trial, doubts=(*trial.doubts, doubts[trial.point]))
        if trial.feasible and trial.point in doubts
        else trial
        for trial in trials
    )


Interval = tuple[float, float]


def intervals(
    points: Sequence[MeasuredPoint], names: Collection[str]
) -> dict[str, dict[str, Interval]]:
    """Where the true values of points lie (95 %): by the point's key and the objective.

    An interval comes from how far replicates lay apart, over all points that have any; where none
    has, from what a point's first trial stored of itself, `EVERYTHING` if it stored nothing.
    """
    noises = {name: _noise([each.measured(name) for each in points]) for name in names}
    return {
        each.point: {name: _interval(each, name, noise) for name, noise in noises.items()}
        for each in points
    }


@dataclass(frozen=True, kw_only=True)
class _Noise:
    """How far single measurements of a point lie apart, pooled over points."""

    deviation: float
    freedom: int
    relative: bool


def _noise(groups: Sequence[Sequence[float]]) -> _Noise | None:
    """None where no point was measured twice."""
    samples = [np.array(values) for values in groups]
    relative = all((values > 0).all() for values in samples)
    several = [np.log(v) if relative else v for v in samples if len(v) > 1]
    freedom = sum(len(values) - 1 for values in several)
    if not freedom:
        return None
    squares = sum(float(np.square(values - values.mean()).sum()) for values in several)
    return _Noise(deviation=math.sqrt(squares / freedom), freedom=freedom, relative=relative)


def _interval(point: MeasuredPoint, name: str, noise: _Noise | None) -> Interval:
    """Where the true value of an objective lies."""
    if noise is None:
        return point.trials[0].interval(name) or EVERYTHING
    from scipy.special import stdtrit  # noqa: PLC0415 - 0.2 s, and only who repeats needs it

    values = point.measured(name)
    centre = median(values)
    t = float(stdtrit(noise.freedom, 0.975))  # Student's, two-sided 95 %
    # The median of many normal values is less sure than their mean by sqrt(pi / 2).
    blur = math.sqrt(math.pi / 2) if len(values) > 2 else 1.0
    half = t * blur * noise.deviation / math.sqrt(len(values))
    if noise.relative:
        return (centre * math.exp(-half), centre * math.exp(half))
    return (centre - half, centre + half)
