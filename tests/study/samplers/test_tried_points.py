from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from objectives.space import point_key
from study.samplers import tried_points
from study.samplers.tried_points import (
    ATTEMPTS,
    History,
    fixed_params,
    is_whole,
    wait_for_turn,
)
from tests.study.fifteen import CONDITIONAL, DIRECTIONS, SPACE

A = {"vllm_memory_util": 0.50, "whisper_model_size": "tiny"}
B = {"vllm_memory_util": 0.55, "whisper_model_size": "tiny"}


@pytest.fixture
def study():
    return optuna.create_study(directions=DIRECTIONS)


@pytest.fixture
def history():
    return History(SPACE)


def end(study, params, state=TrialState.COMPLETE):
    study.enqueue_trial(params)
    trial = study.ask(SPACE.distributions())
    study.tell(trial, [1.0, 2.0, 3.0] if state == TrialState.COMPLETE else None, state=state)


class TestAHistory:
    def test_measured_and_infeasible_points_are_taken(self, study, history):
        end(study, A)
        end(study, B, TrialState.PRUNED)
        history.update(study)
        assert [trial.params for trial in history.finished] == [A, B]
        assert history.is_taken(point_key(A), ())
        assert history.is_taken(point_key(B), ())

    def test_a_point_is_given_up_after_so_many_failures(self, study, history):
        for attempt in range(ATTEMPTS):
            history.update(study)
            assert not history.is_taken(point_key(A), history.claimed), attempt
            end(study, A, TrialState.FAIL)
        history.update(study)
        assert history.is_taken(point_key(A), history.claimed)

    def test_what_runs_elsewhere_is_claimed(self, study, history):
        study.enqueue_trial(A)
        study.ask(SPACE.distributions())
        history.update(study)
        assert history.claimed == {point_key(A): A}
        assert history.is_taken(point_key(A), history.claimed)

    def test_what_waits_in_the_queue_is_claimed(self, study, history):
        study.enqueue_trial(A)
        history.update(study)
        assert history.claimed == {point_key(A): A}

    def test_who_asks_claims_nothing(self, study, history):
        study.enqueue_trial(A)
        trial = study.ask(SPACE.distributions())
        history.update(study, but=trial.number)
        assert history.claimed == {}

    def test_a_trial_that_ended_since_is_read_once(self, study, history):
        study.enqueue_trial(A)
        trial = study.ask(SPACE.distributions())
        history.update(study)
        study.tell(trial, [1.0, 2.0, 3.0])
        history.update(study)
        history.update(study)
        assert history.counts == {point_key(A): 1}
        assert history.claimed == {}

    def test_a_trial_without_a_whole_point_says_nothing(self, study, history):
        study.tell(study.ask(), state=TrialState.PRUNED)
        history.update(study)
        assert history.finished == []

    def test_a_running_trial_without_its_point_is_silent(self, study, history):
        trial = study.ask()
        history.update(study)
        assert list(history.silent) == [trial.number]
        SPACE.suggest(trial)
        history.update(study)
        assert not history.silent
        assert len(history.claimed) == 1

    def test_what_remains_shrinks_as_it_grows(self, study, history):
        points = {point_key(each) for each in SPACE.points() or []}
        end(study, A)
        history.update(study)
        assert points - history.counts.keys() == points - {point_key(A)}
        assert point_key(A) in points


class TestTakingTurns:
    @pytest.fixture
    def no_waiting(self, monkeypatch):
        """Whoever waits in this test, fails."""

        def sleep(seconds):
            pytest.fail(f"waited {seconds} s")

        monkeypatch.setattr(tried_points.time, "sleep", sleep)

    def test_nobody_to_wait_for_is_no_wait(self, study, history, no_waiting):
        end(study, A)
        study.ask()
        wait_for_turn(study, history, number=1)
        assert history.counts == {point_key(A): 1}

    def test_a_smaller_number_chooses_first(self, study, history):
        first, second = study.ask(), study.ask()
        study.enqueue_trial(B)  # what the first one will be seen with does not matter here

        def choose():
            time.sleep(0.2)
            SPACE.suggest(first)

        chooser = threading.Thread(target=choose)
        chooser.start()
        wait_for_turn(study, history, second.number)
        chooser.join()
        assert first.number in history.running

    def test_a_larger_number_is_not_waited_for(self, study, history, no_waiting):
        first, second = study.ask(), study.ask()
        wait_for_turn(study, history, first.number)
        assert list(history.silent) == [second.number]

    def test_a_worker_that_is_gone_is_not_waited_for(self, history, no_waiting):
        study = optuna.create_study(directions=DIRECTIONS)
        gone = create_trial(state=TrialState.RUNNING)
        gone.datetime_start = datetime.now() - timedelta(minutes=5)
        study.add_trial(gone)
        study.ask()
        wait_for_turn(study, history, number=1)
        assert list(history.silent) == [0]


class TestATrial:
    def test_of_the_queue_knows_what_it_has_to_use(self):
        study = optuna.create_study()
        study.enqueue_trial({"x": 1})
        assert fixed_params(study.trials[0]) == {"x": 1}
        assert fixed_params(create_trial(value=1.0)) == {}

    def test_is_whole_with_every_parameter_that_exists_at_its_point(self):
        assert is_whole(CONDITIONAL, {"device": "cuda:0", "vllm_memory_util": 0.5})
        assert not is_whole(CONDITIONAL, {"device": "cpu", "vllm_memory_util": 0.5})
        assert not is_whole(CONDITIONAL, {})
