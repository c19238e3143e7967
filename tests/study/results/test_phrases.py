"""How findings are put into words and figures that a person reads."""

import pytest

from study.results.findings import read_study
from study.results.phrases import (
    GIB,
    changes,
    command_lines,
    doubts_of,
    figure_with_interval,
    flat,
    gib,
    label,
    number,
    seconds,
    spread,
)
from tests.study import studies


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0, "0"),
        (0.001234, "0.00123"),
        (0.5, "0.5"),
        (12.345, "12.3"),
        (1234.5, "1234"),
    ],
)
def test_three_digits_are_what_a_measurement_is_worth(value, shown):
    assert number(value) == shown


def test_bytes_are_shown_in_gib_and_what_is_not_known_as_a_dash():
    assert (gib(3 * GIB), gib(None)) == ("3.00", "–")


@pytest.mark.parametrize(
    ("duration_s", "shown"), [(0.42, "0.4 s"), (95, "95 s"), (720, "12 min"), (11000, "3.1 h")]
)
def test_a_duration_is_shown_as_one_says_it(duration_s, shown):
    assert seconds(duration_s) == shown


def test_a_quantity_has_its_unit_and_an_unknown_one_its_own_name():
    assert label("stt_latency_ms") == "speech latency (ms)"
    assert label("goodput") == "goodput"


def test_command_lines_can_be_copied_into_a_shell():
    study = studies.empty_study()
    trial = studies.complete(study, 0.5, "tiny")
    trial_read = read_study(study, "")[trial.number]
    line = command_lines(trial_read)["whisper"]
    where = "CUDA_VISIBLE_DEVICES=0 CUDA_DEVICE_ORDER=PCI_BUS_ID"
    assert line.startswith(f"{where} python -m objectives.workers.whisper_worker")


def test_a_change_within_the_intervals_is_no_change():
    study = studies.empty_study()
    studies.complete(study, 0.50, "small")
    studies.complete(study, 0.55, "small")
    findings = read_study(study, "")
    judged = {change.name: change.better for change in changes(findings, findings.points[1])}
    assert judged == {"stt_latency_ms": None, "llm_latency_ms": None, "concurrent_capacity": True}


def test_percentages_have_their_sign():
    study = studies.empty_study()
    studies.complete(study, 0.50, "small")
    studies.complete(study, 0.50, "tiny")
    findings = read_study(study, "")
    found = {change.name: change.percent for change in changes(findings, findings.points[1])}
    assert found["stt_latency_ms"] == "−83 %"
    assert found["concurrent_capacity"] == "±0 %"


def test_replicates_widen_an_interval():
    study = studies.empty_study()
    for noise in (0.9, 1.0, 1.2):
        studies.complete(study, 0.60, "tiny", noise=noise)
    setting = read_study(study, "").points[0]
    assert spread(setting, "llm_latency_ms") == pytest.approx((600 * 0.9 * 0.95, 600 * 1.2 * 1.05))
    assert figure_with_interval(setting, "concurrent_capacity") == "19"


def test_doubts_are_listed_once_with_their_trials():
    study = studies.empty_study()
    for _ in range(2):
        studies.complete(study, 0.60, "tiny", doubts=["60 samples"])
    assert doubts_of(read_study(study, "").points) == {"60 samples": [0, 1]}


def test_nested_facts_become_phrases_without_what_is_absent():
    facts = {"llm": {"rate_rps": 2.0, "files": [], "limit": None}, "clip_s": [5.0, 9.0]}
    assert flat(facts) == ["llm.rate_rps 2.0", "clip_s 5.0, 9.0"]
