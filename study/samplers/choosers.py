"""Choosers that learn nothing, and those that ask one of Optuna's samplers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import optuna
from optuna.samplers import BaseSampler

from objectives.errors import UsageError
from objectives.space import Scalar, SearchSpace
from study.samplers.candidates import Point, Question
from study.samplers.draws import halton, neighbour, point_at
from study.samplers.encoding import Encoding

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

    def choose(self, question: Question) -> Point:
        """A point at random."""
        candidates = question.candidates()
        if candidates:
            return candidates[question.rng.integers(len(candidates))]
        return question.drawn(1)[0]


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

    def choose(self, question: Question) -> Point:
        """The first point that is left."""
        return question.candidates()[0]


class HaltonChooser(NoAncestry):
    """Points that fill the space evenly: a shifted Halton sequence, indexed by trial number.

    Optuna's own needs SciPy, and keeps its place in the sequence in a study attribute that
    several workers may read at once.
    """

    def __init__(self, space: SearchSpace, seed: int | None) -> None:
        self._shift = np.random.default_rng(seed).random(len(space.parameters))

    def choose(self, question: Question) -> Mapping[str, Scalar]:
        """The sequence's point, or the nearest one that may be proposed."""
        space = question.space
        at = halton(question.trial.number, len(space.parameters), self._shift)
        return nearest_allowed(question, question.with_fixed(point_at(space, at)))


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
        known_as: Callable[[Question], optuna.Study] | None = None,
    ) -> None:
        self._make = make
        self._known_as = known_as

    def choose(self, question: Question) -> Mapping[str, Scalar]:
        """The sampler's point, or the nearest one that may be proposed."""
        sampler = self._make(int(question.rng.integers(2**31)))
        proposal: Point = {}
        for _ in range(TRIES):
            proposal = question.with_fixed(self._proposal(question, sampler))
            if question.allows(proposal):
                return proposal
        return nearest_allowed(question, proposal)

    def _proposal(self, question: Question, sampler: BaseSampler) -> Point:
        if self._known_as is None:
            return sampled(question, sampler)
        shown = self._known_as(question)
        shown.sampler = sampler
        trial = shown.ask(question.space.distributions())
        shown.tell(trial, state=optuna.trial.TrialState.FAIL)
        return existing(question.space, cast(Mapping[str, Scalar], trial.params))


def sampled(question: Question, sampler: BaseSampler) -> Point:
    """A point from a sampler that reads the real study."""
    study, trial = question.study, question.trial
    relative = sampler.sample_relative(
        study, trial, sampler.infer_relative_search_space(study, trial)
    )
    point: Point = {}
    for parameter in question.space:
        name = parameter.name
        if question.space.is_active(name, point):
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


def nearest_allowed(question: Question, wanted: Point) -> Mapping[str, Scalar]:
    """The point that may be proposed and is nearest to what was wanted."""
    if question.allows(wanted):
        return wanted
    candidates = question.candidates()
    if not candidates:
        return _walked(question, wanted)
    encoding = Encoding(question.space)
    apart = encoding.squares(encoding.rows([wanted]), encoding.rows(candidates))
    return candidates[int(np.sqrt(apart[0]).sum(axis=1).argmin())]


def _walked(question: Question, wanted: Point) -> Point:
    """Step by step away from a point of an infinite space, until one may be proposed."""
    here = wanted
    for _ in range(_WALK):
        here = question.with_fixed(neighbour(question.space, here, question.rng))
        if question.allows(here):
            return here
    return question.drawn(1)[0]
