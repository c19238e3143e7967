from __future__ import annotations

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from study.samplers.tried_points import (
    ENOUGH,
    History,
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

    def test_a_point_that_was_refused_is_not_repeated(self, study):
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
