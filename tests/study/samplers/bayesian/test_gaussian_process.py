from __future__ import annotations

import numpy as np
import pytest

from study.samplers.bayesian.gaussian_process import Gaussian, Prior


def squares(left, right):
    return np.square(left[:, None, :] - right[None, :, :])


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    points = rng.random((25, 3))
    return points, np.sin(3 * points[:, 0]) + points[:, 1]  # the third does not matter


def fitted(points, values, *, counts=None, steps=60):
    model = Gaussian()
    counts = np.ones(len(points)) if counts is None else counts
    model.fit(squares(points, points), values, counts, steps=steps)
    return model


def test_it_predicts_what_it_has_not_seen(data):
    points, values = data
    rng = np.random.default_rng(1)
    others = rng.random((40, 3))
    mean, deviation = fitted(points, values).predict(squares(others, points))
    truth = np.sin(3 * others[:, 0]) + others[:, 1]
    assert np.abs(mean - truth).max() < 0.2
    assert np.mean(np.abs(mean - truth) < 3 * deviation + 0.05) > 0.9


def test_it_knows_how_little_it_knows(data):
    points, values = data
    model = fitted(points, values)
    _, near = model.predict(squares(points[:1], points))
    _, far = model.predict(squares(np.array([[5.0, 5.0, 5.0]]), points))
    assert near[0] < 0.3 * far[0]


def test_a_parameter_that_does_not_matter_gets_a_long_distance(data):
    points, values = data
    lengths = np.exp(fitted(points, values).theta[:3])
    assert lengths[2] > lengths[0]


def test_more_measurements_of_a_point_pull_harder():
    points = np.array([[0.5], [0.5001], [0.0], [1.0]])
    values = np.array([1.0, 3.0, 0.0, 0.0])
    often_low = fitted(points, values, counts=np.array([50.0, 1.0, 1.0, 1.0]), steps=0)
    often_high = fitted(points, values, counts=np.array([1.0, 50.0, 1.0, 1.0]), steps=0)
    asked = squares(np.array([[0.5]]), points)
    assert often_low.predict(asked)[0][0] < often_high.predict(asked)[0][0]


def test_what_never_changes_is_known_for_sure():
    points = np.array([[0.0], [0.5], [1.0]])
    mean, deviation = fitted(points, np.array([7.0, 7.0, 7.0])).predict(squares(points, points))
    assert mean.tolist() == [7.0, 7.0, 7.0]
    assert deviation.tolist() == [0.0, 0.0, 0.0]


def test_a_single_measurement_is_enough_to_start_with():
    points = np.array([[0.5]])
    mean, _ = fitted(points, np.array([42.0])).predict(squares(np.array([[0.9]]), points))
    assert mean[0] == pytest.approx(42.0)


def test_the_slope_of_the_posterior_is_the_slope_of_the_posterior(data):
    points, values = data
    model, apart, counts = Gaussian(Prior(noise=0.05)), squares(points, points), np.ones(25)
    theta = model.prior.mode(3) + 0.2
    standard = (values - values.mean()) / values.std()
    _, slope = model._posterior(theta, apart, standard, counts)
    for at in range(len(theta)):
        step = np.zeros(len(theta))
        step[at] = 1e-5
        up = model._posterior(theta + step, apart, standard, counts)[0]
        down = model._posterior(theta - step, apart, standard, counts)[0]
        assert slope[at] == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-5)


def test_what_the_others_say_of_a_point_is_what_a_model_without_it_says(data):
    points, values = data
    model = fitted(points, values)
    mean, deviation = model.left_out()
    rest = Gaussian(theta=model.theta)
    rest.fit(squares(points[1:], points[1:]), values[1:], np.ones(24), steps=0)
    alone, spread = rest.predict(squares(points[:1], points[1:]))
    assert mean[0] == pytest.approx(alone[0], abs=0.02)
    assert deviation[0] >= 0.9 * spread[0]


def test_values_that_are_all_the_same_have_the_least_deviation():
    points = np.array([[0.0], [1.0]])
    model = Gaussian(least=0.5)
    model.fit(squares(points, points), np.array([7.0, 7.0]), np.ones(2), steps=0)
    assert 0.0 < model.left_out()[1][0] <= 0.6
