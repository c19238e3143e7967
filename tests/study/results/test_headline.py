"""What a study found, in one sentence, and what to do next."""

from dataclasses import replace

import optuna
import pytest

from objectives.measurement import Capacity
from study.results.findings import read_study
from study.results.headline import headline, next_steps
from tests.study import studies


def said(study):
    return headline(read_study(study, ""))


def test_nothing_is_said_before_a_trial_has_finished():
    assert said(studies.empty_study()) == "No trial has finished yet, so nothing can be said."


def test_nothing_feasible_is_said_with_the_most_frequent_cause():
    study = studies.empty_study()
    studies.predicted_infeasible(study, 0.40, "small")
    studies.refused(study, 0.60, "small")
    assert said(study) == (
        "None of the 2 settings tried works on NVIDIA GeForce RTX 3060; the most frequent cause "
        "is kv_cache_no_blocks (2 of 2 trials)."
    )


def test_the_best_setting_is_compared_with_what_runs_today():
    words = said(studies.whole_study())
    assert words.startswith("11 of 15 settings tried work on NVIDIA GeForce RTX 3060, 4 of them")
    assert "speech latency −83 % (better)" in words
    assert "capacity +138 % (better)" in words


def test_what_runs_today_may_be_the_best():
    study = studies.empty_study()
    studies.complete(study, 0.50, "small")
    assert "is already the best compromise" in said(study)


def test_what_runs_today_may_not_work_at_all():
    study = studies.empty_study()
    studies.refused(study, 0.50, "small")
    studies.complete(study, 0.60, "tiny")
    assert "what runs today does not (kv_cache_no_blocks)" in said(study)


def test_a_doubted_winner_is_said_to_be_doubted():
    study = studies.empty_study()
    studies.complete(study, 0.60, "tiny", doubts=["60 samples"])
    assert said(study).endswith("though every measurement of it is doubted.")


def test_the_next_commands_name_storage_and_study():
    findings = read_study(studies.whole_study(), "sqlite:///a b.db")
    commands = [step.command for step in next_steps(findings) if step.command]
    assert "python -m study.dashboard 'sqlite:///a b.db'" in commands
    assert any("--study-name shared-gpu" in command for command in commands)


def test_dummy_weights_are_not_to_be_promoted():
    steps = next_steps(read_study(studies.whole_study(weights="dummy"), ""))
    assert not any("promote" in step.command for step in steps)


def test_where_nothing_works_the_next_step_is_to_predict():
    study = studies.empty_study()
    studies.refused(study, 0.60, "small")
    assert any("study.fit" in step.command for step in next_steps(read_study(study, "")))


def capacities(*limited_by):
    """Findings of settings that work, with a capacity of 16 each, limited by that."""
    study = studies.empty_study()
    for number, _ in enumerate(limited_by):
        studies.complete(study, 0.50 + 0.05 * number, "small")
    findings = read_study(study, "")
    for trial, limit in zip(findings.trials, limited_by, strict=True):
        capacity = Capacity(
            requests=16,
            limited_by=limit,
            kv_cache_tokens=6976,
            tokens_per_request=304,
            blocks_per_request=19,
            block_tokens=16,
            usable_blocks=435,
        )
        measurement = replace(trial.evidence.measurement, capacity=capacity)
        vars(trial)["evidence"] = replace(trial.evidence, measurement=measurement)
    return findings


def test_a_capacity_that_no_memory_can_raise_is_said():
    (flat,) = (
        step.why
        for step in next_steps(capacities("max_num_seqs", "max_num_seqs"))
        if "max-num-seqs" in step.why
    )
    assert flat.startswith("Capacity is limited by max-num-seqs (16) in every setting that works")


@pytest.mark.parametrize(
    "limits", [("max_num_seqs",), ("max_num_seqs", "kv_cache"), ("kv_cache", "kv_cache")]
)
def test_a_capacity_that_memory_raises_somewhere_or_that_was_seen_once_is_not(limits):
    assert not any("max-num-seqs" in step.why for step in next_steps(capacities(*limits)))


def test_without_a_fitness_the_most_balanced_of_the_front_is_named():
    study = optuna.create_study(directions=["minimize", "minimize"])
    for value in (0.0, 1.0, 10.0):
        study.add_trial(
            optuna.trial.create_trial(
                params={"x": value},
                distributions={"x": optuna.distributions.FloatDistribution(0, 10)},
                values=[value, 10.0 if value == 0 else 1.0 / value],
            )
        )
    assert said(study).endswith("the best compromise is x=1 (trial 1).")
