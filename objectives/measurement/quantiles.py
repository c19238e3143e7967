"""Quantiles with the intervals they deserve: arithmetic on floats, no I/O.

A request that failed was slower than any that was answered: it stays in the order as the last, so
that a server cannot look quick by answering only the easy ones. Where a quantile falls among the
failed there is no figure, and None says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Interval = tuple[float, float]

CONFIDENCE = 0.95
"""Every interval of this module covers its quantile in so many of 100 runs (if the samples are
independent, which the block bootstrap then corrects for)."""

RESAMPLES = 1000
"""Bootstrap resamples: their 2.5 % and 97.5 % points then rest on 25 resamples each."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Figures of one kind of time, all in the samples' own unit.

    Attributes:
        n: Samples with a value.
        mean: Mean of these.
        p50: Median; like the other quantiles it counts failures as slowest.
        p95: 95th percentile.
        p99: 99th percentile: indicative only; below 368 samples nothing can be said of it.
        p50_interval: Where the median lies, with `CONFIDENCE`.
        p95_interval: Likewise; None below 72 samples.
    """

    n: int = 0
    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    p50_interval: Interval | None = None
    p95_interval: Interval | None = None

    def of(self, quantile: str) -> float | None:
        """The value of "p50", "p95" or "p99"."""
        return {"p50": self.p50, "p95": self.p95, "p99": self.p99}[quantile]

    def interval_of(self, quantile: str) -> Interval | None:
        """The interval of "p50" or "p95"; p99 has none."""
        return {"p50": self.p50_interval, "p95": self.p95_interval, "p99": None}[quantile]


def samples_needed(p: float) -> int:
    """Samples from which a two-sided interval of the quantile `p` exists.

    With fewer, the largest sample lies below the quantile too often: p**n must not exceed half
    of what `CONFIDENCE` leaves. p50: 6, p95: 72, p99: 368.
    """
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(max(p, 1 - p)))


def quantile(
    ordered: Sequence[float] | npt.NDArray[np.float64], p: float, failed: int = 0
) -> float | None:
    """The quantile `p` (0 .. 1) of ascending values by linear interpolation (numpy's default).

    `failed` more have no value and count as slowest; None if the quantile lies among them, or if
    there are no values.
    """
    count = len(ordered) + failed
    place = (count - 1) * p
    below, above = math.floor(place), math.ceil(place)
    if count == 0 or above >= len(ordered):
        return None
    return float(ordered[below] + (ordered[above] - ordered[below]) * (place - below))


def order_statistic_ranks(n: int, p: float) -> tuple[int, int] | None:
    """Ranks (from 1) of the two order statistics between which the quantile `p` lies.

    The number of samples below the quantile is binomial (n, p), whatever the distribution, so
    P(X_(l) <= q_p <= X_(u)) = P(l <= Bin(n, p) <= u - 1); the tails are equal.

    Returns:
        None where n is too small for one of the two ranks.

    Source: David & Nagaraja, Order Statistics, 3rd ed., section 7.1.
    """
    from scipy.special import bdtr  # noqa: PLC0415 - 0.2 s, and only who measured needs it

    tail = (1 - CONFIDENCE) / 2
    below = bdtr(np.arange(n + 1), n, p)  # below[k] = P(Bin <= k)
    lower = int(np.searchsorted(below, tail, side="right"))  # most l with P(Bin <= l - 1) <= tail
    # upper: least u with P(Bin <= u - 1) >= 1 - tail
    upper = int(np.searchsorted(below, 1 - tail, side="left")) + 1
    return (lower, upper) if lower >= 1 and upper <= n else None


def order_statistic_interval(
    ordered: Sequence[float], p: float, failed: int = 0
) -> Interval | None:
    """The distribution-free interval of the quantile `p`; None if n is too small for one."""
    ranks = order_statistic_ranks(len(ordered) + failed, p)
    if ranks is None or ranks[1] > len(ordered):
        return None
    return float(ordered[ranks[0] - 1]), float(ordered[ranks[1] - 1])


def block_bootstrap_interval(
    values: Sequence[float | None], p: float, *, block: int, seed: int
) -> Interval | None:
    """An interval of the quantile `p` that allows for neighbours being alike.

    Queues make neighbouring latencies alike, so whole runs of `block` samples are resampled. The
    values are in order of time, None for a failure.

    Returns:
        None if there are not even two blocks, or if the upper end lies among failures.

    Source: Künsch 1989, Annals of Statistics 17, section 2 (the moving block bootstrap), with
        Efron's percentile interval.
    """
    n = len(values)
    if block < 1 or n < 2 * block:
        return None
    series = np.array([math.inf if value is None else value for value in values])
    stream = np.random.default_rng(seed)
    starts = stream.integers(0, n - block + 1, size=(RESAMPLES, -(-n // block)))
    picks = (starts[:, :, None] + np.arange(block)).reshape(RESAMPLES, -1)[:, :n]
    drawn = np.quantile(series[picks], p, axis=1, method="inverted_cdf")
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], method="inverted_cdf")
    return (float(low), float(high)) if math.isfinite(high) else None


def summarise_values(values: Sequence[float | None], *, block: int, seed: int) -> Summary:
    """Quantiles of `values` with intervals.

    An interval is the hull of the distribution-free one and the block bootstrap's: each has seen
    a danger that the other is blind to.

    The values are in order of time, None for a request that failed. With fewer than two runs of
    `block` samples the bootstrap is left out.
    """
    known = sorted(value for value in values if value is not None)
    failed = len(values) - len(known)

    def interval(p: float) -> Interval | None:
        free = order_statistic_interval(known, p, failed)
        if free is None or len(values) < 2 * block:
            return free
        blocks = block_bootstrap_interval(values, p, block=block, seed=seed)
        return None if blocks is None else hull([free, blocks])

    return Summary(
        n=len(known),
        mean=math.fsum(known) / len(known) if known else None,
        p50=quantile(known, 0.50, failed),
        p95=quantile(known, 0.95, failed),
        p99=quantile(known, 0.99, failed),
        p50_interval=interval(0.50),
        p95_interval=interval(0.95),
    )


def intervals_overlap(one: Interval, other: Interval) -> bool:
    """True if the two share a point: the two figures are then not told apart."""
    return one[0] <= other[1] and other[0] <= one[1]


def hull(intervals: Sequence[Interval]) -> Interval:
    """The smallest interval that holds all of them.

    Raises:
        ValueError: There is none.
    """
    return min(low for low, _ in intervals), max(high for _, high in intervals)
