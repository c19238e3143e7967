"""NSGA-II and NSGA-III for studies in which infeasible trials are PRUNED.

Optuna's samplers look at COMPLETE trials only: half of what a study learns would be lost on them,
and their generations would take twice as long. Here they are shown a copy of the study in memory,
in which an infeasible trial is complete, violates its constraints, and takes a seat.
"""

from __future__ import annotations

import warnings

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIIISampler, NSGAIISampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from objectives.space import Scalar, SearchSpace
from study.samplers.candidates import Question
from study.samplers.draws import value_at
from study.samplers.tournament import Seats

POPULATION = 20
"""Seats in a generation; Optuna's 50 would make a short study a random search."""


class SeatedNSGAII(Seats, NSGAIISampler):
    """NSGA-II whose generations follow from the order of the trials."""


class SeatedNSGAIII(Seats, NSGAIIISampler):
    """NSGA-III whose generations follow from the order of the trials."""


def make_nsga(third: bool, *, seed: int, population_size: int) -> BaseSampler:
    """One of the two; NSGA-III is experimental in Optuna, which need not be said each time."""
    kind = SeatedNSGAIII if third else SeatedNSGAII
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return kind(seed=seed, population_size=population_size)


class Mirror:
    """A copy of a study for samplers that look at COMPLETE trials only.

    Every trial there has all parameters, those that do not exist at its point at their first
    value, so that a genetic sampler can cross any two. The values of an infeasible trial are
    the worst that were measured: constrained domination never compares them with a feasible one's.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._distributions = space.distributions()
        self._copies: dict[str, tuple[optuna.Study, int]] = {}

    def __call__(self, question: Question) -> optuna.Study:
        """The copy, brought up to date."""
        study, finished = question.study, question.history.finished
        copy, read = self._copies.get(study.study_name) or (_empty_like(study), 0)
        if not any(trial.state == TrialState.COMPLETE for trial in finished):
            return copy  # the infeasible have no values to be shown with yet
        for trial in finished[read:]:
            copy.add_trial(self._shown(trial, copy, finished))
        self._copies[study.study_name] = (copy, len(finished))
        return copy

    def _shown(
        self, trial: FrozenTrial, copy: optuna.Study, finished: list[FrozenTrial]
    ) -> FrozenTrial:
        values = trial.values if trial.state == TrialState.COMPLETE else _worst(copy, finished)
        constraints = dict(trial.constraints)
        if trial.state == TrialState.PRUNED and all(v <= 0 for v in constraints.values()):
            constraints["infeasible"] = 1.0
        return create_trial(
            values=values,
            params={**_first_values(self._distributions), **trial.params},
            distributions=self._distributions,
            constraints=constraints,
        )


def _first_values(distributions: dict[str, BaseDistribution]) -> dict[str, Scalar]:
    return {name: value_at(distribution, 0.0) for name, distribution in distributions.items()}


def _worst(copy: optuna.Study, finished: list[FrozenTrial]) -> list[float]:
    measured = [t.values for t in finished if t.state == TrialState.COMPLETE]
    columns = zip(*measured, strict=True)
    signs = [1 if d == optuna.study.StudyDirection.MINIMIZE else -1 for d in copy.directions]
    return [
        sign * max(sign * v for v in column) for sign, column in zip(signs, columns, strict=True)
    ]


def _empty_like(study: optuna.Study) -> optuna.Study:
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(directions=study.directions)
    finally:
        optuna.logging.set_verbosity(level)
