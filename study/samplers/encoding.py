"""Points of a space as coordinates, so that a model can tell near from far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from optuna.distributions import FloatDistribution, IntDistribution

from objectives.models import WHISPER_SIZES
from objectives.space import Parameter, SearchSpace
from objectives.units import Scalar
from study.results import Floats
from study.samplers.draws import is_ordered, position_of

_ABSENT = 0.5


class Encoding:
    """Coordinates of points: every parameter spans a distance of 1.

    Numbers keep their order: a range by position (on its scale), a list by rank, so 2, 4, 8, 16
    are evenly spaced. Whisper's checkpoints are ordered by size. All other choices are equally
    far from each other. A parameter that does not exist at a point lies in the middle.

    Attributes:
        columns: For each parameter, where its coordinates are.
        width: Coordinates of a point.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.columns: list[slice] = []
        self._distributions = space.distributions()
        self._orders = {p.name: order for p in space if (order := _order(p)) is not None}
        self.width = 0
        for parameter in space:
            start = self.width
            self.width += len(parameter.choices) if self._is_categorical(parameter) else 1
            self.columns.append(slice(start, self.width))

    def _is_categorical(self, parameter: Parameter) -> bool:
        return bool(parameter.choices) and parameter.name not in self._orders

    def row(self, params: Mapping[str, Scalar]) -> list[float]:
        """A point's coordinates: `width` numbers in [0, 1]."""
        row: list[float] = []
        for parameter in self.space:
            value = params.get(parameter.name)
            if self._is_categorical(parameter):
                # Two choices differ in two coordinates: sqrt(1/2) each makes a distance of 1.
                row += [np.sqrt(0.5) if value == c else 0.0 for c in parameter.choices]
            else:
                row.append(_ABSENT if value is None else self._position(parameter, value))
        return row

    def _position(self, parameter: Parameter, value: Scalar) -> float:
        order = self._orders.get(parameter.name)
        if order is not None:
            return order[value] if value in order else order[parameter.nearest(value)]
        distribution = self._distributions[parameter.name]
        assert isinstance(distribution, IntDistribution | FloatDistribution)
        return position_of(distribution, float(value))

    def rows(self, points: Sequence[Mapping[str, Scalar]]) -> Floats:
        """Coordinates of several points: (points, width)."""
        return np.array([self.row(point) for point in points]).reshape(len(points), self.width)

    def squares(self, left: Floats, right: Floats) -> Floats:
        """Squared distances by parameter: (left, right, parameters)."""
        apart = np.square(left[:, None, :] - right[None, :, :])
        if len(self.columns) == self.width:
            return apart
        return np.stack([apart[:, :, c].sum(axis=2) for c in self.columns], axis=2)


def _order(parameter: Parameter) -> dict[Scalar, float] | None:
    """Rank of each choice from 0 to 1; None for a range and for choices without an order."""
    choices: Sequence[Scalar] = parameter.choices
    if not choices:
        return None
    if is_ordered(parameter):
        ranked = sorted(choices, key=float)
    elif str(parameter.binding) == "whisper.model" and all(c in WHISPER_SIZES for c in choices):
        ranked = sorted(choices, key=lambda choice: WHISPER_SIZES[str(choice)])
    else:
        return None
    return {choice: rank / max(1, len(ranked) - 1) for rank, choice in enumerate(ranked)}
