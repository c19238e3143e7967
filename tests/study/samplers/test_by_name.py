from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import optuna
import pytest
from optuna.trial import TrialState

from objectives.errors import UsageError
from objectives.space import SearchSpace, point_key
from storage.trials import open_study
from study.results.records import trial_record
from study.samplers.by_name import NAMES, make_sampler
from study.samplers.predictions import PointPrediction
from tests.paths import ROOT
from tests.study.fifteen import (
    CONDITIONAL,
    DIRECTIONS,
    ENDLESS,
    SPACE,
    excess,
    feasible_points,
    make_study,
    measure,
    parameter,
    predict,
)


@pytest.mark.parametrize("name", NAMES)
class TestEverySampler:
    def test_measures_every_feasible_point_once_and_launches_no_doomed_one(self, name):
        study = make_study(name, predict=predict)
        points = measure(study, 20)
        assert Counter(map(point_key, points)) == Counter(map(point_key, feasible_points()))

    def test_without_a_prediction_tries_all_fifteen_points_once(self, name):
        points = measure(make_study(name), 20)
        assert len(points) == len({point_key(point) for point in points}) == 15

    def test_has_the_whole_front_when_the_space_is_exhausted(self, name):
        study = make_study(name, predict=predict)
        measure(study, 20)
        assert len(study.best_trials) == _true_front_size()

    def test_two_runs_with_the_same_seed_are_the_same(self, name):
        assert measure(make_study(name), 12) == measure(make_study(name), 12)

    def test_another_seed_goes_another_way(self, name):
        if name == "grid":
            pytest.skip("a grid has one order")
        assert measure(make_study(name, seed=1), 12) != measure(make_study(name, seed=2), 12)

    def test_searches_a_space_without_an_end(self, name):
        if name == "grid":
            with pytest.raises(UsageError, match="vllm_memory_util has no step"):
                make_study(name, space=ENDLESS)
            return
        study = make_study(name, space=ENDLESS)
        points = measure(study, 14, space=ENDLESS, figures=_endless_figures, excess=_endless_excess)
        assert len({point_key(point) for point in points}) == 14
        assert all(
            0.3 <= p["vllm_memory_util"] <= 0.7 and 1 <= p["beam_size"] <= 16 for p in points
        )

    def test_a_parameter_exists_only_under_its_condition(self, name):
        study = make_study(name, space=CONDITIONAL)
        points = measure(
            study, 25, space=CONDITIONAL, figures=_conditional_figures, excess=lambda _: {}
        )
        assert len(points) == len({point_key(point) for point in points}) == 20
        assert all(("threads" in point) == (point["device"] == "cpu") for point in points)

    def test_a_point_at_which_the_bench_broke_comes_again_and_then_is_left_alone(self, name):
        study = make_study(name)
        broken = {"vllm_memory_util": 0.5, "whisper_model_size": "base"}
        seen = Counter()
        for _ in range(30):
            trial = study.ask()
            try:
                params = SPACE.suggest(trial)
            except Exception as error:
                assert "every point" in str(error)
                break
            seen[point_key(params)] += 1
            if params == broken:
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, [1.0, 2.0, 3.0])
        assert seen.pop(point_key(broken)) == 3
        assert set(seen.values()) == {1}
        assert len(seen) == 14

    def test_goes_on_from_where_another_process_stopped(self, name, tmp_path):
        url = f"sqlite:///{tmp_path}/study.db"
        first = open_study(url, "s", directions=DIRECTIONS, sampler=_sampler(name))
        done = measure(first, 6)
        second = open_study(url, "s", directions=DIRECTIONS, sampler=_sampler(name))
        rest = measure(second, 20)
        keys = [point_key(point) for point in [*done, *rest]]
        assert len(keys) == len(set(keys)) == len(feasible_points())


def _sampler(name):
    return make_sampler(name, space=SPACE, seed=0, predict=predict)


