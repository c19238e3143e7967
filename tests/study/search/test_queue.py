"""What comes back into the queue."""

import optuna
import pytest
from optuna.trial import TrialState

from storage.trials import open_study, this_worker
from study.samplers import ATTEMPTS
from study.search.queue import enqueue_again, retry_stale, sweep, unfinished_business
from tests.storage.test_trials import ask, vanished_worker

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/study.db"


def test_a_trial_of_a_vanished_worker_is_ended_and_its_point_comes_back(url):
    study = open_study(url, "s", directions=["minimize"])
    dead = ask(study)
    dead.set_user_attr("worker", vanished_worker())
    dead.set_constraint("kv_cache_gib", 3.0)
    assert sweep(study) == [dead.number]
    assert study.trials[dead.number].state == TrialState.FAIL
    again = study.ask()
    assert again.suggest_float("x", 0, 1) == dead.params["x"]
    again.set_constraint("kv_cache_gib", -1.0)
    assert study.trials[again.number].constraints == {"kv_cache_gib": -1.0}


def test_a_trial_of_a_living_worker_is_left_alone(url):
    study = open_study(url, "s", directions=["minimize"])
    alive = ask(study)
    alive.set_user_attr("worker", this_worker())
    assert sweep(study) == []


def test_a_trial_of_another_host_is_not_ours_to_judge(url):
    study = open_study(url, "s", directions=["minimize"])
    other = ask(study)
    other.set_user_attr("worker", {"host": "elsewhere", "pid": 1, "began": 0.0})
    assert sweep(study) == []


def test_a_point_that_keeps_failing_is_left_alone(url):
    study = open_study(url, "s", directions=["minimize"])
    trial = ask(study)
    for _ in range(ATTEMPTS - 1):
        study.tell(trial.number, state=TrialState.FAIL)
        assert enqueue_again(study, study.trials[trial.number])
        trial = ask(study)
    study.tell(trial.number, state=TrialState.FAIL)
    assert not enqueue_again(study, study.trials[trial.number])


def test_an_interruption_does_not_count_as_a_failed_try(url):
    study = open_study(url, "s", directions=["minimize"])
    trial = ask(study)
    for _ in range(ATTEMPTS + 1):
        trial.set_user_attr("error", {"cause": "interrupted"})
        study.tell(trial.number, state=TrialState.FAIL)
        assert enqueue_again(study, study.trials[trial.number])
        trial = ask(study)


def test_a_last_try_that_is_interrupted_is_not_lost(url):
    study = open_study(url, "s", directions=["minimize"])
    for attempt in range(ATTEMPTS):
        trial = ask(study)
        if attempt == ATTEMPTS - 1:
            trial.set_user_attr("error", {"cause": "interrupted"})
        study.tell(trial.number, state=TrialState.FAIL)
        assert enqueue_again(study, study.trials[trial.number])


def test_a_point_waits_in_the_queue_only_once(url):
    study = open_study(url, "s", directions=["minimize"])
    trial = ask(study)
    study.tell(trial.number, state=TrialState.FAIL)
    assert enqueue_again(study, study.trials[trial.number])
    assert not enqueue_again(study, study.trials[trial.number])


def test_a_trial_whose_host_vanished_comes_back(url):
    study = open_study(url, "s", directions=["minimize"])
    trial = ask(study)
    study.tell(trial.number, state=TrialState.FAIL)
    retry_stale(study, study.trials[trial.number])
    assert study.ask().suggest_float("x", 0, 1) == trial.params["x"]


def test_a_point_in_the_queue_is_the_same_however_it_is_spelt(url):
    study = open_study(url, "s", directions=["minimize"])
    study.enqueue_trial({"x": 0.1 + 0.2})
    trial = ask(study)
    study.tell(trial.number, state=TrialState.FAIL)
    study.enqueue_trial({"x": 0.3})
    assert not enqueue_again(study, study.trials[trial.number])


def test_what_was_measured_since_is_no_unfinished_business(url):
    study = open_study(url, "s", directions=["minimize"])
    for x, state in ((0.1 + 0.2, "FAIL"), (0.5, "FAIL"), (0.3, "COMPLETE")):
        study.enqueue_trial({"x": x})
        values = 1.0 if state == "COMPLETE" else None
        study.tell(ask(study).number, values, state=TrialState[state])
    assert [trial.number for trial in unfinished_business(study)] == [1]
