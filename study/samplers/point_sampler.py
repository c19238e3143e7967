"""A sampler that proposes whole points, each once, whoever chooses them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from objectives.space import SearchSpace, point_key
from study.results import is_launched
from study.samplers.choosers import Chooser
from study.samplers.predictions import PointPredictions, Predict, SpaceExhaustedError
from study.samplers.sampling_context import Point, SamplingContext
from study.samplers.tried_points import (
    History,
    fixed_params,
    is_whole,
    points_to_repeat,
    repeats_used,
    wait_for_turn,
)


class PointSampler(BaseSampler):
    """Proposes whole points of a space, each once, as a chooser chooses them.

    Args:
        space: What may vary.
        chooser: Who chooses.
        predict: What arithmetic knows of a point; None: nothing.
        seed: Of everything that is drawn; None: another one for each worker.
        budget: Launched trials of the study, in all; None: no limit.
        repeats: So many more measurements of points that decide the front, when the space is
            exhausted or the rest of the budget is needed for them.
        exhausted: What to do when nothing is left: "raise" a `SpaceExhaustedError`, or "repeat"
            the point that was measured least often.
    """

    def __init__(
        self,
        space: SearchSpace,
        chooser: Chooser,
        *,
        predict: Predict | None = None,
        seed: int | None = None,
        budget: int | None = None,
        repeats: int = 0,
        exhausted: str = "raise",
    ) -> None:
        self._space = space
        self._chooser = chooser
        self._entropy = np.random.SeedSequence(seed).entropy
        self._budget = budget
        self._repeats = repeats
        self._exhausted = exhausted
        self._independent = RandomSampler(seed=seed)
        self._predictions = PointPredictions(space, predict)
        points = space.points()
        self._points = None if points is None else {point_key(each): each for each in points}
        self._known: WeakKeyDictionary[optuna.Study, History] = WeakKeyDictionary()

    def reseed_rng(self) -> None:
        """Draw from another seed: Optuna calls this in each of several threads."""
        self._entropy = np.random.SeedSequence().entropy
        self._independent.reseed_rng()

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All parameters, the conditional ones too."""
        return self._space.distributions()

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A whole point.

        Raises:
            SpaceExhaustedError: Nothing is left to propose.
        """
        # Two workers that ask at the same time would both be given the best point.
        wait_for_turn(study, self._history(study), trial.number)
        return dict(self._answer(self._context(study, trial)))

    def _context(self, study: optuna.Study, trial: FrozenTrial) -> SamplingContext:
        """What a trial asks, once the history is up to date."""
        history = self._history(study)
        self._predictions.begin(len(history.finished))
        return SamplingContext(
            study=study,
            trial=trial,
            space=self._space,
            history=history,
            predictions=self._predictions,
            rng=self._rng(trial.number),
            fixed=fixed_params(trial),
            remaining=None
            if self._points is None
            else {key: at for key, at in self._points.items() if key not in history.counts},
        )

    def _answer(self, context: SamplingContext) -> Mapping[str, Any]:
        baseline = self._baseline(context)
        if baseline is not None:
            return baseline
        exhausted = context.remaining is not None and not context.candidates()
        if exhausted or self._rest_is_for_repeats(context):
            again = self._to_repeat(context)
            if again is not None:
                return again
        if exhausted:
            return self._when_exhausted(context)
        return self._checked(context)

    def _history(self, study: optuna.Study) -> History:
        """What everybody tried."""
        return self._known.setdefault(study, History(self._space))

    def _rng(self, number: int) -> np.random.Generator:
        assert isinstance(self._entropy, int)
        # By the trial's number, not by a running state: a study that is resumed draws as it would
        # have drawn without the interruption.
        return np.random.default_rng([self._entropy, max(0, number)])

    def _checked(self, context: SamplingContext) -> Mapping[str, Any]:
        """The chooser's answer, predicted once more: what was learned since may rule it out."""
        point = self._chooser.choose(context)
        if self._predictions.any and self._predictions.of(point, fresh=True).is_infeasible:
            # Once: if the second answer cannot work either, the launch's own check stops it.
            return self._chooser.choose(replace(context))  # lists anew what is worth a launch
        return point

    def _baseline(self, context: SamplingContext) -> Point | None:
        """What runs today, first, unless somebody has it already."""
        stored = context.study.user_attrs.get("baseline")
        if context.history.finished or not isinstance(stored, Mapping):
            return None
        point = self._space.spelt(stored)
        return point if is_whole(self._space, point) and context.allows(point) else None

    def _rest_is_for_repeats(self, context: SamplingContext) -> bool:
        if not self._repeats or self._budget is None:
            return False
        launched = sum(map(is_launched, context.history.finished)) + len(context.history.running)
        used = repeats_used(context.history)
        return launched >= self._budget - (self._repeats - used)

    def _to_repeat(self, context: SamplingContext) -> Point | None:
        if repeats_used(context.history) >= self._repeats:
            return None
        claimed = context.history.claimed
        wanted = points_to_repeat(context.study, self._space)
        return next((point for point in wanted if point_key(point) not in claimed), None)

    def _when_exhausted(self, context: SamplingContext) -> Point:
        counts = context.history.counts
        if self._exhausted == "raise" or not counts:
            raise SpaceExhaustedError(
                "every point of the space is measured, being measured, or known not to work"
            )
        least = min(context.history.finished, key=lambda trial: counts[point_key(trial.params)])
        return self._space.spelt(least.params)

    def is_exhausted(self, study: optuna.Study) -> bool:
        """Whether nothing is left to propose: no point, and nothing to be repeated."""
        context = self._next_context(study)
        return context is not None and not context.candidates() and not self._to_repeat(context)

    def points_left(self, study: optuna.Study) -> int | None:
        """Points of a finite space that nobody has and that may work; None for an infinite one.

        Of a large space no more than `study.samplers.sampling_context.LOOK_LIMIT` are counted.
        """
        context = self._next_context(study)
        return None if context is None else len(context.candidates())

    def generation(self, study: optuna.Study) -> int | None:
        """The generation that the next trial will be in; None without generations."""
        return self._chooser.generation(study)

    def _next_context(self, study: optuna.Study) -> SamplingContext | None:
        """What the next trial would be asked; None for an infinite space."""
        if self._points is None:
            return None
        history = self._history(study)
        history.update(study)
        return self._context(study, create_trial(state=TrialState.WAITING))

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:  # noqa: ANN401 - as Optuna declares it
        """A parameter that the space does not know, at random."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def ancestry(self, study: optuna.Study, number: int) -> Mapping[str, object] | None:
        """`generation` and `parents` of a trial, where the chooser has such things."""
        return self._chooser.ancestry(study, number)
