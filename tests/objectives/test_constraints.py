"""The constraints that a trial ends with."""

import pytest

from objectives.constraints import (
    CONSTRAINTS,
    GIB,
    Limit,
    memory_excess_gib,
    names,
    satisfied,
    violated,
)

SLO = Limit(objective="stt_latency_ms", most=500)
ORDER = names([SLO])


def test_the_same_constraints_stand_on_every_trial_in_the_same_order():
    assert list(satisfied(ORDER, {})) == list(ORDER)
    assert list(violated(ORDER, {}, {}, "device_memory_gib")) == list(ORDER)
    assert (*CONSTRAINTS, "slo_stt_latency_ms") == ORDER


def test_a_trial_that_worked_violates_nothing_whatever_was_predicted():
    values = satisfied(ORDER, {"kv_cache_gib": 0.1, "start_memory_gib": -2.0})
    assert values["kv_cache_gib"] == 0.0
    assert values["start_memory_gib"] == -2.0


def test_what_the_end_showed_stands_before_what_was_known():
    values = violated(ORDER, {"bounds": 0.1, "kv_cache_gib": -0.1}, {"kv_cache_gib": -0.4}, "slo_*")
    assert (values["bounds"], values["kv_cache_gib"]) == (0.1, -0.4)


def test_the_cause_decides_which_constraint_is_violated():
    values = violated(ORDER, {"kv_cache_gib": -0.1}, {"kv_cache_gib": 0.7}, "kv_cache_gib")
    assert [name for name, value in values.items() if value > 0] == ["kv_cache_gib"]
    assert values["kv_cache_gib"] == 0.7


def test_an_excess_that_nobody_knows_is_small_but_above_zero():
    assert violated(ORDER, {}, {}, "device_memory_gib")["device_memory_gib"] > 0


def test_a_predicted_excess_is_kept_where_the_cause_is_the_predicted_one():
    values = violated(ORDER, {"kv_cache_gib": 0.79}, {}, "kv_cache_gib")
    assert values["kv_cache_gib"] == 0.79


def test_a_missed_objective_is_graded_in_its_own_unit():
    assert SLO.excess(620) == 120
    assert SLO.excess(400) == -100
    assert Limit(objective="concurrent_capacity", least=4).excess(3) == 1
    values = violated(ORDER, {}, {"slo_stt_latency_ms": 120.0}, "slo_*")
    assert values["slo_stt_latency_ms"] == 120.0


@pytest.mark.parametrize(
    ("figures", "gib"),
    [
        ({"needed_bytes": 3 * GIB, "available_bytes": GIB}, 2.0),
        ({"requested_bytes": 5 * GIB, "free_bytes": 4 * GIB}, 1.0),
        ({"available_bytes": -GIB}, 1.0),
        ({"available_bytes": GIB}, None),
        ({}, None),
        ({"needed_bytes": "much"}, None),
    ],
)
def test_how_much_was_short_is_read_from_a_diagnosis(figures, gib):
    assert memory_excess_gib(figures) == gib
