"""A trial and a setting, as reports read them."""

import pytest

from study.results.records import MeasuredPoint, TrialRecord, measured_points


def trial(number=0, state="COMPLETE", **more):
    given = {"params": {"u": 0.5}, "values": {"ms": 10.0}, "constraints": {"kv": -1.0}, **more}
    return TrialRecord(number=number, state=state, **given)


def test_a_measured_trial_is_feasible_if_no_constraint_is_exceeded():
    assert trial().feasible is True
    assert trial(constraints={"kv": 0.1}).feasible is False


def test_a_pruned_trial_without_a_reason_names_its_worst_constraint():
    pruned = trial(state="PRUNED", values=None, constraints={"a": 0.2, "b": 3.0})
    assert pruned.infeasible == {"cause": "b", "evidence": "b exceeded by 3", "predicted": False}


def test_an_objective_near_a_target_is_not_its_distance():
    near = trial(values={"used": 3.0}, distances=frozenset({"used"}))
    assert near.figure("used") is None
    assert trial(attrs={"used": 73.0}, values={"used": 3.0}).figure("used") == 73.0


def test_a_figure_that_was_not_measured_is_none():
    assert trial(state="PRUNED", values=None).figure("ms") is None


def test_the_kv_cache_is_read_by_either_name():
    parts = {"predicted": {"kv_cache_bytes": 5}, "logged": {"available_kv_bytes": 4}}
    assert trial(attrs={"footprint": parts}).kv_cache_bytes == (5, 4)
    assert trial().kv_cache_bytes == (None, None)


def test_measurements_of_one_setting_are_taken_together():
    records = [trial(0), trial(1, params={"u": 0.6}), trial(2), trial(3, state="PRUNED")]
    assert [[t.number for t in each.trials] for each in measured_points(records)] == [[0, 2], [1]]


def test_how_a_number_is_spelt_makes_no_other_setting():
    records = [trial(0, params={"u": 0.3, "n": 2}), trial(1, params={"n": 2.0, "u": 0.1 + 0.2})]
    assert len(measured_points(records)) == 1


def test_a_setting_is_doubted_only_if_every_measurement_is():
    doubted, sure = trial(0, doubts=("few samples",)), trial(1)
    setting = MeasuredPoint(point="p", trials=(doubted, sure))
    assert not setting.doubted
    assert setting.trial is sure
    assert MeasuredPoint(point="p", trials=(doubted,)).doubted


def test_a_settings_figures_are_medians():
    trials = tuple(trial(n, values={"ms": ms}) for n, ms in enumerate((10.0, 30.0, 11.0)))
    setting = MeasuredPoint(point="p", trials=trials)
    assert setting.figure("ms") == 11.0
    assert setting.values() == {"ms": pytest.approx(11.0)}
    assert setting.figure("unknown") is None
