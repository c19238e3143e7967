from __future__ import annotations

import json
import sqlite3

import optuna
import pytest
from optuna.trial import TrialState

from study.samplers.by_name import make_sampler
from study.search.lineage import chain, lineage_for, verify_lineage
from tests.stores import opened
from tests.study.fifteen import SPACE

BASELINE = {"vllm_memory_util": 0.50, "whisper_model_size": "small"}


def measured(study, params, *, value=1.0, **attrs):
    """One sealed trial of a point."""
    study.enqueue_trial(params)
    trial = study.ask()
    point = SPACE.suggest(trial)
    trial.set_constraint("kv_cache_gib", -1.0)
    for name, attr in attrs.items():
        trial.set_user_attr(name, attr)
    trial.set_user_attr("lineage", lineage_for(study, trial, point, values=[value], final=True))
    study.tell(trial, value)
    return study.trials[trial.number]


@pytest.fixture
def study(tmp_path):
    return optuna.create_study(study_name="s", storage=opened(f"sqlite:///{tmp_path}/s.db"))


def lineage(study, number):
    return study.trials[number].user_attrs["lineage"]


class TestTheRecord:
    def test_the_first_trial_is_the_root(self, study):
        measured(study, BASELINE)
        record = lineage(study, 0)
        assert (record["id"], record["parents"], record["generation"]) == ("s/0", [], 0)
        assert record["mutations"] == {}
        assert len(record["sha256"]) == 64

    def test_the_parent_is_the_nearest_setting_and_the_changes_are_named(self, study):
        measured(study, BASELINE)
        measured(study, {"vllm_memory_util": 0.40, "whisper_model_size": "tiny"})
        measured(study, {"vllm_memory_util": 0.45, "whisper_model_size": "tiny"})
        record = lineage(study, 2)
        assert record["parents"] == ["s/1"]
        assert record["generation"] == 2
        assert record["mutations"] == {"vllm_memory_util": [0.40, 0.45]}

    def test_a_replicate_descends_from_the_first_trial_of_its_point(self, study):
        measured(study, BASELINE)
        measured(study, {**BASELINE, "whisper_model_size": "tiny"})
        measured(study, BASELINE)
        record = lineage(study, 2)
        assert (record["parents"], record["mutations"]) == (["s/0"], {})

    def test_a_parameter_that_came_or_went_is_a_change(self, study):
        trial = study.ask()
        trial.suggest_categorical("device", ["cpu", "cuda:0"])
        params = {"device": "cpu", "threads": 4}
        trial.set_user_attr("lineage", lineage_for(study, trial, params))
        study.tell(trial, 1.0)
        other = study.ask()
        other.suggest_categorical("device", ["cpu", "cuda:0"])
        record = lineage_for(study, other, {"beam": 5})
        assert record["mutations"]["beam"] == [None, 5]
        assert "device" in record["mutations"]

    def test_a_failed_trial_is_nobodys_parent(self, study):
        measured(study, BASELINE)
        trial = study.ask(SPACE.distributions())
        trial.set_user_attr("lineage", lineage_for(study, trial, trial.params))
        study.tell(trial, state=TrialState.FAIL)
        measured(study, trial.params)
        assert lineage(study, 2)["parents"] == ["s/0"]

    def test_a_tournament_names_its_own_parents(self):
        study = optuna.create_study(
            direction="maximize",
            sampler=make_sampler("tournament", space=SPACE, seed=0, population_size=4),
        )
        for _ in range(7):
            trial = study.ask()
            params = SPACE.suggest(trial)
            value = float(trial.number)
            trial.set_user_attr("fitness", value)
            trial.set_user_attr(
                "lineage", lineage_for(study, trial, params, values=[value], final=True)
            )
            study.tell(trial, value)
        assert [lineage(study, n)["generation"] for n in range(7)] == [0] * 4 + [1] * 3
        assert [lineage(study, n)["parents"] for n in range(4)] == [[]] * 4
        (parent,) = lineage(study, 4)["parents"]
        assert int(parent.rsplit("/", 1)[1]) < 4
        assert verify_lineage(study) == []


