"""What a study's figures rest on."""

from dataclasses import replace

import optuna
import pytest

from objectives.device import LargestAllocation
from objectives.units import GIB, MIB
from study.results.findings import read_study
from study.results.trial_rows import (
    ROWS,
    conditions,
    engines,
    foremost,
    kv_cache_rows,
    least_in_one_piece,
    percentile_rows,
    phase_rows,
)
from tests.study import studies


@pytest.fixture(scope="module")
def findings():
    return read_study(studies.whole_study(), "sqlite:///x.db")


def test_percentiles_are_milliseconds_of_the_baseline_and_the_front(findings):
    rows = percentile_rows(findings)
    assert [row[0] for row in rows[::4]] == ["0", "4", "7", "9", "12"]
    assert rows[3] == ["0", "speech, whole request", "255", "319", "383", "60", "0"]


def test_the_kv_cache_is_compared_where_both_sizes_are_known(findings):
    assert kv_cache_rows(findings)[1] == ["4", "0.40", "0.34", "+18.5"]
    assert "14" not in {row[0] for row in kv_cache_rows(findings)}


def test_time_is_added_up_by_phase(findings):
    assert dict(phase_rows(findings))["measure"] == "11 min"


def test_conditions_say_device_load_engines_and_the_generators_lag(findings):
    said = conditions(findings)
    assert said["device"] == "NVIDIA GeForce RTX 3060, 12.00 GiB, GPU-5f3a"
    assert said["engines"] == "vllm: vllm 0.11.0, torch 2.8.0; whisper: whisper 20250625"
    assert said["latencies"] == "p95 of the requests of the measured window"
    assert said["load generator"] == "sent at most 0.4 ms late (p95 of a trial)"
    assert "whisper_model_size (whisper.model): tiny, base, small" in said["search space"]


def test_a_continuous_parameter_is_told_by_its_ends():
    study = studies.empty_study()
    described = {"binding": "vllm.args.x", "choices": [], "low": 0.1, "high": 0.9}
    study.set_user_attr("space", {"x": described})
    assert conditions(read_study(study, ""))["search space"] == "x (vllm.args.x): 0.1 to 0.9"


def test_what_was_not_stored_is_left_out():
    assert engines({}) == ""
    assert "load generator" not in conditions(read_study(studies.empty_study(), ""))


FOUND = LargestAllocation(
    granted_bytes=9 * GIB, asked_bytes=9 * GIB, free_bytes=9 * GIB, before="vllm"
)


def test_of_largest_allocations_the_least_is_told_and_how_many_lay_in_pieces():
    study = studies.empty_study()
    pieces = replace(FOUND, granted_bytes=GIB, refused_bytes=GIB + 2 * MIB)
    studies.complete(study, 0.5, "tiny", found=FOUND)
    only = least_in_one_piece(read_study(study, ""))
    assert only.endswith(
        "before vllm started (trial 0, the least of 1); fragmented in none of them"
    )
    studies.refused(study, 0.6, "tiny", cause="cuda_oom_load", found=pieces)
    studies.complete(
        study, 0.4, "tiny", found=LargestAllocation(why_not="not asked", before="vllm")
    )
    said = least_in_one_piece(read_study(study, ""))
    assert said.startswith("1.00 GiB of 9.00 GiB free, right before vllm started (trial 1,")
    assert said.endswith("the least of 2); fragmented in 1 of them")
    assert conditions(read_study(study, ""))["largest single allocation"] == said


def test_where_no_trial_has_one_the_reason_is_told_and_of_older_studies_nothing(findings):
    study = studies.empty_study()
    studies.complete(study, 0.5, "tiny", found=LargestAllocation(why_not="not told", before="vllm"))
    assert least_in_one_piece(read_study(study, "")) == "not told"
    assert "largest single allocation" not in conditions(findings)


def test_of_a_long_front_the_picks_and_the_most_balanced_are_shown():
    study = optuna.create_study(
        directions=["minimize", "minimize"], sampler=optuna.samplers.BruteForceSampler()
    )
    study.set_metric_names(["stt_latency_ms", "llm_latency_ms"])
    study.optimize(lambda trial: curve(trial.suggest_int("place", 1, 30)), n_trials=30)
    findings = read_study(study, "")
    shown = foremost(findings)
    assert len(findings.front) == 30
    assert len(shown) == ROWS
    assert findings.picks["latency"] in {setting.trial.number for setting in shown}
    balanced = {setting.trial.params["place"] for setting in shown}
    assert balanced >= {4, 5, 6}
    assert 30 not in balanced


def curve(place):
    """Less of one is more of the other, and the middle is the best bargain."""
    return (float(place), 30.0 / place)
