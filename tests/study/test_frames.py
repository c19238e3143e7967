"""A study as pandas frames."""

import optuna
import pandas as pd
import pytest

from objectives.device import LargestAllocation
from study.frames import (
    generations_frame,
    importances_frame,
    kv_cache_frame,
    noise_frame,
    phases_frame,
    trials_frame,
)
from study.results.findings import read_study
from tests.study import studies


@pytest.fixture(scope="module")
def study():
    made = studies.whole_study()
    studies.complete(made, 0.60, "tiny", noise=1.1, generation=4)
    return made


@pytest.fixture(scope="module")
def findings(study):
    return read_study(study, "")


def test_there_is_a_row_a_trial_and_what_was_not_measured_is_missing(findings):
    frame = trials_frame(findings)
    assert len(frame) == len(findings.trials)
    assert frame.loc[1, "cause"] == "kv_cache_no_blocks"
    assert pd.isna(frame.loc[1, "stt_latency_ms"])
    assert frame[frame["front"]].index.tolist() == list(findings.front)


def test_the_largest_allocation_is_a_column_also_of_a_trial_that_was_refused():
    made = studies.empty_study()
    found = LargestAllocation(granted_bytes=3 << 30, asked_bytes=3 << 30, before="vllm")
    studies.refused(made, 0.50, "tiny", cause="cuda_oom_load", found=found)
    studies.complete(made, 0.60, "tiny")
    column = trials_frame(read_study(made, ""))["largest_allocation_mb"]
    assert column[0] == 3072.0
    assert pd.isna(column[1])


def test_phases_are_seconds(findings):
    assert phases_frame(findings).loc[4, "measure"] == 60.0
    assert pd.isna(phases_frame(findings).loc[1, "measure"])


def test_the_kv_cache_has_its_error_in_percent(findings):
    assert kv_cache_frame(findings).loc[4, "off_percent"] == pytest.approx(18.5, abs=0.1)


def test_noise_is_the_range_of_replicates(findings):
    row = noise_frame(findings).xs("llm_latency_ms", level="objective").iloc[0]
    assert (row["measurements"], row["least"], row["most"]) == (2, 600.0, 660.0)


def test_a_generation_has_its_best_and_its_infeasible(findings):
    frame = generations_frame(findings)
    assert frame["infeasible"].tolist() == [3, 0, 0, 0, 1]
    assert frame.loc[4, "best"] == pytest.approx(findings[12].fitness)


def test_importances_add_up_to_one(study, findings):
    assert importances_frame(study, findings).sum().tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_importances_of_a_maximised_objective_are_about_large_values():
    """Only `kind` makes the value large; among the small ones `level` decides."""
    made = optuna.create_study(direction="maximize", sampler=optuna.samplers.BruteForceSampler())
    made.optimize(
        lambda trial: (
            trial.suggest_int("level", 0, 9)
            if trial.suggest_categorical("kind", "abcd") != "a"
            else 100.0 + 0 * trial.suggest_int("level", 0, 9)
        ),
        n_trials=40,
    )
    frame = importances_frame(made, read_study(made, ""))
    assert frame.idxmax().tolist() == ["kind"]


def test_an_empty_study_has_empty_frames():
    made = studies.empty_study()
    empty = read_study(made, "")
    frames = [draw(empty) for draw in (trials_frame, phases_frame, kv_cache_frame, noise_frame)]
    assert all(frame.empty for frame in [*frames, generations_frame(empty)])
    assert importances_frame(made, empty).empty