def _true_front_size() -> int:
    study = optuna.create_study(directions=DIRECTIONS)
    for point in feasible_points():
        study.enqueue_trial(point)
    measure(study, len(feasible_points()))
    assert all(trial_record(trial, ()).feasible for trial in study.trials)
    return len(study.best_trials)


def _endless_figures(params):
    return (params["beam_size"] * 10.0, 900 - 500 * params["vllm_memory_util"], 3.0)


def _endless_excess(params):
    return {"device_memory_gib": params["vllm_memory_util"] - 0.6}


def _conditional_figures(params):
    return (100.0 / params.get("threads", 16), 900 - 500 * params["vllm_memory_util"], 3.0)


@pytest.mark.parametrize("name", ["cma", "qmc", "nsgaii"])
def test_an_unknown_name_is_refused_with_those_that_are_known(name):
    with pytest.raises(UsageError, match=f"found '{name}', allowed: auto, tournament, tpe, gp"):
        make_sampler(name, space=SPACE)


def test_an_unknown_option_is_refused():
    with pytest.raises(UsageError, match=r"sampler tpe: .*population"):
        make_sampler("tpe", space=SPACE, population=3)


def test_an_option_out_of_range_is_refused():
    with pytest.raises(UsageError, match="sampler tournament: population_size"):
        make_sampler("tournament", space=SPACE, population_size=1)


def test_a_prediction_within_its_margin_refuses_nothing():
    def unsure(params):
        over = excess(params)
        return PointPrediction(feasible=max(over.values()) <= 0, certain=False, excess=over)

    points = measure(make_study(predict=unsure), 20)
    assert len(points) == 15
    late = [predict(point).feasible for point in points]
    assert late[:5].count(False) <= 1, "what probably does not work comes late"


def test_a_wide_space_is_searched_too():
    wide = SearchSpace(
        (
            parameter("util", "vllm.args.gpu-memory-utilization", low=0.3, high=0.7, step=0.001),
            parameter("seqs", "vllm.args.max-num-seqs", choices=(2, 4, 8, 16, 32, 64)),
            parameter("beam", "whisper.args.beam-size", low=1, high=8, integer=True),
        )
    )
    assert (wide.size or 0) > 10_000
    study = make_study(space=wide)
    points = measure(
        study,
        8,
        space=wide,
        figures=lambda p: (10.0 * p["beam"], 500 + 9 * p["seqs"], min(p["seqs"], 60 * p["util"])),
        excess=lambda p: {"start_memory_gib": p["util"] - 0.65},
    )
    assert len({point_key(point) for point in points}) == 8


WORKER = """
import sys
from storage.trials import open_study
from tests.study.fifteen import DIRECTIONS, measure, predict, SPACE
from study.samplers.by_name import make_sampler
sampler = make_sampler("auto", space=SPACE, seed=int(sys.argv[2]), predict=predict)
measure(open_study(sys.argv[1], "s", directions=DIRECTIONS, sampler=sampler), 20)
"""


def test_four_processes_on_one_storage_measure_every_point_once(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    study = open_study(url, "s", directions=DIRECTIONS)
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, url, "7"], cwd=ROOT) for _ in range(4)
    ]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0, 0, 0]
    measured = [t.params for t in study.trials if t.state == TrialState.COMPLETE]
    assert Counter(map(point_key, measured)) == Counter(map(point_key, feasible_points()))
    assert all(not t.params for t in study.trials if t.state == TrialState.FAIL)


ALL_NAMES = """
from study.samplers.by_name import NAMES
from tests.study.fifteen import SPACE, make_study, measure
options = {"tournament": {"population_size": 4}}
print([measure(make_study(name, **options.get(name, {})), 12) for name in NAMES])
"""


def test_the_same_seed_goes_the_same_way_in_every_process():
    said = [
        subprocess.run(
            [sys.executable, "-c", ALL_NAMES],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": order},  # of sets of names
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for order in ("1", "2")
    ]
    assert said[0] == said[1] != ""
