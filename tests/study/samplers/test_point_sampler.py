from __future__ import annotations

import subprocess
import sys

import numpy as np
import optuna
import pytest
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase
from optuna.trial import TrialState

from objectives.space import point_key
from study.samplers.by_name import make_sampler
from study.samplers.predictions import PointPrediction, SpaceExhaustedError
from tests.paths import ROOT
from tests.study.fifteen import (
    ENDLESS,
    SPACE,
    feasible_points,
    figures,
    make_study,
    measure,
    predict,
)

BASELINE = {"vllm_memory_util": 0.50, "whisper_model_size": "base"}


class TestOptunaAcceptsTheDefault(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return lambda: make_sampler("auto", space=ENDLESS, seed=0)


class TestTheBaseline:
    def test_is_measured_first(self):
        study = make_study(predict=predict)
        study.set_user_attr("baseline", BASELINE)
        assert measure(study, 3)[0] == BASELINE

    def test_is_measured_once_where_it_was_enqueued(self):
        study = make_study(predict=predict)
        study.set_user_attr("baseline", BASELINE)
        study.enqueue_trial(BASELINE)
        assert measure(study, 20).count(BASELINE) == 1

    def test_is_left_out_where_it_cannot_work(self):
        study = make_study(predict=predict)
        study.set_user_attr("baseline", {**BASELINE, "vllm_memory_util": 0.40})
        assert all(predict(point).feasible for point in measure(study, 20))


class TestAnExhaustedSpace:
    def test_is_said(self):
        study = make_study(predict=predict)
        measure(study, 20)
        with pytest.raises(SpaceExhaustedError, match="every point of the space"):
            SPACE.suggest(study.ask())

    def test_repeats_the_least_measured_point_if_that_is_wanted(self):
        study = make_study(predict=predict, exhausted="repeat")
        points = measure(study, 2 * len(feasible_points()))
        keys = [point_key(point) for point in points]
        assert {keys.count(key) for key in keys} == {2}

    def test_knows_that_nothing_is_left(self):
        study = make_study(predict=predict)
        assert study.sampler.points_left(study) == len(feasible_points())
        assert not study.sampler.is_exhausted(study)
        measure(study, 20)
        assert study.sampler.points_left(study) == 0
        assert study.sampler.is_exhausted(study)

    def test_has_no_end_where_the_space_has_none(self):
        study = make_study(space=ENDLESS)
        assert study.sampler.points_left(study) is None
        assert not study.sampler.is_exhausted(study)


class TestRepeats:
    def test_come_when_every_point_is_known(self):
        rng = np.random.default_rng(0)
        study = make_study(predict=predict, repeats=4)
        points = measure(study, 99, figures=lambda _: rng.normal(100.0, 10.0, size=3))
        keys = [point_key(point) for point in points]
        first = len(feasible_points())
        assert len(set(keys[:first])) == first
        assert len(keys) == first + 4

    def test_take_the_last_of_a_budget(self):
        rng = np.random.default_rng(0)
        study = make_study(repeats=2, budget=7)
        points = measure(study, 7, figures=lambda _: rng.normal(100.0, 10.0, size=3), excess=_none)
        keys = [point_key(point) for point in points]
        assert len(set(keys[:5])) == 5
        assert set(keys[5:]) <= set(keys[:5])

    def test_are_never_measured_by_two_workers_at_once(self):
        study = make_study(predict=predict, repeats=4)
        rng = np.random.default_rng(0)
        measure(study, len(feasible_points()), figures=lambda _: rng.normal(100.0, 10.0, size=3))
        one, other = SPACE.suggest(study.ask()), SPACE.suggest(study.ask())
        assert one != other


class TestAPartlyFixedTrial:
    def test_keeps_what_is_fixed_and_repeats_nothing(self):
        study = make_study()
        for _ in range(3):
            study.enqueue_trial({"whisper_model_size": "small"})
        points = measure(study, 3)
        assert [point["whisper_model_size"] for point in points] == ["small"] * 3
        assert len({point["vllm_memory_util"] for point in points}) == 3


class TestOtherWorkers:
    def test_their_running_points_are_not_proposed(self):
        study = make_study(predict=predict)
        running = [SPACE.suggest(study.ask()) for _ in feasible_points()]
        assert len({point_key(point) for point in running}) == len(feasible_points())
        with pytest.raises(SpaceExhaustedError):
            SPACE.suggest(study.ask())

    def test_draw_differently_with_the_same_seed(self):
        study = make_study("random")
        other = make_sampler("random", space=SPACE, seed=0)
        first = SPACE.suggest(study.ask())
        study.sampler = other
        assert SPACE.suggest(study.ask()) != first


def test_what_was_learned_since_the_last_look_counts():
    infeasible = set()

    def learned(params):
        return PointPrediction(feasible=point_key(params) not in infeasible, certain=True)

    study = make_study("grid", predict=learned)
    measure(study, 1, excess=_none)
    second = SPACE.points()[1]
    infeasible.add(point_key(second))
    assert measure(study, 1, excess=_none) == [SPACE.points()[2]]


def test_a_parameter_that_the_space_does_not_know_is_drawn_at_random():
    study = make_study()
    trial = study.ask()
    SPACE.suggest(trial)
    assert 0 <= trial.suggest_float("other", 0, 1) <= 1


def test_optimize_runs_on_it_as_on_any_sampler():
    study = make_study(predict=predict)

    def objective(trial: optuna.Trial) -> tuple[float, float, float]:
        return figures(SPACE.suggest(trial))

    study.optimize(objective, n_trials=20, catch=(SpaceExhaustedError,))
    states = [trial.state for trial in study.trials]
    assert states.count(TrialState.COMPLETE) == len(feasible_points())
    assert states.count(TrialState.FAIL) == 20 - len(feasible_points())


def _none(params):
    return {}


def test_samplers_bring_nothing_that_draws_or_tabulates():
    code = (
        "import sys, study.samplers\n"
        "found = {'pandas', 'plotly', 'matplotlib', 'optuna_dashboard'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT)
