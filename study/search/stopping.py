"""When a study has done enough: budget used up, every point seen, or the front settled.

The reasons are read from the study alone, so every worker sees the same one and stops.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from objectives.space import SearchSpace, point_key
from study.results import (
    directions_of,
    hypervolume_share,
    is_launched,
    losses,
    measured_points,
    read_trials,
)
from study.samplers import History, PointSampler, TournamentSampler


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """A callback for `Study.optimize`, and an answer for loops of one's own.

    Attributes:
        space: What may vary; None: nobody knows when every point is seen.
        trials: Launched trials of the study, in all; those refused by arithmetic cost nothing,
            and neither does a broken bench. Trials that run now count.
        timeout_s: Seconds from now.
        generations: Of a tournament.
        patience: Stop after so many launched trials that did not move the front; None: never.
        tolerance: By how much of its hypervolume the front has to grow to have moved.
    """

    space: SearchSpace | None = None
    trials: int | None = None
    timeout_s: float | None = None
    generations: int | None = None
    patience: int | None = None
    tolerance: float = 0.01
    _began_s: float = field(init=False, default_factory=time.monotonic)

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Stop this worker if there is a reason."""
        if self.reason(study) is not None:
            study.stop()

    def reason(self, study: optuna.Study) -> str | None:
        """Why no further trial should start, as a sentence; None: go on."""
        trials = study.get_trials(deepcopy=False)
        used = launches(trials) + _count(trials, TrialState.RUNNING)
        if self.trials is not None and used >= self.trials:
            return f"the budget of {self.trials} trials is used up"
        if self.timeout_s is not None and self._elapsed_s() >= self.timeout_s:
            return f"the budget of {self.timeout_s:g} s is used up"
        generation = generation_of(study)
        if self.generations is not None and (generation or 0) >= self.generations:
            return f"all {self.generations} generations are complete"
        if not _count(trials, TrialState.WAITING) and self._is_exhausted(study):
            return "every point that may work is measured"
        if self.patience is not None and is_settled(study, self.patience, self.tolerance):
            return (
                f"the front is settled: the last {self.patience} trials added less than "
                f"{100 * self.tolerance:g} % to its hypervolume"
            )
        return None

    def left(self, study: optuna.Study) -> str:
        """What is left of the budget, in words; empty where nothing is limited."""
        trials = study.get_trials(deepcopy=False)
        parts: list[str] = []
        if self.trials is not None:
            parts.append(f"{max(0, self.trials - launches(trials))} of {self.trials} trials")
        if self.timeout_s is not None:
            parts.append(f"{max(0.0, self.timeout_s - self._elapsed_s()):.0f} s")
        points = self._points_left(study)
        if points is not None:
            parts.append(f"{points} points")
        expected_s = self._expected_s(trials, points)
        if expected_s:
            parts.append(f"about {max(1, round(expected_s / 60))} min")
        return f"left: {', '.join(parts)}" if parts else ""

    def _expected_s(self, trials: Sequence[FrozenTrial], points: int | None) -> float | None:
        """Seconds until the budget or the space is used up, at the pace so far."""
        took = [t.duration.total_seconds() for t in trials if is_launched(t) and t.duration]
        ends = [] if points is None else [float(points)]
        if self.trials is not None:
            ends.append(max(0.0, self.trials - launches(trials)))
        if not took or not ends:
            return None
        expected_s = median(took) * min(ends)
        if self.timeout_s is None:
            return expected_s
        return min(expected_s, max(0.0, self.timeout_s - self._elapsed_s()))

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began_s

    def _is_exhausted(self, study: optuna.Study) -> bool:
        if isinstance(study.sampler, PointSampler):
            return study.sampler.is_exhausted(study)
        return self._points_left(study) == 0

    def _points_left(self, study: optuna.Study) -> int | None:
        """Points that nobody has; None where there is no end to them."""
        if isinstance(study.sampler, PointSampler):
            return study.sampler.points_left(study)
        points = None if self.space is None else self.space.points()
        if self.space is None or points is None:
            return None
        history = History(self.space)
        history.update(study)
        claimed = history.claimed
        return sum(not history.is_taken(point_key(p), claimed) for p in points)


def launches(trials: Sequence[FrozenTrial]) -> int:
    """Trials that used a slot of the budget: those that launched something and say what of it."""
    return sum(map(is_launched, trials))


def generation_of(study: optuna.Study) -> int | None:
    """The generation that the next trial will be in; None if the sampler has no generations."""
    sampler = study.sampler
    if isinstance(sampler, PointSampler):
        return sampler.generation(study)
    if isinstance(sampler, TournamentSampler):
        return sampler.generation_of_seat(len(sampler.seated(study)))
    return None


def is_settled(study: optuna.Study, patience: int, tolerance: float) -> bool:
    """Whether the last `patience` launched trials added next to nothing to the front.

    Next to nothing is up to `tolerance`, as a share of its hypervolume.
    """
    directions = directions_of(study)
    launched = [trial for trial in read_trials(study) if trial.launched]
    before = losses(measured_points(launched[:-patience]), directions)
    if len(launched) <= patience or not len(before):
        return False
    now = losses(measured_points(launched), directions)
    everything = np.concatenate([before, now])
    old, new = (hypervolume_share(rows, everything) for rows in (before, now))
    return new - old <= tolerance * new


def _count(trials: Sequence[FrozenTrial], state: TrialState) -> int:
    return sum(trial.state == state for trial in trials)
