"""Which sampler for which study: every name, made right for our outcomes.

Whatever the name, no point is proposed twice while others are left, points of other workers count,
infeasible points are never proposed, and points at which the bench broke come again. `auto` is the
default; the others are for comparison, and for who knows better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.samplers import BaseSampler, TPESampler

from objectives.errors import UsageError
from objectives.space import SearchSpace
from study.samplers.choosers import Chooser, GridChooser, RandomChooser, SamplerChooser
from study.samplers.legacy_fitness import fitness_of
from study.samplers.point_sampler import PointSampler
from study.samplers.predictions import Predict
from study.samplers.tournament import TournamentOptions, TournamentSampler


class TournamentChooser(SamplerChooser):
    """Asks a tournament, and keeps it: it knows whose child each trial is."""

    def __init__(self, sampler: TournamentSampler) -> None:
        super().__init__(lambda seed: sampler)
        self._sampler = sampler

    def ancestry(self, study: optuna.Study, number: int) -> Mapping[str, object] | None:
        """Generation and parents."""
        return self._sampler.ancestry(study, number)

    def generation(self, study: optuna.Study) -> int | None:
        """The generation that the next trial will be in."""
        return self._sampler.generation_of_seat(len(self._sampler.seated(study)))


def _model(space: SearchSpace, *, design: int, informed: bool) -> Chooser:
    from study.samplers.bayesian import ModelChooser  # noqa: PLC0415 - SciPy, 0.2 s

    return ModelChooser(space, design=design, informed=informed)


def _auto(space: SearchSpace, seed: int | None, *, design: int = 3) -> Chooser:
    return _model(space, design=design, informed=True)


def _gp(space: SearchSpace, seed: int | None, *, n_startup_trials: int = 10) -> Chooser:
    """The same model as a textbook has it: a random start, and nothing known beforehand."""
    return _model(space, design=n_startup_trials, informed=False)


def _tournament(space: SearchSpace, seed: int | None, **options: Any) -> Chooser:  # noqa: ANN401
    held = TournamentOptions(**options)
    return TournamentChooser(TournamentSampler(held, fitness=fitness_of, seed=seed))


def _tpe(space: SearchSpace, seed: int | None, *, n_startup_trials: int = 10) -> Chooser:
    conditional = any(parameter.when for parameter in space)

    def make(own: int) -> BaseSampler:
        return TPESampler(
            multivariate=True,
            group=conditional,
            constant_liar=True,
            n_startup_trials=n_startup_trials,
            seed=own,
        )

    return SamplerChooser(make)


NAMES: Mapping[str, Callable[..., Chooser]] = {
    "auto": _auto,
    "tournament": _tournament,
    "tpe": _tpe,
    "gp": _gp,
    "grid": lambda space, seed: GridChooser(space),
    "random": lambda space, seed: RandomChooser(),
}
"""What a study may ask for, and who makes it."""


def make_sampler(
    name: str,
    *,
    space: SearchSpace,
    seed: int | None = None,
    predict: Predict | None = None,
    budget: int | None = None,
    repeats: int = 0,
    exhausted: str = "raise",
    **options: Any,  # noqa: ANN401 - as a configuration gives them
) -> PointSampler:
    """A sampler by name.

    The name is one of `NAMES`; `options` are what that takes itself, all else is `PointSampler`'s.

    Raises:
        UsageError: The name or an option is unknown, or the sampler cannot serve this space.
    """
    if name not in NAMES:
        raise UsageError(f"sampler: found {name!r}, allowed: {', '.join(NAMES)}")
    try:
        chooser = NAMES[name](space, seed, **options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"sampler {name}: {str(error).splitlines()[0]}") from error
    return PointSampler(
        space,
        chooser,
        predict=predict,
        seed=seed,
        budget=budget,
        repeats=repeats,
        exhausted=exhausted,
    )
