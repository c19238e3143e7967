from __future__ import annotations

import pytest

from objectives.space import SearchSpace
from study.samplers.forecast import MEMO_TRIALS, UNKNOWN, Forecast, Forecasts, doomed_points
from tests.study.fifteen import ENDLESS, SPACE, excess, parameter, predict

POINT = {"vllm_memory_util": 0.5, "whisper_model_size": "tiny"}


@pytest.mark.parametrize(
    ("feasible", "certain", "doomed"),
    [(False, True, True), (False, False, False), (None, False, False), (True, True, False)],
)
def test_only_what_certainly_does_not_work_is_doomed(feasible, certain, doomed):
    assert Forecast(feasible=feasible, certain=certain).doomed is doomed


def counted(figures=None):
    calls = []

    def predict(params):
        calls.append(dict(params))
        return Forecast(feasible=True, figures=figures or {})

    return predict, calls


class TestForecastsAreRemembered:
    def test_a_point_is_predicted_once(self):
        predict, calls = counted()
        forecasts = Forecasts(SPACE, predict)
        forecasts.of(POINT)
        forecasts.of({**POINT, "vllm_memory_util": 0.1 + 0.4})
        assert len(calls) == 1

    def test_asked_afresh_it_is_predicted_again(self):
        predict, calls = counted()
        forecasts = Forecasts(SPACE, predict)
        forecasts.of(POINT)
        forecasts.of(POINT, fresh=True)
        assert len(calls) == 2

    def test_what_was_learned_since_counts_after_a_while(self):
        predict, calls = counted()
        forecasts = Forecasts(SPACE, predict)
        for finished in range(MEMO_TRIALS + 1):
            forecasts.begin(finished)
            forecasts.of(POINT)
        assert len(calls) == 2

    def test_without_arithmetic_nothing_is_known(self):
        forecasts = Forecasts(SPACE, None)
        assert not forecasts.any
        assert forecasts.of(POINT) is UNKNOWN


class TestExpectedFigures:
    def test_come_from_arithmetic(self):
        predict, _ = counted({"wer": 6.8})
        forecasts = Forecasts(SPACE, predict)
        assert forecasts.figure("wer", POINT) == 6.8
        assert forecasts.figure("concurrent_capacity", POINT) is None

    def test_as_many_requests_as_vllm_is_told_to_run(self):
        space = SearchSpace((parameter("seqs", "vllm.args.max_num_seqs", choices=(2, 8)),))
        forecasts = Forecasts(space, None)
        assert forecasts.figure("concurrent_capacity", {"seqs": 8}) == 8.0
        assert forecasts.figure("llm_latency_ms", {"seqs": 8}) is None

    def test_arithmetic_knows_better(self):
        space = SearchSpace((parameter("seqs", "vllm.args.max_num_seqs", choices=(2, 8)),))
        predict, _ = counted({"concurrent_capacity": 3.4})
        assert Forecasts(space, predict).figure("concurrent_capacity", {"seqs": 8}) == 3.4


class TestDoomedPoints:
    def test_are_those_that_certainly_do_not_work(self):
        doomed = doomed_points(SPACE, predict)
        assert doomed
        assert all(max(excess(point).values()) > 0 for point in doomed)

    def test_an_endless_space_lists_none(self):
        assert doomed_points(ENDLESS, lambda _: Forecast(feasible=False, certain=True)) == []
