"""One trial as a picture."""

import pytest

from objectives.evidence import TrialEvidence
from objectives.telemetry import TelemetrySummary
from objectives.telemetry.record import MemoryPoint
from study.reports.plots import save
from study.reports.timeline import (
    caption,
    memory_series,
    pictures,
    timeline_figure,
    trial_timeline,
)
from study.results.findings import read_study
from tests.study import studies


@pytest.fixture(scope="module")
def findings():
    return read_study(studies.whole_study(weights="dummy"), "")


def test_phases_are_bars_in_order_of_time(findings):
    axes = trial_timeline(findings[4]).axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [
        "predict",
        "start whisper",
        "start vllm",
        "warmup",
        "measure",
        "stop",
    ]


def test_memory_lies_below_with_the_device_as_a_line(findings):
    axes = trial_timeline(findings[4]).axes[1]
    assert axes.lines[0].get_ydata()[0] == 12.0


def test_a_trial_that_never_served_has_phases_only(findings):
    assert len(trial_timeline(findings[14]).axes) == 1


LOOK = MemoryPoint(time_s=1.0, used_bytes=10, tenants={"vllm": 6, "ollama": None})


def test_what_is_known_of_no_tenant_is_nobodys():
    telemetry = TelemetrySummary(total_bytes=12, samples=(LOOK,))
    assert memory_series(telemetry) == {"vllm": [6], "other": [4]}


def test_memory_is_counted_from_the_trials_begin():
    telemetry = TelemetrySummary(total_bytes=12, samples=(LOOK,), began_s=20.0)
    axes = timeline_figure(TrialEvidence(telemetry=telemetry), caption="").axes[1]
    assert axes.collections[0].get_paths()[0].vertices[:, 0].tolist().count(21.0) > 0
    assert axes.get_xlabel() == "seconds since the trial began"


def test_without_samples_there_is_no_memory():
    evidence = TrialEvidence(telemetry=TelemetrySummary(total_bytes=12))
    assert len(timeline_figure(evidence, caption="").axes) == 1


def test_the_caption_says_setting_outcome_and_weights(findings):
    assert caption(findings[14]) == (
        "trial 14: vllm_memory_util=0.6, whisper_model_size=small "
        "(infeasible: kv_cache_no_blocks, dummy weights)"
    )


def test_a_picture_is_drawn_for_a_trial_that_is_about_to_end(findings, tmp_path):
    assert pictures(tmp_path, findings[4].evidence) == [tmp_path / "timeline.png"]
    assert (tmp_path / "timeline.png").read_bytes().startswith(b"\x89PNG")


def test_a_trial_that_launched_nothing_has_no_picture(tmp_path):
    assert pictures(tmp_path, TrialEvidence()) == []


def test_a_stored_trial_can_be_drawn_later(findings, tmp_path):
    assert save(trial_timeline(findings[4]), tmp_path / "later.svg").stat().st_size > 0
