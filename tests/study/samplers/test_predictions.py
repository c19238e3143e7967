from __future__ import annotations

import pytest

from objectives.space import SearchSpace
from study.samplers.predictions import (
    MEMO_TRIALS,
    UNKNOWN,
    PointPrediction,
    PointPredictions,
    infeasible_points,
)
from tests.study.fifteen import ENDLESS, SPACE, excess, parameter, predict

POINT = {"vllm_memory_util": 0.5, "whisper_model_size": "tiny"}


@pytest.mark.parametrize(
    ("feasible", "certain", "infeasible"),
    [(False, True, True), (False, False, False), (None, False, False), (True, True, False)],
)
def test_only_what_certainly_does_not_work_is_doomed(feasible, certain, infeasible):
    assert PointPrediction(feasible=feasible, certain=certain).is_infeasible is infeasible


def counted(figures=None):
    calls = []

    def predict(params):
        calls.append(dict(params))
        return PointPrediction(feasible=True, figures=figures or {})

    return predict, calls


class TestForecastsAreRemembered:
    def test_a_point_is_predicted_once(self):
        predict, calls = counted()
        predictions = PointPredictions(SPACE, predict)
        predictions.of(POINT)
        predictions.of({**POINT, "vllm_memory_util": 0.1 + 0.4})
        assert len(calls) == 1

    def test_asked_afresh_it_is_predicted_again(self):
        predict, calls = counted()
        predictions = PointPredictions(SPACE, predict)
        predictions.of(POINT)
        predictions.of(POINT, fresh=True)
        assert len(calls) == 2

    def test_what_was_learned_since_counts_after_a_while(self):
        predict, calls = counted()
        predictions = PointPredictions(SPACE, predict)
        for finished in range(MEMO_TRIALS + 1):
            predictions.begin(finished)
            predictions.of(POINT)
        assert len(calls) == 2

    def test_without_arithmetic_nothing_is_known(self):
        predictions = PointPredictions(SPACE, None)
        assert not predictions.any
        assert predictions.of(POINT) is UNKNOWN


class TestACeiling:
    def test_of_capacity_is_as_many_requests_as_vllm_is_told_to_run(self):
        space = SearchSpace((parameter("seqs", "vllm.args.max_num_seqs", choices=(2, 8)),))
        predictions = PointPredictions(space, None)
        assert predictions.ceiling("concurrent_capacity", {"seqs": 8}) == 8.0
        assert predictions.ceiling("llm_latency_ms", {"seqs": 8}) is None
        assert PointPredictions(SPACE, None).ceiling("concurrent_capacity", POINT) is None

    def test_is_not_asked_for_where_arithmetic_knows_better(self):
        space = SearchSpace((parameter("seqs", "vllm.args.max_num_seqs", choices=(2, 8)),))
        predict, _ = counted({"concurrent_capacity": 3.4})
        assert PointPredictions(space, predict).ceiling("concurrent_capacity", {"seqs": 8}) is None


class TestDoomedPoints:
    def test_are_those_that_certainly_do_not_work(self):
        infeasible = infeasible_points(SPACE, predict)
        assert infeasible
        assert all(max(excess(point).values()) > 0 for point in infeasible)

    def test_an_endless_space_lists_none(self):
        assert (
            infeasible_points(ENDLESS, lambda _: PointPrediction(feasible=False, certain=True))
            == []
        )
