"""How findings are put into words and figures that a person reads."""

from dataclasses import replace

import pytest

from objectives.device import LargestAllocation
from objectives.units import MIB
from study.results.findings import read_study
from study.results.phrases import (
    GIB,
    changes,
    command_lines,
    doubts_of,
    figure_with_interval,
    flat,
    fragments,
    gib,
    in_one_piece,
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


WHOLE = LargestAllocation(
    granted_bytes=9 * GIB,
    asked_bytes=9 * GIB,
    free_bytes=int(9.25 * GIB),
    context_bytes=GIB // 4,
    before="vllm",
)
PIECES = replace(WHOLE, granted_bytes=GIB, refused_bytes=GIB + 2 * MIB)
CUT_SHORT = replace(WHOLE, granted_bytes=0, refused_bytes=9 * GIB)
UNTOLD = LargestAllocation(why_not="not asked: the device is split by MIG", before="vllm")


def trial_with(found, *, cause="cuda_oom_load", make=studies.refused):
    study = studies.empty_study()
    more = {"cause": cause} if make is studies.refused else {}
    trial = make(study, 0.5, "tiny", found=found, **more)
    return read_study(study, "")[trial.number]


class TestTheLargestAllocation:
    def test_is_told_with_what_was_free_and_what_is_not_in_it(self):
        assert in_one_piece(trial_with(WHOLE, make=studies.complete)) == (
            "9.00 GiB of 9.25 GiB free, its own CUDA context of 0.25 GiB taken off, right before"
            " vllm started; 0.25 GiB of it were left alone"
        )

    def test_without_what_was_left_alone_or_what_a_context_cost_neither_is_told(self):
        found = replace(WHOLE, asked_bytes=WHOLE.free_bytes, context_bytes=None)
        assert in_one_piece(trial_with(found, make=studies.complete)) == (
            "9.00 GiB of 9.25 GiB free, right before vllm started"
        )

    def test_that_was_not_asked_for_is_a_reason(self):
        assert in_one_piece(trial_with(UNTOLD, make=studies.complete)) == UNTOLD.why_not

    def test_of_a_trial_of_an_older_study_is_nothing(self):
        assert in_one_piece(trial_with(None, make=studies.complete)) == ""
        assert fragments(trial_with(None)) == ""


class TestFragments:
    @pytest.mark.parametrize("cause", ["cuda_oom_load", "cuda_oom_profile", "cuda_oom_cudagraph"])
    @pytest.mark.parametrize(
        ("found", "said"),
        [
            (
                WHOLE,
                "Memory was short, not fragmented: one allocation right before got 9.00 of the"
                " 9.00 GiB that were asked for.",
            ),
            (
                PIECES,
                "Free memory was fragmented: one allocation right before got 1.00 of the 9.00 GiB"
                " that were asked for.",
            ),
            (
                CUT_SHORT,
                "Whether free memory lay in pieces is not known: the search ran out of time.",
            ),
            (UNTOLD, f"Whether free memory lay in pieces is not known: {UNTOLD.why_not}."),
        ],
        ids=["lack", "pieces", "cut short", "not asked"],
    )
    def test_are_told_from_a_lack_where_an_allocation_failed(self, cause, found, said):
        assert fragments(trial_with(found, cause=cause)) == said

    @pytest.mark.parametrize(
        "cause", ["kv_cache_no_blocks", "kv_cache_too_small", "gpu_memory_insufficient_at_start"]
    )
    @pytest.mark.parametrize(
        ("found", "more"),
        [
            (
                PIECES,
                "; one allocation right before got 1.00 of the 9.00 GiB that were asked for.",
            ),
            (UNTOLD, "."),
        ],
        ids=["pieces", "not asked"],
    )
    def test_cannot_be_why_a_check_of_sums_refused(self, cause, found, more):
        said = fragments(trial_with(found, cause=cause))
        assert said == f"This check adds up bytes: that memory lies in pieces cannot be why{more}"

    @pytest.mark.parametrize("cause", ["cuda_oom_serving", "host_oom", "cuda_init", "nobody knows"])
    def test_have_no_part_in_other_causes(self, cause):
        assert fragments(trial_with(PIECES, cause=cause)) == ""

    def test_before_one_server_say_nothing_of_another_that_started_later(self):
        record = trial_with(PIECES)
        later = {**record.attrs["settings"], "whisper": {"argv": ["w"]}}
        del later["vllm"]
        later = {"vllm": record.attrs["settings"]["vllm"], **later}
        assert fragments(replace(record, attrs={**record.attrs, "settings": later})) == ""

    def test_of_a_start_that_worked_are_no_matter(self):
        assert fragments(trial_with(PIECES, make=studies.complete)) == ""
