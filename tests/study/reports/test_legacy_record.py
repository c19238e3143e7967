"""The evaluation record of the first users' system."""

import json

import pytest

from study.reports.legacy_record import legacy_lines
from study.results.findings import read_study
from tests.study import studies

LEGACY_KEYS = {
    "test_id",
    "status",
    "vllm_memory_util",
    "whisper_model_size",
    "stt_latency_ms",
    "llm_latency_ms",
    "gpu_utilization_pct",
    "oom_events",
    "concurrent_capacity",
    "free_memory_mb",
    "fitness",
}


@pytest.fixture(scope="module")
def records():
    text = legacy_lines(read_study(studies.whole_study(), ""))
    return [json.loads(line) for line in text.splitlines()]


def test_every_line_has_the_legacys_keys(records):
    assert all(set(record) >= LEGACY_KEYS for record in records)


def test_there_is_a_line_a_finished_trial(records):
    assert [record["trial"] for record in records] == list(range(16))


def test_the_legacys_units_and_kinds_are_kept(records):
    measured = records[4]
    assert measured["status"] == "pass"
    assert measured["gpu_utilization_pct"] == pytest.approx(57.5, abs=0.1)
    assert isinstance(measured["concurrent_capacity"], int)
    assert measured["oom_events"] == 0


def test_what_was_not_measured_is_null_and_its_fitness_zero(records):
    pruned = records[1]
    assert (pruned["status"], pruned["fitness"]) == ("fail", 0.0)
    assert pruned["stt_latency_ms"] is None


def test_a_broken_bench_is_no_fitness_of_zero(records):
    assert (records[15]["status"], records[15]["fitness"]) == ("error", None)


def test_identifiers_are_the_legacys_kind_and_stay_the_same(records):
    again = legacy_lines(read_study(studies.whole_study(), ""))
    assert [record["test_id"] for record in records] == [
        json.loads(line)["test_id"] for line in again.splitlines()
    ]
    assert len({record["test_id"] for record in records}) == len(records)
    assert all(len(record["test_id"]) == len("gpu-a3f8b1c2") for record in records)
