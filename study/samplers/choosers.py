"""Choosers that learn nothing, and those that ask one of Optuna's samplers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIIISampler, NSGAIISampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from objectives.errors import UsageError
from objectives.space import SearchSpace
from objectives.units import Scalar
from study.results import directions_of
from study.samplers.draws import halton, neighbour, point_at, value_at
from study.samplers.encoding import Encoding
from study.samplers.sampling_context import Point, SamplingContext
from study.samplers.tournament import Seats

TRIES = 12
"""So often a sampler is asked again before the nearest point that may be proposed is taken."""

_WALK = 200


class NoAncestry:
    """For choosers to whom generations mean nothing."""

    def ancestry(self, study: optuna.Study, number: int) -> Mapping[str, object] | None:
        """Nothing is known."""
        return None

    def generation(self, study: optuna.Study) -> int | None:
        """There are none."""
        return None


class RandomChooser(NoAncestry):
    """Any point, all with the same probability."""

    def choose(self, context: SamplingContext) -> Point:
        """A point at random."""
        candidates = context.candidates()
        if candidates:
            return candidates[context.rng.integers(len(candidates))]
        return context.drawn(1)[0]


class GridChooser(NoAncestry):
    """One point after the other, the last parameter varying fastest."""

    def __init__(self, space: SearchSpace) -> None:
        """Check that the space has an end.

        Raises:
            UsageError: It has none, or too many points to list.
        """
        if space.points() is None:
            endless = [p.name for p in space if p.values() is None]
            raise UsageError(
                "sampler: found grid, allowed with finitely many points only; "
                + (f"{', '.join(endless)} has no step" if endless else "the space has too many")
            )

    def choose(self, context: SamplingContext) -> Point:
        """The first point that is left."""
        return context.candidates()[0]


class HaltonChooser(NoAncestry):
    """Points that fill the space evenly: a shifted Halton sequence, indexed by trial number.

    Optuna's own needs SciPy, and keeps its place in the sequence in a study attribute that
    several workers may read at once.
    """

    def __init__(self, space: SearchSpace, seed: int | None) -> None:
        self._shift = np.random.default_rng(seed).random(len(space.parameters))

    def choose(self, context: SamplingContext) -> Mapping[str, Scalar]:
        """The sequence's point, or the nearest one that may be proposed."""
        space = context.space
        at = halton(context.trial.number, len(space.parameters), self._shift)
        return nearest_allowed(context, context.with_fixed(point_at(space, at)))


class SamplerChooser(NoAncestry):
    """Asks one of Optuna's samplers, until its answer is a point that may be proposed.

    Args:
        make: Makes the sampler from a seed. It is made anew for each trial: what it draws then
            depends on the study's seed and the trial's number only, in whichever worker.
        known_as: The study that the sampler is shown, where it cannot read ours.
    """

    def __init__(
        self,
        make: Callable[[int], BaseSampler],
        *,
        known_as: Callable[[SamplingContext], optuna.Study] | None = None,
    ) -> None:
        self._make = make
        self._known_as = known_as

    def choose(self, context: SamplingContext) -> Mapping[str, Scalar]:
        """The sampler's point, or the nearest one that may be proposed."""
        sampler = self._make(int(context.rng.integers(2**31)))
        proposal: Point = {}
        for _ in range(TRIES):
            proposal = context.with_fixed(self._proposal(context, sampler))
            if context.allows(proposal):
                return proposal
        return nearest_allowed(context, proposal)

    def _proposal(self, context: SamplingContext, sampler: BaseSampler) -> Point:
        if self._known_as is None:
            return sampled(context, sampler)
        shown = self._known_as(context)
        shown.sampler = sampler
        trial = shown.ask(context.space.distributions())
        shown.tell(trial, state=optuna.trial.TrialState.FAIL)
        return existing(context.space, cast(Mapping[str, Scalar], trial.params))


def sampled(context: SamplingContext, sampler: BaseSampler) -> Point:
    """A point from a sampler that reads the real study."""
    study, trial = context.study, context.trial
    relative = sampler.sample_relative(
        study, trial, sampler.infer_relative_search_space(study, trial)
    )
    point: Point = {}
    for parameter in context.space:
        name = parameter.name
        if context.space.is_active(name, point):
            value = relative.get(name)
            if value is None:
                value = sampler.sample_independent(study, trial, name, parameter.distribution)
            point[name] = parameter.nearest(value)
    return point


def existing(space: SearchSpace, values: Mapping[str, Scalar]) -> Point:
    """The point without the parameters that do not exist there."""
    point: Point = {}
    for parameter in space:
        if space.is_active(parameter.name, point):
            point[parameter.name] = parameter.nearest(values[parameter.name])
    return point


def nearest_allowed(context: SamplingContext, wanted: Point) -> Mapping[str, Scalar]:
    """The point that may be proposed and is nearest to what was wanted."""
    if context.allows(wanted):
        return wanted
    candidates = context.candidates()
    if not candidates:
        return _walked(context, wanted)
    encoding = Encoding(context.space)
    apart = encoding.squares(encoding.rows([wanted]), encoding.rows(candidates))
    return candidates[int(np.sqrt(apart[0]).sum(axis=1).argmin())]


def _walked(context: SamplingContext, wanted: Point) -> Point:
    """Step by step away from a point of an infinite space, until one may be proposed."""
    here = wanted
    for _ in range(_WALK):
        here = context.with_fixed(neighbour(context.space, here, context.rng))
        if context.allows(here):
            return here
    return context.drawn(1)[0]


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

    def __call__(self, context: SamplingContext) -> optuna.Study:
        """The copy, brought up to date."""
        study, finished = context.study, context.history.finished
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
    ways = zip(directions_of(copy).values(), zip(*measured, strict=True), strict=True)
    return [max(values) if way == "minimize" else min(values) for way, values in ways]


def _empty_like(study: optuna.Study) -> optuna.Study:
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(directions=study.directions)
    finally:
        optuna.logging.set_verbosity(level)
