"""Who chooses a point: by learning nothing, or by asking one of Optuna's samplers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import numpy as np
import optuna
from optuna.samplers import BaseSampler

from objectives.errors import UsageError
from objectives.space import SearchSpace
from objectives.units import Scalar
from study.samplers.draws import neighbour
from study.samplers.encoding import Encoding
from study.samplers.sampling_context import Point, SamplingContext

TRIES = 12
"""So often a sampler is asked again before the nearest point that may be proposed is taken."""

_WALK = 200


class Chooser(ABC):
    """Who answers."""

    @abstractmethod
    def choose(self, context: SamplingContext) -> Mapping[str, Scalar]:
        """The point that the trial should measure."""

    def ancestry(self, study: optuna.Study, number: int) -> Mapping[str, object] | None:
        """`generation` and `parents` of a trial, where the chooser has such things."""
        return None

    def generation(self, study: optuna.Study) -> int | None:
        """The generation that the next trial will be in, where there are generations."""
        return None


class RandomChooser(Chooser):
    """Any point, all with the same probability."""

    def choose(self, context: SamplingContext) -> Point:
        """A point at random."""
        candidates = context.candidates()
        if candidates:
            return candidates[context.rng.integers(len(candidates))]
        return context.drawn(1)[0]


class GridChooser(Chooser):
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


class SamplerChooser(Chooser):
    """Asks one of Optuna's samplers, until its answer is a point that may be proposed.

    Args:
        make: Makes the sampler from a seed. It is made anew for each trial: what it draws then
            depends on the study's seed and the trial's number only, in whichever worker.
    """

    def __init__(self, make: Callable[[int], BaseSampler]) -> None:
        self._make = make

    def choose(self, context: SamplingContext) -> Mapping[str, Scalar]:
        """The sampler's point, or the nearest one that may be proposed."""
        sampler = self._make(int(context.rng.integers(2**31)))
        proposal: Point = {}
        for _ in range(TRIES):
            proposal = context.with_fixed(sampled(context, sampler))
            if context.allows(proposal):
                return proposal
        return nearest_allowed(context, proposal)


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
