"""What may vary.

A `SearchSpace` is a tuple of `Parameter`s, each bound to one place of one server: a command-line
option, an environment variable, the model, or the device. What a point of the space means for the
servers is a `Candidate`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import BaseTrial

from objectives.units import Scalar, ServerName, is_number

SERVERS: tuple[str, ...] = get_args(ServerName)
"""Whose settings a parameter may be bound to."""

BindingKind = Literal["args", "env", "model", "device"]

POINTS_LIMIT = 20_000
"""A finite space with more points than this is searched as if it were infinite."""

_BINDING = re.compile(
    rf"^(?P<server>{'|'.join(SERVERS)})\.(?:(?P<place>model|device)|(?P<kind>args|env)\.(?P<key>[\w.-]+))$"
)


@dataclass(frozen=True, kw_only=True)
class Binding:
    """Where a parameter's value goes: `vllm.args.max-num-seqs`, `whisper.model`, ..."""

    server: str
    kind: BindingKind
    key: str = ""

    @classmethod
    def parse(cls, text: str) -> Binding:
        """Read a binding as people write it.

        Raises:
            ValueError: It is none of `SERVER.args.OPTION`, `SERVER.env.VARIABLE`,
                `SERVER.model`, `SERVER.device`, with a SERVER of `SERVERS`.
        """
        found = _BINDING.match(text)
        if found is None:
            raise ValueError(
                f"{text!r} binds to nothing; allowed: SERVER.args.OPTION, SERVER.env.VARIABLE, "
                f"SERVER.model, SERVER.device, where SERVER is {' or '.join(SERVERS)}"
            )
        kind = cast(BindingKind, found["place"] or found["kind"])
        key = found["key"] or ""
        return cls(
            server=found["server"], kind=kind, key=option_name(key) if kind == "args" else key
        )

    def __str__(self) -> str:
        return f"{self.server}.{self.kind}" + (f".{self.key}" if self.key else "")


def option_name(text: str) -> str:
    """One spelling for an option: no leading dashes, dashes instead of underscores."""
    return text.lstrip("-").replace("_", "-")


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One thing that may vary: a list of choices, or a range of numbers.

    Attributes:
        name: As people see it.
        binding: Where the value goes.
        choices: The values of a list; empty for a range.
        low: Smallest value of a range.
        high: Largest value of a range.
        step: Distance between a range's values; None for a continuous range of floats.
        log: Sample a range on a logarithmic scale.
        integer: The range holds integers.
        when: The parameter exists only where each named parameter has one of these values.
        bounds: Hard bounds; a value outside is infeasible whatever the choices say.
    """

    name: str
    binding: Binding
    choices: tuple[Scalar, ...] = ()
    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False
    integer: bool = False
    when: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Check what a type cannot say.

        Raises:
            ValueError: Choices and a range together or neither, or a range that is empty.
        """
        if bool(self.choices) == (self.low is not None):
            raise ValueError(f"{self.name}: give either choices or low and high")
        if self.choices and len(set(map(repr, self.choices))) < len(self.choices):
            raise ValueError(f"{self.name}: a choice is repeated")
        if self.low is not None:
            if self.high is None or self.high < self.low:
                raise ValueError(f"{self.name}: high must not be below low")
            if self.log and self.step is not None:
                raise ValueError(f"{self.name}: log and step exclude each other")
            if self.log and self.low <= 0:
                raise ValueError(f"{self.name}: a logarithmic range starts above 0")
            if self.step is not None and self.step <= 0:
                raise ValueError(f"{self.name}: step must be above 0")

    @property
    def distribution(self) -> BaseDistribution:
        """Optuna's distribution; evenly spaced numbers keep their order and distance."""
        if self.choices:
            return _evenly_spaced(self.choices) or CategoricalDistribution(self.choices)
        assert self.low is not None and self.high is not None
        if self.integer:
            step = 1 if self.step is None else round(self.step)
            return IntDistribution(round(self.low), round(self.high), log=self.log, step=step)
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def values(self) -> tuple[Scalar, ...] | None:
        """Every value, in order; None where there is no end to them."""
        if self.choices:
            return self.choices
        own = self.distribution
        if isinstance(own, IntDistribution):
            numbers = range(own.low, own.high + 1, own.step)
            return tuple(numbers) if len(numbers) <= POINTS_LIMIT else None
        assert isinstance(own, FloatDistribution)
        if own.step is None:
            return (own.low,) if own.single() else None
        count = round((own.high - own.low) / own.step) + 1
        if count > POINTS_LIMIT:
            return None
        return tuple(round(own.low + index * own.step, 12) for index in range(count))

    def suggest(self, trial: BaseTrial) -> Scalar:
        """Ask the sampler for a value, spelt as in the choices."""
        own = self.distribution
        value: Scalar
        if isinstance(own, CategoricalDistribution):
            chosen = trial.suggest_categorical(self.name, self.choices)
            assert chosen is not None
            value = chosen
        elif isinstance(own, IntDistribution):
            value = trial.suggest_int(self.name, own.low, own.high, step=own.step, log=own.log)
        else:
            assert isinstance(own, FloatDistribution)
            value = trial.suggest_float(self.name, own.low, own.high, step=own.step, log=own.log)
        return self.nearest(value)

    def nearest(self, value: Scalar) -> Scalar:
        """`value` as the choices or the grid spell it: 0.55, not 0.5500000000000001."""
        if not is_number(value):
            return value
        for choice in filter(is_number, self.choices):
            if math.isclose(choice, value, rel_tol=1e-9, abs_tol=1e-12):
                return choice
        return plain(value)

    def allows(self, value: Scalar) -> bool:
        """Whether `value` is one of the choices, or inside the range."""
        if self.choices:
            return any(_same(self.nearest(value), choice) for choice in self.choices)
        assert self.low is not None and self.high is not None
        return is_number(value) and self.low - 1e-12 <= value <= self.high + 1e-12

    def excess(self, value: Scalar) -> float:
        """How far `value` lies outside the hard bounds, in its own unit; <= 0 inside."""
        if self.bounds is None or not is_number(value):
            return 0.0
        low, high = self.bounds
        return round(max(low - value, value - high), 12)


