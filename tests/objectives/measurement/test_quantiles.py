"""Quantiles, and how far to trust them."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.evidence import TrialEvidence
from objectives.measurement.quantiles import (
    block_bootstrap_interval,
    hull,
    intervals_overlap,
    order_statistic_interval,
    order_statistic_ranks,
    quantile,
    samples_needed,
    summarise_values,
)
from objectives.measurement.summary import ClientFigures, Measurement

times = st.floats(1e-4, 1e3)
intervals = st.tuples(times, times).map(lambda pair: (min(pair), max(pair)))


def stored(summary):
    """A summary as it stands on a trial."""
    measurement = Measurement(client=ClientFigures(lag_s=summary))
    attrs = TrialEvidence(measurement=measurement).to_attrs()
    return json.loads(json.dumps(attrs, allow_nan=False))["measurement"]["client"]["lag_s"]


@given(st.lists(times, min_size=1, max_size=60), st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0]))
def test_without_failures_it_is_numpys_quantile(values, p):
    assert quantile(sorted(values), p) == pytest.approx(np.quantile(values, p))


@given(st.lists(times, max_size=30), st.integers(0, 30), st.sampled_from([0.5, 0.95]))
def test_a_failure_is_slower_than_anything_that_was_answered(values, failed, p):
    found = quantile(sorted(values), p, failed)
    longest = max(values, default=1.0)
    stand_in = np.quantile(
        [*values, *[1e9 * longest] * failed, *([] if values or failed else [1])], p
    )
    if found is None:
        assert stand_in > longest or not values
    else:
        assert found == pytest.approx(stand_in)


def test_a_quantile_among_the_failed_has_no_figure():
    assert quantile([1.0, 2.0, 3.0], 0.5, failed=3) is None
    assert quantile([1.0, 2.0, 3.0], 0.5, failed=2) == 3.0
    assert quantile([], 0.5) is None


def test_how_many_samples_an_interval_takes():
    assert [samples_needed(p) for p in (0.50, 0.95, 0.99)] == [6, 72, 368]


@pytest.mark.parametrize(
    ("n", "p", "ranks"),
    [
        (5, 0.5, None),
        (6, 0.5, (1, 6)),
        (10, 0.5, (2, 9)),  # as printed in tables of the sign test's interval
        (20, 0.5, (6, 15)),
        (71, 0.95, None),
        (72, 0.95, (64, 72)),
        (120, 0.95, (109, 119)),
        (367, 0.99, None),
    ],
)
def test_ranks_of_the_distribution_free_interval(n, p, ranks):
    assert order_statistic_ranks(n, p) == ranks


@given(st.integers(1, 400), st.sampled_from([0.5, 0.95]))
def test_the_interval_exists_exactly_from_the_number_needed(n, p):
    assert (order_statistic_ranks(n, p) is not None) == (n >= samples_needed(p))


def test_the_distribution_free_interval_covers_as_often_as_it_says():
    stream = np.random.default_rng(1)
    hits = 0
    for _ in range(600):
        low, high = order_statistic_interval(np.sort(stream.lognormal(size=100)), 0.95)
        hits += low <= math.exp(1.6448536) <= high
    assert hits / 600 > 0.93


def test_alike_neighbours_widen_the_bootstraps_interval():
    """A slow wave: 200 samples that are worth far fewer."""
    stream = np.random.default_rng(2)
    wave = [1 + 0.5 * math.sin(index / 12) + 0.01 * stream.normal() for index in range(200)]
    shuffled = [float(value) for value in stream.permutation(wave)]
    together = block_bootstrap_interval(wave, 0.5, block=25, seed=0)
    apart = block_bootstrap_interval(shuffled, 0.5, block=25, seed=0)
    assert together[1] - together[0] > 1.5 * (apart[1] - apart[0])


def test_the_bootstrap_is_seeded():
    values = [float(value) for value in np.random.default_rng(3).lognormal(size=90)]
    one = block_bootstrap_interval(values, 0.5, block=10, seed=4)
    assert one == block_bootstrap_interval(values, 0.5, block=10, seed=4)
    assert block_bootstrap_interval(values, 0.5, block=50, seed=4) is None, "not even two blocks"


@settings(max_examples=40, deadline=None)
@given(st.lists(times, max_size=120), st.integers(1, 15), st.integers(0, 9))
def test_a_summary_holds_together(values, block, seed):
    summary = summarise_values(values, block=block, seed=seed)
    assert summary.n == len(values)
    assert stored(summary)["n"] == len(values)
    if not values:
        assert summary.p50 is None
        assert summary.mean is None
        assert stored(summary) == {"n": 0}
        return
    assert summary.p50 <= summary.p95 <= summary.p99 <= max(values)
    assert (summary.p50_interval is None) == (len(values) < 6)
    assert (summary.p95_interval is None) == (len(values) < 72)
    for name in ("p50", "p95"):
        if (between := summary.interval_of(name)) is not None:
            assert between[0] <= summary.of(name) <= between[1]


@settings(max_examples=30, deadline=None)
@given(st.lists(times, min_size=80, max_size=120), st.integers(1, 15))
def test_the_interval_of_a_summary_is_never_narrower_than_the_distribution_free_one(values, block):
    summary = summarise_values(values, block=block, seed=0)
    low, high = order_statistic_interval(sorted(values), 0.95)
    assert summary.p95_interval[0] <= low
    assert summary.p95_interval[1] >= high


def test_an_interval_that_reaches_into_the_failed_has_no_upper_end_and_is_absent():
    summary = summarise_values([1.0] * 60 + [None] * 40, block=5, seed=0)
    assert summary.p50 == 1.0
    assert summary.p95 is None
    assert summary.p95_interval is None
    assert summary.mean == 1.0
    assert not {"p95", "p95_interval"} & set(stored(summary))


@given(intervals, intervals)
def test_two_figures_are_told_apart_only_if_no_value_fits_both(one, other):
    assert intervals_overlap(one, other) == intervals_overlap(other, one)
    assert intervals_overlap(one, other) == (max(one[0], other[0]) <= min(one[1], other[1]))


def test_a_hull_holds_all():
    assert hull([(1.0, 2.0), (0.5, 1.0), (1.5, 3.0)]) == (0.5, 3.0)
