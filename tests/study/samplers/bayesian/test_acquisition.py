from __future__ import annotations

import math

import numpy as np
import pytest

from study.results.pareto import hypervolume
from study.samplers.bayesian.acquisition import FRONT_LIMIT, Posterior, expected_gain


@pytest.mark.parametrize("sign", [0, 1, -1])
def test_a_shortfall_is_what_sampling_says(sign):
    rng = np.random.default_rng(0)
    posterior = Posterior(mean=np.array([0.3]), deviation=np.array([0.4]), sign=sign)
    drawn = 0.3 + 0.4 * rng.normal(size=200_000)
    values = sign * np.exp(drawn) if sign else drawn
    levels = np.array([-3.0, -1.5, -0.2, 0.0, 0.2, 1.5, 3.0])
    sampled = [np.maximum(level - values, 0).mean() for level in levels]
    assert posterior.shortfall(levels)[0] == pytest.approx(sampled, rel=0.03, abs=0.003)


def test_nothing_lies_below_minus_infinity():
    posterior = Posterior(mean=np.zeros(1), deviation=np.ones(1))
    assert posterior.shortfall(np.array([-np.inf])).tolist() == [[0.0]]


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_the_expected_gain_is_what_sampling_says(objectives):
    rng = np.random.default_rng(1)
    front = 0.5 + 2 * rng.random((5, objectives))
    reference = front.max(axis=0) + 0.2
    signs = [0, 1, 1, 1][:objectives]
    posteriors = [
        Posterior(mean=rng.normal(0.1, 0.3, size=2), deviation=np.full(2, 0.3), sign=sign)
        for sign in signs
    ]
    gain = expected_gain(posteriors, front, reference)
    before = hypervolume(front, reference)
    for candidate in range(2):
        drawn = [b.mean[candidate] + 0.3 * rng.normal(size=1500) for b in posteriors]
        values = np.stack(
            [np.exp(d) if sign else d for d, sign in zip(drawn, signs, strict=True)], axis=1
        )
        sampled = [hypervolume(np.vstack([front, row]), reference) - before for row in values]
        error = np.std(sampled) / math.sqrt(len(sampled))
        assert gain[candidate] == pytest.approx(np.mean(sampled), abs=5 * error)


def test_what_is_surely_dominated_adds_nothing():
    posterior = Posterior(mean=np.array([5.0]), deviation=np.array([0.0]))
    assert expected_gain([posterior, posterior], np.array([[1.0, 1.0]]), np.array([9.0, 9.0])) == [
        pytest.approx(0.0)
    ]


def test_a_long_front_is_thinned_but_keeps_its_ends():
    x = np.linspace(0, 1, 400)
    front = np.stack([x, 1 - x, np.abs(x - 0.5)], axis=1)
    posteriors = [
        Posterior(mean=np.array([v]), deviation=np.array([0.01])) for v in (0.5, 0.5, 0.0)
    ]
    assert len(front) > FRONT_LIMIT[3]
    gain = expected_gain(posteriors, front, np.array([1.1, 1.1, 1.1]))
    assert 0 <= gain[0] < 0.02


def test_a_value_with_a_ceiling_is_what_sampling_says():
    rng = np.random.default_rng(0)
    ceiling = np.array([1.0, 1.5])
    mean, deviation = np.array([0.3, 0.3]), np.array([0.4, 0.4])
    posterior = Posterior(mean=mean, deviation=deviation, sign=-1, ceiling=ceiling)
    drawn = np.exp(0.3 + 0.4 * rng.normal(size=200_000))
    levels = np.array([-3.0, -1.5, -1.2, -1.0, -0.5, 0.5])
    for short, most in zip(posterior.shortfall(levels), ceiling, strict=True):
        values = -np.minimum(drawn, most)
        sampled = [np.maximum(level - values, 0).mean() for level in levels]
        assert short == pytest.approx(sampled, rel=0.03, abs=0.003)
    assert posterior.centre == pytest.approx([-1.0, -math.exp(0.3)])


def test_a_posterior_of_fewer_candidates():
    posterior = Posterior(
        mean=np.arange(3.0), deviation=np.ones(3), sign=-1, ceiling=np.array([9.0, 2.0, 9.0])
    )
    first = posterior.first(2)
    assert (first.mean.tolist(), first.deviation.tolist()) == ([0.0, 1.0], [1.0, 1.0])
    assert first.centre == pytest.approx([-1.0, -2.0])
    assert posterior.centre == pytest.approx([-1.0, -2.0, -math.exp(2.0)])