def _same(left: Scalar, right: Scalar) -> bool:
    return left == right and isinstance(left, bool) == isinstance(right, bool)


def _evenly_spaced(choices: Sequence[Scalar]) -> BaseDistribution | None:
    """A stepped range for a rising list of evenly spaced numbers, else None."""
    if len(choices) < 2 or any(isinstance(c, bool | str) for c in choices):
        return None
    numbers = [float(c) for c in choices]
    step = round(numbers[1] - numbers[0], 12)
    even = all(
        math.isclose(right - left, step, rel_tol=1e-6)
        for left, right in itertools.pairwise(numbers)
    )
    if step <= 0 or not even:
        return None
    if all(isinstance(c, int) for c in choices):
        return IntDistribution(int(numbers[0]), int(numbers[-1]), step=round(step))
    # Not categorical: a model then knows that 0.45 lies between 0.40 and 0.50.
    return FloatDistribution(numbers[0], numbers[-1], step=step)


@dataclass(frozen=True)
class SearchSpace:
    """The parameters of a study, parents before the parameters that depend on them."""

    parameters: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        """Check names and conditions.

        Raises:
            ValueError: A name or a place is used twice, or a condition names a later parameter.
        """
        names: dict[str, Parameter] = {}
        places: dict[str, str] = {}
        for parameter in self.parameters:
            if parameter.name in names:
                raise ValueError(f"{parameter.name}: declared twice")
            place = str(parameter.binding)
            if place in places and not parameter.when:
                raise ValueError(f"{parameter.name}: {places[place]} is bound to {place} already")
            for other, values in parameter.when.items():
                if other not in names:
                    raise ValueError(f"{parameter.name}: `when` needs {other} declared before it")
                wrong = [value for value in values if not names[other].allows(value)]
                if wrong:
                    raise ValueError(f"{parameter.name}: {other} never is {wrong[0]!r}")
            names[parameter.name] = parameter
            places[place] = parameter.name

    def __getitem__(self, name: str) -> Parameter:
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        raise KeyError(name)

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names, in order."""
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def size(self) -> int | None:
        """How many points there are; None if infinite or above `POINTS_LIMIT`."""
        return None if (points := self.points()) is None else len(points)

    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of every parameter, the conditional ones too."""
        return {parameter.name: parameter.distribution for parameter in self.parameters}

    def is_active(self, name: str, params: Mapping[str, Scalar]) -> bool:
        """Whether the parameter exists where its parents have the values of `params`."""
        return all(
            other in params and any(_same(params[other], value) for value in values)
            for other, values in self[name].when.items()
        )

    def suggest(self, trial: BaseTrial) -> dict[str, Scalar]:
        """Ask the sampler for a point; conditional parameters only where they exist."""
        params: dict[str, Scalar] = {}
        for parameter in self.parameters:
            if self.is_active(parameter.name, params):
                params[parameter.name] = parameter.suggest(trial)
        return params

    def points(self) -> list[dict[str, Scalar]] | None:
        """Every point of a finite space; None if infinite or above `POINTS_LIMIT`."""
        points: list[dict[str, Scalar]] = [{}]
        for parameter in self.parameters:
            values = parameter.values()
            if values is None:
                return None
            grown: list[dict[str, Scalar]] = []
            for point in points:
                if self.is_active(parameter.name, point):
                    grown += [{**point, parameter.name: value} for value in values]
                else:
                    grown.append(point)
                if len(grown) > POINTS_LIMIT:
                    return None
            points = grown
        return points

    def spelt(self, params: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """`params` in declared order, numbers spelt as in the choices."""
        return {p.name: p.nearest(params[p.name]) for p in self.parameters if p.name in params}

    def excess(self, params: Mapping[str, Scalar]) -> float:
        """The largest distance outside any hard bounds, in that parameter's unit; <= 0 inside."""
        bounded = [(self[name], value) for name, value in params.items() if self[name].bounds]
        return max((parameter.excess(value) for parameter, value in bounded), default=0.0)

    def out_of_bounds(self, params: Mapping[str, Scalar]) -> str:
        """Which values lie outside their hard bounds, in one sentence; empty if none does."""
        wrong = [
            f"{name} is {value}, its hard bounds are {bounds[0]} to {bounds[1]}"
            for name, value in params.items()
            if (bounds := self[name].bounds) is not None and self[name].excess(value) > 0
        ]
        return "; ".join(wrong)


def point_key(params: Mapping[str, Scalar]) -> str:
    """The point of `params`: two are the same point if and only if their keys are equal.

    Neither the order of the parameters nor the spelling of a number matters.
    """
    return " ".join(f"{name}={spelling(params[name])}" for name in sorted(params))


def spelling(value: Scalar) -> str:
    """One spelling for a value: of 2 and 2.0, and of 0.3 and 0.1 + 0.2, which is not quite 0.3."""
    if isinstance(value, float):
        # Twelve digits are what is left of a number that a grid was counted up to.
        value = value if value.is_integer() else float(f"{plain(value):.12g}")
        value = int(value) if value.is_integer() else value
    return str(value)


def plain(value: Scalar) -> Scalar:
    """0.55, not 0.5500000000000001, which a stepped range can give."""
    return round(value, 12) if isinstance(value, float) else value