class TestVerification:
    def test_an_untouched_study_is_in_order(self, study):
        measured(study, BASELINE, stt_latency_ms=300.5)
        measured(study, {"vllm_memory_util": 0.40, "whisper_model_size": "tiny"})
        assert verify_lineage(study) == []

    def test_a_changed_attribute_is_detected(self, study, tmp_path):
        measured(study, BASELINE, stt_latency_ms=300.5)
        measured(study, {**BASELINE, "whisper_model_size": "tiny"})
        tamper(
            tmp_path,
            "UPDATE trial_user_attributes SET value_json = '44.0' WHERE key = 'stt_latency_ms'",
        )
        assert verify_lineage(reopened(tmp_path)) == [
            "trial 0: its record or a parent's was changed"
        ]

    def test_a_changed_value_is_detected(self, study, tmp_path):
        measured(study, BASELINE)
        tamper(tmp_path, "UPDATE trial_values SET value = 0.5")
        assert len(verify_lineage(reopened(tmp_path))) == 1

    def test_a_changed_constraint_is_detected(self, study, tmp_path):
        measured(study, BASELINE)
        tamper(
            tmp_path,
            "UPDATE trial_system_attributes SET value_json = '-9.0' WHERE key LIKE 'constraints%'",
        )
        assert len(verify_lineage(reopened(tmp_path))) == 1

    def test_a_record_that_was_made_anew_breaks_the_chain_of_its_children(self, study, tmp_path):
        measured(study, BASELINE)
        measured(study, {**BASELINE, "whisper_model_size": "tiny"})
        record = {**lineage(study, 0), "sha256": "0" * 64}
        tamper(
            tmp_path,
            "UPDATE trial_user_attributes SET value_json = ? "
            "WHERE key = 'lineage' AND trial_id = 1",
            json.dumps(record),
        )
        assert len(verify_lineage(reopened(tmp_path))) == 2

    def test_a_trial_without_a_record_is_named(self, study):
        study.tell(study.ask(SPACE.distributions()), 1.0)
        assert verify_lineage(study) == ["trial 0: has no lineage"]

    def test_a_parent_that_is_gone_is_named(self, study):
        measured(study, BASELINE)
        measured(study, {**BASELINE, "whisper_model_size": "tiny"})
        other = optuna.create_study()
        other.add_trial(study.trials[1])
        assert verify_lineage(other) == ["trial 0: its parent s/0 is gone"]

    def test_a_record_made_at_the_begin_seals_the_parameters(self, study, tmp_path):
        study.enqueue_trial(BASELINE)
        trial = study.ask(SPACE.distributions())
        trial.set_user_attr("lineage", lineage_for(study, trial, trial.params))
        study.tell(trial, 1.0)
        assert verify_lineage(study) == []
        tamper(tmp_path, "UPDATE trial_params SET param_value = 0.6 WHERE param_name LIKE 'vllm%'")
        assert len(verify_lineage(reopened(tmp_path))) == 1

    def test_broken_and_running_trials_are_not_looked_at(self, study):
        study.tell(study.ask(SPACE.distributions()), state=TrialState.FAIL)
        study.ask(SPACE.distributions())
        assert verify_lineage(study) == []


class TestTheChain:
    def test_leads_to_the_root(self, study):
        measured(study, BASELINE)
        measured(study, {"vllm_memory_util": 0.40, "whisper_model_size": "tiny"})
        measured(study, {"vllm_memory_util": 0.45, "whisper_model_size": "tiny"})
        assert [trial.number for trial in chain(study, 2)] == [2, 1, 0]

    def test_of_a_trial_without_a_record_is_the_trial(self, study):
        study.tell(study.ask(SPACE.distributions()), 1.0)
        assert [trial.number for trial in chain(study, 0)] == [0]

    def test_of_a_trial_that_is_not_there_is_an_error(self, study):
        with pytest.raises(KeyError):
            chain(study, 3)


def tamper(folder, statement, *values):
    with sqlite3.connect(folder / "s.db") as connection:
        connection.execute(statement, values)
    connection.close()


def reopened(folder):
    return optuna.load_study(study_name="s", storage=opened(f"sqlite:///{folder}/s.db"))
