"""What a candidate is expected to add to the front, given what is believed of its values.

Everything minimises. The values of a candidate are independent, and each is normal, or the
logarithm of it is: then gains count in the objectives' own units, while the model learns ratios.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from study.results import Floats, open_boxes

FRONT_LIMIT = {1: 64, 2: 64, 3: 48, 4: 30, 5: 14}
"""Points of the front that are looked at, by number of objectives; 8 for more objectives.

The boxes below a front grow fast with both; the points left out are those that add least.
"""


@dataclass(frozen=True, kw_only=True)
class Posterior:
    """What is believed of one objective at some candidates.

    Attributes:
        mean: (candidates,) of the value, or of the logarithm of its size.
        deviation: (candidates,) of the same.
        sign: 0: the value itself is normal. 1 or -1: it is this sign times the exponential of
            something normal.
    """

    mean: Floats
    deviation: Floats
    sign: int = 0

    @property
    def centre(self) -> Floats:
        """(candidates,) the value's median."""
        return self.sign * np.exp(self.mean) if self.sign else self.mean

    def first(self, count: int, *, exploration_weight: float) -> Posterior:
        """The posterior of the first candidates, its deviations times `exploration_weight`."""
        return Posterior(
            mean=self.mean[:count],
            deviation=exploration_weight * self.deviation[:count],
            sign=self.sign,
        )

    def shortfall(self, levels: Floats) -> Floats:
        """How far below each level the value is expected to be, nothing where it is above.

        Returns:
            (candidates, levels), the expectation of max(0, level - value).
        """
        mean, deviation = self.mean[:, None], np.maximum(self.deviation[:, None], 1e-12)
        finite = np.isfinite(levels)
        level = np.where(finite, levels, 1.0)[None, :]
        if self.sign == 0:
            short = _normal_shortfall(mean, deviation, level)
        elif self.sign > 0:
            short = _lognormal_shortfall(mean, deviation, level)
        else:
            short = _lognormal_excess(mean, deviation, -level)
        return np.where(finite[None, :], np.maximum(short, 0.0), 0.0)


def expected_gain(posteriors: Sequence[Posterior], front: Floats, reference: Floats) -> Floats:
    """Expected hypervolume that each candidate adds to a front.

    Args:
        posteriors: One an objective.
        front: (n, objectives) values that are there already.
        reference: (objectives,) the far corner.

    Returns:
        (candidates,), in the product of the objectives' units; exact but for what
        `FRONT_LIMIT` leaves out.

    Source: the open region in boxes, and in each a product of one-dimensional expectations;
    M. Emmerich, K. Yang, A. Deutz, "Infill criteria for multiobjective Bayesian optimization"
    (2020).
    """
    limit = FRONT_LIMIT.get(len(posteriors), 8)
    lower, upper = open_boxes(_thinned(front, reference, limit), reference)
    gain = np.ones((len(posteriors[0].mean), len(lower)))
    for column, posterior in enumerate(posteriors):
        ends = np.concatenate([lower[:, column], upper[:, column]])
        levels, where = np.unique(ends, return_inverse=True)
        short = posterior.shortfall(levels)[:, where]
        gain *= np.maximum(short[:, len(lower) :] - short[:, : len(lower)], 0.0)
    total: Floats = gain.sum(axis=1)
    return total


def _thinned(front: Floats, reference: Floats, limit: int) -> Floats:
    """At most `limit` rows that lie far apart, each objective's best among them."""
    if len(front) <= limit:
        return front
    scaled = front / np.maximum(reference - front.min(axis=0), 1e-300)
    chosen = list(dict.fromkeys(int(i) for i in scaled.argmin(axis=0)))
    nearest = np.min([np.square(scaled - scaled[i]).sum(axis=1) for i in chosen], axis=0)
    while len(chosen) < limit:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.square(scaled - scaled[chosen[-1]]).sum(axis=1))
    return front[chosen]


def _normal_shortfall(mean: Floats, deviation: Floats, level: Floats) -> Floats:
    z = (level - mean) / deviation
    short: Floats = (level - mean) * below(z) + deviation * _density(z)
    return short


def _lognormal_shortfall(mean: Floats, deviation: Floats, level: Floats) -> Floats:
    """E max(0, level - exp(normal)), as a put is priced; 0 for levels that are not positive."""
    strike = np.maximum(level, 1e-300)
    z = (np.log(strike) - mean) / deviation
    centre = np.exp(mean + np.square(deviation) / 2)
    short = strike * below(z) - centre * below(z - deviation)
    return np.where(level > 0, short, 0.0)


def _lognormal_excess(mean: Floats, deviation: Floats, level: Floats) -> Floats:
    """E max(0, exp(normal) - level), as a call is priced."""
    strike = np.maximum(level, 1e-300)
    z = (mean - np.log(strike)) / deviation
    centre = np.exp(mean + np.square(deviation) / 2)
    excess = centre * below(z + deviation) - strike * below(z)
    return np.where(level > 0, excess, centre - level)


def _density(z: Floats) -> Floats:
    density: Floats = np.exp(-0.5 * np.square(z)) / math.sqrt(2 * math.pi)
    return density


# Chebyshev coefficients of erfc, relative error below 1.2e-7 everywhere:
# W. H. Press et al., "Numerical Recipes" (2nd ed., 1992), section 6.2.
_ERFC = (
    -1.26551223,
    1.00002368,
    0.37409196,
    0.09678418,
    -0.18628806,
    0.27886807,
    -1.13520398,
    1.48851587,
    -0.82215223,
    0.17087277,
)


def below(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """The normal distribution function, element by element; relative error about 1e-7."""
    x = np.abs(z) / math.sqrt(2)
    t = 1 / (1 + 0.5 * x)
    series = np.polynomial.polynomial.polyval(t, _ERFC)
    tail = 0.5 * t * np.exp(-np.square(x) + series)
    return np.where(z < 0, tail, 1 - tail)
