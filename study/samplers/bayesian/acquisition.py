"""What a candidate is expected to add to the front, given what is believed of its values.

Everything minimises. The values of a candidate are independent, and each is normal, or the
logarithm of it is: then gains count in the objectives' own units, while the model learns ratios.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

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
        ceiling: (candidates,) sizes that a value of sign -1 never exceeds; inf: no such limit.
    """

    mean: Floats
    deviation: Floats
    sign: int = 0
    ceiling: Floats | float = math.inf

    @property
    def centre(self) -> Floats:
        """(candidates,) the value's median."""
        if not self.sign:
            return self.mean
        return self.sign * np.minimum(np.exp(self.mean), self.ceiling)

    def first(self, count: int) -> Posterior:
        """The posterior of the first candidates."""
        ceiling = np.broadcast_to(self.ceiling, self.mean.shape)[:count]
        mean, deviation = self.mean[:count], self.deviation[:count]
        return Posterior(mean=mean, deviation=deviation, sign=self.sign, ceiling=ceiling)

    def shortfall(self, levels: Floats) -> Floats:
        """The expectation of max(0, level - value): (candidates, levels)."""
        mean, deviation = self.mean[:, None], np.maximum(self.deviation[:, None], 1e-12)
        finite = np.isfinite(levels)
        level = np.where(finite, levels, 1.0)[None, :]
        if self.sign == 0:
            short = _normal_shortfall(mean, deviation, level)
        elif self.sign > 0:
            short = _lognormal_shortfall(mean, deviation, level)
        else:
            ceiling = np.broadcast_to(self.ceiling, self.mean.shape)[:, None]
            cut = np.isfinite(ceiling)
            above = _lognormal_excess(
                mean, deviation, np.where(cut, np.maximum(ceiling, -level), 1)
            )
            short = _lognormal_excess(mean, deviation, -level) - np.where(cut, above, 0.0)
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
    short: Floats = (level - mean) * ndtr(z) + deviation * density(z)
    return short


def _lognormal_shortfall(mean: Floats, deviation: Floats, level: Floats) -> Floats:
    """E max(0, level - exp(normal)), as a put is priced; 0 for levels that are not positive."""
    strike = np.maximum(level, 1e-300)
    z = (np.log(strike) - mean) / deviation
    centre = np.exp(mean + np.square(deviation) / 2)
    short = strike * ndtr(z) - centre * ndtr(z - deviation)
    return np.where(level > 0, short, 0.0)


def _lognormal_excess(mean: Floats, deviation: Floats, level: Floats) -> Floats:
    """E max(0, exp(normal) - level), as a call is priced."""
    strike = np.maximum(level, 1e-300)
    z = (mean - np.log(strike)) / deviation
    centre = np.exp(mean + np.square(deviation) / 2)
    excess = centre * ndtr(z + deviation) - strike * ndtr(z)
    return np.where(level > 0, excess, centre - level)


def density(z: Floats) -> Floats:
    """The standard normal density."""
    value: Floats = np.exp(-0.5 * np.square(z)) / math.sqrt(2 * math.pi)
    return value
