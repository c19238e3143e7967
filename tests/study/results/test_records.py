"""A trial, as everybody reads it."""

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from objectives.evidence import Infeasible, MemoryEvidence, PredictedMemory, TrialEvidence
from objectives.vllm import StartupFacts
from study.results.records import TrialRecord, directions_of, is_launched, trial_record


def trial(number=0, state="COMPLETE", **more):
    given = {"params": {"u": 0.5}, "values": {"ms": 10.0}, "constraints": {"kv": -1.0}, **more}
    return TrialRecord(number=number, state=state, **given)


def test_a_measured_trial_is_feasible_if_no_constraint_is_exceeded():
    assert trial().feasible is True
    assert trial(constraints={"kv": 0.1}).feasible is False


def test_a_pruned_trial_without_a_reason_names_its_worst_constraint():
    pruned = trial(state="PRUNED", values=None, constraints={"a": 0.2, "b": 3.0})
    assert pruned.infeasible == Infeasible(cause="b", evidence="b exceeded by 3")


def test_an_objective_near_a_target_is_not_its_distance():
    near = trial(values={"used": 3.0}, distances=frozenset({"used"}))
    assert near.figure("used") is None
    seen = TrialEvidence(figures={"used": 73.0}).to_attrs()
    assert trial(attrs=seen, values={"used": 3.0}).figure("used") == 73.0


def test_a_figure_that_was_not_measured_is_none():
    assert trial(state="PRUNED", values=None).figure("ms") is None


def test_the_kv_cache_is_as_predicted_and_as_logged():
    memory = MemoryEvidence(
        predicted=PredictedMemory(kv_cache_bytes=5), logged=StartupFacts(available_kv_bytes=4)
    )
    seen = TrialEvidence(footprint={"whisper": MemoryEvidence(), "vllm": memory}).to_attrs()
    assert trial(attrs=seen).kv_cache_bytes == (5, 4)
    assert trial().kv_cache_bytes == (None, None)


@pytest.mark.parametrize(
    ("state", "attrs", "launched"),
    [
        (TrialState.PRUNED, {"infeasible": {"cause": "kv", "predicted": True}}, False),
        (TrialState.PRUNED, {"infeasible": {"cause": "kv", "predicted": False}}, True),
        (TrialState.PRUNED, {}, True),
        (TrialState.FAIL, {}, False),
        (TrialState.RUNNING, {}, False),
    ],
)
def test_a_trial_is_launched_unless_arithmetic_refused_it(state, attrs, launched):
    assert is_launched(create_trial(state=state, user_attrs=attrs)) is launched


def test_a_measured_trial_is_launched():
    assert is_launched(create_trial(values=[1.0, 2.0]))


def test_what_optuna_stores_is_read_as_it_is():
    stored = create_trial(
        values=[1.0, 2.0],
        params={"u": 0.1 + 0.2},
        distributions={"u": optuna.distributions.FloatDistribution(0, 1)},
        constraints={"kv": 0.0},
    )
    found = trial_record(stored, ["a", "b"])
    assert (found.values, found.params, found.feasible) == ({"a": 1.0, "b": 2.0}, {"u": 0.3}, True)


def test_a_value_that_is_no_finite_number_is_none():
    endless = trial_record(create_trial(values=[1.0, float("inf")]), ["a", "b"])
    assert endless.values is None
    assert endless.feasible is None


def test_an_objective_without_a_name_has_a_number():
    study = optuna.create_study(directions=["minimize", "maximize"])
    assert directions_of(study) == {"objective_0": "minimize", "objective_1": "maximize"}
