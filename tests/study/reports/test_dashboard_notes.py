"""What optuna-dashboard shows beside its own plots."""

import optuna
import pytest
from optuna_dashboard import get_note

from objectives.device import LargestAllocation
from study.reports.dashboard_notes import annotate, graphs, study_note, trial_note, with_notes
from study.results.findings import read_study
from tests.study import studies

SHORT = LargestAllocation(
    granted_bytes=9 << 30, asked_bytes=9 << 30, free_bytes=9 << 30, before="vllm"
)


@pytest.fixture(scope="module")
def findings():
    return read_study(studies.whole_study(weights="dummy"), "sqlite:///x.db")


def test_the_studys_note_says_what_was_found_and_on_what(findings):
    note = study_note(findings)
    assert "11 of 15 settings tried work on NVIDIA GeForce RTX 3060" in note
    assert "Dummy weights" in note
    assert "| concurrent\\_capacity | requests | more |" in note


def test_a_neutral_objective_is_explained():
    objectives = {"gpu_utilization": {"direction": "minimize", "target": 70.0}}
    study = studies.empty_study(objectives=objectives)
    studies.complete(study, 0.5, "tiny")
    assert "near 70 (stored: the distance)" in study_note(read_study(study, ""))


def test_a_pruned_trials_note_has_cause_line_and_remedy(findings):
    note = trial_note(findings[14])
    assert note.startswith("**Infeasible: kv_cache_no_blocks (seen) (dummy weights)**")
    assert f"    {studies.NO_BLOCKS}" in note
    assert "Remedy: raise --gpu-memory-utilization" in note


def test_a_predicted_trials_note_says_that_nothing_was_launched(findings):
    assert "predicted, nothing launched" in trial_note(findings[1])


def test_a_measured_trials_note_has_the_commands_to_run(findings):
    note = trial_note(findings[4])
    assert "    CUDA_VISIBLE_DEVICES=0 CUDA_DEVICE_ORDER=PCI_BUS_ID python" in note
    assert "measure 60 s" in note


def test_a_trials_note_has_its_largest_allocation_and_what_follows_from_it():
    study = studies.empty_study()
    studies.complete(study, 0.50, "tiny", found=SHORT)
    studies.refused(study, 0.60, "small", cause="cuda_oom_load", found=SHORT)
    measured, refused = (trial_note(trial) for trial in read_study(study, "").trials)
    said = "Largest single allocation: 9.00 GiB of 9.00 GiB free, right before vllm started"
    assert said in measured
    assert said in refused
    assert "Memory was short, not fragmented" in refused
    assert "fragmented" not in measured


def test_a_failed_trials_note_blames_the_bench(findings):
    assert "Failed, the setting is not to blame: ollama left" in trial_note(findings[15])


def test_notes_and_figures_are_kept_with_the_study():
    study = studies.whole_study()
    found = read_study(study, "")
    annotate(study, found)
    annotate(study, found)  # a second time changes nothing
    assert get_note(study) == study_note(found)
    assert list(graphs(found)) == ["front-1", "front-2", "front-3", "hypervolume", "memory"]


@pytest.mark.parametrize(
    ("ends", "state", "begins"),
    [
        (None, "COMPLETE", "**Measured"),
        (optuna.TrialPruned("no"), "PRUNED", "**Infeasible: kv"),
        (RuntimeError("broke"), "FAIL", "**Failed"),
    ],
)
def test_a_trial_gets_its_note_however_it_ends(ends, state, begins):
    study = studies.empty_study()
    notes = []

    def objective(trial):
        notes.append(trial)
        trial.set_constraint("kv", 1.0 if state == "PRUNED" else -1.0)
        if ends is not None:
            raise ends
        return (1.0, 2.0, 3.0)

    study.optimize(with_notes(objective), n_trials=1, catch=(RuntimeError,))
    assert study.trials[0].state.name == state
    assert get_note(notes[0]).startswith(begins)


def test_no_figure_is_kept_of_nothing():
    assert graphs(read_study(studies.empty_study(), "")) == {}
