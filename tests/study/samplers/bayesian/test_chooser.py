from __future__ import annotations

import statistics

import pytest

from objectives.space import point_key
from study.results.pareto import nondominated
from tests.benchmarks.samplers import LEGACY, run
from tests.corpus import corpus_folder
from tests.study.fifteen import (
    ENDLESS,
    SPACE,
    feasible_points,
    figures,
    make_study,
    measure,
    predict,
)

CORPUS = corpus_folder()


def test_the_first_points_lie_far_apart():
    points = measure(make_study(), 3, excess=lambda _: {})
    assert len({point["vllm_memory_util"] for point in points}) >= 2
    assert len({point["whisper_model_size"] for point in points}) >= 2


def test_points_that_are_measured_elsewhere_are_not_proposed_by_neighbours():
    study = make_study(predict=predict)
    measure(study, 3)
    asked = [SPACE.suggest(study.ask()) for _ in range(3)]
    assert len({point_key(point) for point in asked}) == 3


def test_it_stays_where_it_is_feasible_even_if_nobody_predicts():
    study = make_study(space=ENDLESS)
    points = measure(
        study,
        25,
        space=ENDLESS,
        figures=lambda p: (p["beam_size"] * 10.0, 900 - 500 * p["vllm_memory_util"], 3.0),
        excess=lambda p: {"device_memory_gib": 12 * (p["vllm_memory_util"] - 0.6)},
    )
    late = [point["vllm_memory_util"] <= 0.6 for point in points[10:]]
    assert sum(late) >= 10


def test_the_front_is_known_before_everything_is():
    study = make_study(predict=predict)
    points = measure(study, 20)
    rows = [(f[0], f[1], -f[2]) for f in map(figures, feasible_points())]
    front = [
        point_key(point)
        for point, kept in zip(feasible_points(), nondominated(rows), strict=True)
        if kept
    ]
    order = [point_key(point) for point in points]
    assert max(order.index(key) for key in front) < len(order)
    assert len(order) == len(feasible_points())


@pytest.mark.skipif(
    CORPUS is None, reason="no corpus: set GAS_CORPUS, or put it into ../shared/corpus"
)
@pytest.mark.parametrize("table", ["shared_gpu_1", "shared_gpu_2"])
@pytest.mark.parametrize(
    ("objectives", "share"), [(LEGACY, 0.05), ((*LEGACY, "wer"), 0.10)], ids=["three", "four"]
)
def test_a_small_share_of_a_recorded_space_holds_most_of_its_hypervolume(table, objectives, share):
    path = CORPUS / "tables" / f"{table}.csv"
    outcomes = [run(path, objectives, "auto", seed, share) for seed in range(5)]
    assert statistics.median(outcome.to_enough or 540 for outcome in outcomes) <= share * 540
