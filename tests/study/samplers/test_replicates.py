from __future__ import annotations

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from study.samplers.tried_points import (
    ENOUGH,
    EVERYTHING,
    History,
    median_values,
    points_to_repeat,
    repeats_used,
)
from tests.study.fifteen import SPACE

A = {"vllm_memory_util": 0.50, "whisper_model_size": "tiny"}
B = {"vllm_memory_util": 0.55, "whisper_model_size": "tiny"}
C = {"vllm_memory_util": 0.60, "whisper_model_size": "small"}
NAMES = ("stt_latency_ms", "concurrent_capacity")


@pytest.fixture
def study():
    study = optuna.create_study(directions=["minimize", "maximize"])
    study.set_metric_names(list(NAMES))
    return study


def add(study, params, *values, **attrs):
    study.add_trial(
        create_trial(
            values=list(values),
            params=params,
            distributions=SPACE.distributions(),
            user_attrs=attrs,
        )
    )


def refuse(study, params):
    study.add_trial(
        create_trial(
            state=TrialState.PRUNED,
            params=params,
            distributions=SPACE.distributions(),
            constraints={"kv_cache_gib": 1.0},
        )
    )


def of(study, params):
    return next(r for r in median_values(study).values() if r.params == params)


class TestMedians:
    def test_of_three_measurements_the_middle_one_counts(self, study):
        for stt_ms in (44.0, 900.0, 50.0):
            add(study, A, stt_ms, 8.0)
        assert of(study, A).medians == {"stt_latency_ms": 50.0, "concurrent_capacity": 8.0}
        assert of(study, A).numbers == (0, 1, 2)

    def test_the_noise_of_one_point_makes_the_interval_of_another(self, study):
        for stt_ms in (100.0, 110.0, 90.0, 105.0, 95.0):
            add(study, A, stt_ms, 8.0)
        add(study, B, 200.0, 8.0)
        low, high = of(study, B).intervals["stt_latency_ms"]
        assert 140 < low < 180
        assert 220 < high < 280
        assert high / 200 == pytest.approx(200 / low), "noise is relative"

    def test_more_measurements_make_it_narrower(self, study):
        for stt_ms in (100.0, 110.0, 90.0, 105.0, 95.0):
            add(study, A, stt_ms, 8.0)
        add(study, B, 100.0, 8.0)
        single, several = of(study, B).intervals, of(study, A).intervals
        assert several["stt_latency_ms"][1] < single["stt_latency_ms"][1]

    def test_values_without_noise_are_sure(self, study):
        add(study, A, 100.0, 8.0)
        add(study, A, 110.0, 8.0)
        assert of(study, A).intervals["concurrent_capacity"] == (8.0, 8.0)

    def test_before_anything_is_repeated_the_trials_own_interval_counts(self, study):
        add(study, A, 100.0, 8.0, intervals={"stt_latency_ms": [95.0, 106.0]})
        intervals = of(study, A).intervals
        assert intervals["stt_latency_ms"] == (95.0, 106.0)
        assert intervals["concurrent_capacity"] == EVERYTHING

    def test_a_point_that_was_refused_once_is_not_steady(self, study):
        add(study, A, 100.0, 8.0)
        refuse(study, A)
        assert not of(study, A).steady

    def test_zero_and_negative_values_have_an_interval_too(self, study):
        for capacity in (0.0, 1.0, 2.0):
            add(study, A, 100.0, capacity)
        low, high = of(study, A).intervals["concurrent_capacity"]
        assert low < 0
        assert high > 1


class TestWhatToRepeat:
    def test_nothing_in_an_empty_study(self, study):
        assert points_to_repeat(study, SPACE) == []

    def test_a_single_point_has_no_rival(self, study):
        add(study, A, 100.0, 8.0)
        assert points_to_repeat(study, SPACE) == []

    def test_while_no_noise_is_known_the_whole_front_is_in_doubt(self, study):
        add(study, A, 100.0, 8.0)
        add(study, B, 50.0, 4.0)
        add(study, C, 200.0, 2.0)
        assert points_to_repeat(study, SPACE) == [A, B]

    def test_a_front_far_ahead_of_the_rest_is_sure(self, study):
        for stt_ms in (100.0, 101.0, 99.0):
            add(study, A, stt_ms, 8.0)
        for stt_ms in (500.0, 505.0):
            add(study, C, stt_ms, 2.0)
        assert points_to_repeat(study, SPACE) == []

    def test_a_lucky_value_close_to_a_rival_is_repeated(self, study):
        for stt_ms in (100.0, 120.0, 90.0):
            add(study, A, stt_ms, 8.0)
        add(study, B, 88.0, 8.0)
        assert B in points_to_repeat(study, SPACE)

    def test_a_lucky_value_leaves_the_front_once_its_median_tells(self, study):
        for stt_ms in (100.0, 101.0, 99.0):
            add(study, A, stt_ms, 8.0)
        for stt_ms in (60.0, 150.0, 152.0):
            add(study, B, stt_ms, 8.0)
        assert of(study, B).medians["stt_latency_ms"] == 150.0
        assert B not in points_to_repeat(study, SPACE)

    def test_the_least_often_measured_comes_first(self, study):
        add(study, A, 100.0, 8.0)
        add(study, A, 120.0, 8.4)
        add(study, B, 105.0, 8.1)
        add(study, C, 104.0, 8.0)
        assert points_to_repeat(study, SPACE) == [B, C, A]

    def test_enough_is_enough(self, study):
        for repeat in range(ENOUGH):
            add(study, A, 100.0 + 10 * repeat, 8.0)
            add(study, B, 101.0 + 10 * repeat, 8.0)
        assert points_to_repeat(study, SPACE) == []

    def test_a_point_that_was_refused_is_not_on_the_front(self, study):
        add(study, A, 100.0, 8.0)
        refuse(study, A)
        add(study, B, 300.0, 4.0)
        add(study, C, 290.0, 3.0)
        assert A not in points_to_repeat(study, SPACE)


def test_repeats_are_counted_by_point(study):
    for params in (A, A, B, A):
        add(study, params, 1.0, 1.0)
    history = History(SPACE)
    history.update(study)
    assert repeats_used(history) == 2
