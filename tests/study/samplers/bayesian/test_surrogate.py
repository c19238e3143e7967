from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from objectives.space import SearchSpace, point_key
from study.samplers.bayesian.gaussian_process import Prior
from study.samplers.bayesian.surrogate import DOUBTFUL, MODEL_LIMIT, Surrogate, spread
from study.samplers.encoding import Encoding
from study.samplers.predictions import PointPrediction
from tests.study.fifteen import ENDLESS, SPACE, UTILISATIONS, parameter
from tests.study.samplers.test_sampling_context import ask

NAMES = ("stt_latency_ms", "concurrent_capacity")


@pytest.fixture
def study():
    study = optuna.create_study(directions=["minimize", "maximize"])
    study.set_metric_names(list(NAMES))
    return study


def add(study, params, values=None, *, space=SPACE, constraints=None):
    study.add_trial(
        create_trial(
            state=TrialState.COMPLETE if values else TrialState.PRUNED,
            values=values,
            params=params,
            distributions=space.distributions(),
            constraints=constraints or {},
        )
    )


def learned(study, context, *, space=SPACE, **options):
    surrogate = Surrogate(Encoding(space), study, Prior(), **options)
    surrogate.seen.update(context.history)
    return surrogate


def true_values(point):
    size = {"tiny": 1, "base": 2, "small": 4}[point["whisper_model_size"]]
    return [44.0 * size, 20 * point["vllm_memory_util"] - 4]


POINTS = SPACE.points() or []


class TestBeliefs:
    def test_of_points_not_measured_come_close(self, study):
        for point in POINTS[::2]:
            add(study, point, true_values(point))
        context, left = ask(study), POINTS[1::2]
        surrogate = learned(study, context)
        latency, capacity = surrogate.posteriors(context, left, Encoding(SPACE).rows(left))
        truth = np.array([true_values(point) for point in left])
        assert latency.centre == pytest.approx(truth[:, 0], rel=0.25)
        assert capacity.centre == pytest.approx(-truth[:, 1], rel=0.25)

    def test_start_from_what_arithmetic_expects(self, study):
        def predict(point):
            return PointPrediction(figures={"stt_latency_ms": true_values(point)[0] / 2})

        for point in POINTS[:2]:
            add(study, point, true_values(point))
        context, left = ask(study, predict=predict), POINTS[2:]
        rows = Encoding(SPACE).rows(left)
        truth = np.array([true_values(point)[0] for point in left])
        informed, _ = learned(study, context).posteriors(context, left, rows)
        plain, _ = learned(study, context, informed=False).posteriors(context, left, rows)
        assert informed.centre == pytest.approx(truth, rel=0.05)
        assert np.abs(plain.centre - truth).max() > 10

    def test_do_not_follow_arithmetic_that_is_wrong(self, study):
        rng = np.random.default_rng(0)
        nonsense = {point_key(point): float(rng.random()) * 1000 + 1 for point in POINTS}

        def predict(point):
            return PointPrediction(figures={"stt_latency_ms": nonsense[point_key(point)]})

        for point in POINTS[::2]:
            add(study, point, true_values(point))
        context, left = ask(study, predict=predict), POINTS[1::2]
        latency, _ = learned(study, context).posteriors(context, left, Encoding(SPACE).rows(left))
        truth = [true_values(point)[0] for point in left]
        assert latency.centre == pytest.approx(truth, rel=0.25)

    def test_know_that_no_more_requests_run_than_the_limit_allows(self, study):
        space = SearchSpace(
            (
                parameter(
                    "vllm_memory_util", "vllm.args.gpu-memory-utilization", choices=UTILISATIONS
                ),
                parameter("seqs", "vllm.args.max-num-seqs", choices=(2, 4, 8, 16)),
            )
        )
        room = {0.40: 3.0, 0.45: 5.0, 0.50: 7.0, 0.55: 9.0, 0.60: 11.0}
        points = space.points() or []
        for point in points[1::3]:
            capacity = min(point["seqs"], room[point["vllm_memory_util"]])
            add(study, point, [1.0, float(capacity)], space=space)
        context, rows = ask(study, space=space), Encoding(space).rows(points)
        _, capacity = learned(study, context, space=space).posteriors(context, points, rows)
        truth = [min(point["seqs"], room[point["vllm_memory_util"]]) for point in points]
        assert (-capacity.centre <= [point["seqs"] for point in points]).all()
        assert -capacity.centre == pytest.approx(truth, rel=0.4)

    def test_of_values_around_zero_are_normal(self, study):
        for value, point in zip((0.0, 1.0, 2.0), POINTS, strict=False):
            add(study, point, [value, -value])
        context = ask(study)
        posteriors = learned(study, context).posteriors(
            context, POINTS, Encoding(SPACE).rows(POINTS)
        )
        assert [posterior.sign for posterior in posteriors] == [0, 0]

    def test_of_a_long_study_rest_on_a_part_of_it(self, study):
        rng = np.random.default_rng(0)
        for number in range(3 * MODEL_LIMIT):
            util = 0.3 + 0.4 * number / (3 * MODEL_LIMIT)
            params = {"vllm_memory_util": util, "beam_size": 1 + number % 16}
            add(study, params, [100 * util + rng.random(), 5 * util], space=ENDLESS)
        context = ask(study, space=ENDLESS)
        surrogate = learned(study, context, space=ENDLESS)
        points = context.drawn(20)
        latency, _ = surrogate.posteriors(context, points, Encoding(ENDLESS).rows(points))
        truth = [100 * point["vllm_memory_util"] + 0.5 for point in points]
        assert latency.centre == pytest.approx(truth, rel=0.05)
        assert len(surrogate._chosen()) <= MODEL_LIMIT


class TestOdds:
    def test_follow_what_launches_violated(self, study):
        for point in POINTS[::2]:
            short = 0.5 - point["vllm_memory_util"] + 0.01
            add(study, point, None if short > 0 else [1.0, 1.0], constraints={"kv": short})
        context, left = ask(study), POINTS[1::2]
        odds = learned(study, context).odds(context, left, Encoding(SPACE).rows(left))
        for point, chance in zip(left, odds, strict=True):
            assert (chance > 0.5) == (point["vllm_memory_util"] > 0.51), point

    def test_are_low_where_arithmetic_doubts(self, study):
        def predict(point):
            return PointPrediction(feasible=point["whisper_model_size"] == "tiny", certain=False)

        context = ask(study, predict=predict)
        odds = learned(study, context).odds(context, POINTS, Encoding(SPACE).rows(POINTS))
        assert set(odds) == {1.0, DOUBTFUL}

    def test_are_certain_where_nothing_was_ever_refused(self, study):
        add(study, POINTS[0], [1.0, 1.0], constraints={"kv": -3.0})
        context = ask(study)
        odds = learned(study, context).odds(context, POINTS, Encoding(SPACE).rows(POINTS))
        assert odds.tolist() == [1.0] * 15


def test_a_spread_is_even_and_keeps_both_ends():
    assert spread(3, 5).tolist() == [0, 1, 2]
    assert spread(101, 5).tolist() == [0, 25, 50, 75, 100]
