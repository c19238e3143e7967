"""Drawing values and points: at random, or near others.

A position between 0 and 1 stands for a value of a distribution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from objectives.space import Parameter, SearchSpace
from objectives.units import Scalar, is_number

NEAR = (0.01, 0.3)
"""The shortest and the longest step's standard deviation, as shares of a range."""


def value_at(distribution: BaseDistribution, position: float) -> Scalar:
    """The value at a position in [0, 1): every choice and every step has the same share."""
    if isinstance(distribution, CategoricalDistribution):
        choices = cast(Sequence[Scalar], distribution.choices)
        return choices[min(int(position * len(choices)), len(choices) - 1)]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high = distribution.low, distribution.high
    if distribution.log:
        value = math.exp(math.log(low) + position * (math.log(high) - math.log(low)))
    elif distribution.step is not None:
        steps = round((high - low) / distribution.step)
        value = low + min(int(position * (steps + 1)), steps) * distribution.step
    else:
        value = low + position * (high - low)
    return _inside(distribution, value)


def _inside(distribution: IntDistribution | FloatDistribution, value: float) -> Scalar:
    value = min(max(value, distribution.low), distribution.high)
    return round(value) if isinstance(distribution, IntDistribution) else float(value)


def position_of(distribution: IntDistribution | FloatDistribution, value: float) -> float:
    """Where a number lies in its range: 0 at the low end, 1 at the high end."""
    low, high = float(distribution.low), float(distribution.high)
    if distribution.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return 0.0 if high <= low else (value - low) / (high - low)


def nearby(distribution: BaseDistribution, value: Scalar, rng: np.random.Generator) -> Scalar:
    """Another value, mostly close to this one; of categories, any other."""
    if isinstance(distribution, CategoricalDistribution):
        others = [c for c in cast(Sequence[Scalar], distribution.choices) if c != value]
        return others[rng.integers(len(others))] if others else value
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    if distribution.single():
        return value
    length = math.exp(rng.uniform(math.log(NEAR[0]), math.log(NEAR[1])))
    here = position_of(distribution, float(value))
    for _ in range(8):
        there = min(max(here + length * rng.normal(), 0.0), 1.0 - 1e-12)
        moved = value_at(distribution, there)
        if moved != value:
            return moved
    step = distribution.step or 1
    up = value == distribution.low or (value != distribution.high and rng.random() < 0.5)
    return _inside(distribution, float(value) + (step if up else -step))


def _spelt(parameter: Parameter, position: float) -> Scalar:
    return parameter.nearest(value_at(parameter.distribution, position))


def random_point(space: SearchSpace, rng: np.random.Generator) -> dict[str, Scalar]:
    """A point, each parameter drawn uniformly (a logarithmic one on its scale)."""
    params: dict[str, Scalar] = {}
    for parameter, position in zip(space, rng.random(len(space.parameters)), strict=True):
        if space.is_active(parameter.name, params):
            params[parameter.name] = _spelt(parameter, float(position))
    return params


def neighbour(
    space: SearchSpace, params: Mapping[str, Scalar], rng: np.random.Generator
) -> dict[str, Scalar]:
    """A point that differs from `params` in one parameter, sometimes in more."""
    active = [p.name for p in space if p.name in params]
    changed = {active[rng.integers(len(active))]}
    changed |= {name for name in active if rng.random() < 0.5 / len(active)}
    moved: dict[str, Scalar] = {}
    for parameter in space:
        name = parameter.name
        if not space.is_active(name, moved):
            continue
        if name not in params:
            moved[name] = _spelt(parameter, rng.random())
        elif name in changed:
            moved[name] = _moved(parameter, params[name], rng)
        else:
            moved[name] = params[name]
    return moved


def _moved(parameter: Parameter, value: Scalar, rng: np.random.Generator) -> Scalar:
    if not parameter.choices or not is_ordered(parameter):
        return parameter.nearest(nearby(parameter.distribution, value, rng))
    index = parameter.choices.index(parameter.nearest(value))
    steps = [i for i in (index - 1, index + 1) if 0 <= i < len(parameter.choices)]
    return parameter.choices[steps[rng.integers(len(steps))]] if steps else value


def is_ordered(parameter: Parameter) -> bool:
    """Whether the choices are numbers, so that their order means something."""
    return all(map(is_number, parameter.choices))
