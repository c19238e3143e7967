"""Which trial to choose, for four reasons to choose one."""

import pytest

from objectives.evidence import TrialEvidence
from study.results.pareto import balanced, undominated
from study.results.picks import choose, whisper_size
from study.results.points import MeasuredPoint
from study.results.records import TrialRecord

WAYS = {
    "stt_latency_ms": "minimize",
    "llm_latency_ms": "minimize",
    "concurrent_capacity": "maximize",
}


def setting(number, stt_ms, llm_ms, capacity, *, size="tiny", doubts=(), fitness=None, **figures):
    trial = TrialRecord(
        number=number,
        state="COMPLETE",
        params={"n": number, "whisper_model_size": size},
        values=dict(zip(WAYS, (stt_ms, llm_ms, capacity), strict=True)),
        constraints={},
        attrs=TrialEvidence(fitness=fitness, figures=figures).to_attrs(),
        doubts=doubts,
    )
    return MeasuredPoint(point=str(number), trials=(trial,))


def test_latency_weighs_ratios_so_a_hair_of_noise_does_not_win():
    slow_but_first_by_a_hair = setting(0, 300, 599, 5)
    quick = setting(1, 50, 601, 5)
    assert choose([slow_but_first_by_a_hair, quick], WAYS)["latency"] == 1


def test_capacity_wins_and_latency_decides_between_equals():
    assert choose([setting(0, 60, 600, 9), setting(1, 50, 600, 9)], WAYS)["capacity"] == 1


def test_quality_is_the_largest_whisper_where_no_error_rate_is_known():
    pool = [setting(0, 50, 600, 9), setting(1, 300, 700, 5, size="small.en")]
    assert choose(pool, WAYS)["quality"] == 1


def test_quality_is_the_lowest_error_rate_where_all_have_one():
    pool = [setting(0, 50, 600, 9, wer=0.05), setting(1, 300, 700, 5, size="small", wer=0.2)]
    assert choose(pool, WAYS)["quality"] == 0


def test_quality_is_no_ones_where_no_whisper_is_chosen():
    assert choose([setting(0, 50, 600, 9, size="/srv/own.pt")], WAYS)["quality"] is None


def test_fitness_is_the_highest_that_was_measured():
    pool = [setting(0, 50, 600, 9, fitness=0.4), setting(1, 300, 700, 5, fitness=0.5)]
    assert choose(pool, WAYS)["fitness"] == 1
    assert choose([setting(0, 50, 600, 9)], WAYS)["fitness"] is None


@pytest.mark.parametrize("scenario", ["latency", "capacity", "quality", "fitness"])
def test_a_doubted_trial_wins_only_if_there_is_no_other(scenario):
    doubted = setting(0, 10, 10, 99, size="large", doubts=("few samples",), fitness=0.9)
    sure = setting(1, 300, 700, 5, fitness=0.1)
    assert choose([doubted, sure], WAYS)[scenario] == 1
    assert choose([doubted], WAYS)[scenario] == 0


def test_between_equals_the_front_wins_then_the_older_trial():
    on_front, dominated = setting(1, 50, 600, 9, fitness=0.5), setting(0, 50, 600, 8, fitness=0.5)
    assert choose([dominated, on_front], WAYS)["fitness"] == 1
    assert choose([setting(3, 1, 1, 1), setting(2, 1, 1, 1)], WAYS)["latency"] == 2


def test_nothing_comes_of_nothing():
    assert set(choose([], WAYS).values()) == {None}
    assert undominated([], WAYS) == []


def test_equal_settings_stay_on_the_front_together():
    assert len(undominated([setting(0, 1, 1, 1), setting(1, 1, 1, 1)], WAYS)) == 2


def test_a_language_is_no_part_of_a_checkpoints_size():
    assert whisper_size(setting(0, 1, 1, 1, size="base.en")) == "base"


def test_the_most_balanced_is_far_from_no_best():
    extremes = [setting(0, 10, 900, 9), setting(1, 400, 100, 9)]
    middle = setting(2, 60, 200, 9)
    assert balanced([*extremes, middle], WAYS)[0] is middle
