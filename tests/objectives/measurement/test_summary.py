"""What one trial measured: samples in, figures with intervals and doubts out."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.evidence import TrialEvidence
from objectives.load.profile import LlmLoad
from objectives.load.samples import ClientCost, Driven, Failure, Sample
from objectives.measurement.capacity import capacity
from objectives.measurement.quantiles import intervals_overlap
from objectives.measurement.summary import summarise
from objectives.vllm.metrics import compare_pages

CLIENT = ClientCost(wall_s=41.0, cpu_s=0.5, process_cpu_s=0.7, longest_check_s=0.002)


def llm(due_s, *, ttft_s=0.1, tpot_s=0.05, tokens=11, lag_s=0.001):
    first_s = due_s + ttft_s
    last_s = first_s + tpot_s * (tokens - 1)
    return Sample(
        server="llm",
        phase="measure",
        due_s=due_s,
        sent_s=due_s + lag_s,
        first_s=first_s,
        last_s=last_s,
        done_s=last_s,
        events=tokens,
        prompt_tokens=32,
        asked_tokens=11,
        output_tokens=tokens,
    )


def stt(due_s, latency_s=0.5, *, audio_s=5.0, infer_s=0.4):
    return Sample(
        server="stt",
        phase="measure",
        due_s=due_s,
        sent_s=due_s + 0.001,
        done_s=due_s + latency_s,
        audio_s=audio_s,
        infer_s=infer_s,
    )


def broken(sample, kind="timeout"):
    return replace(sample, done_s=None, failure=Failure(kind=kind, message="no answer"))


def driven(samples, *, measure_s=40.0, pages=None, warmup=()):
    return Driven(
        trace_sha256="ab" * 32,
        seed=5,
        measure_s=measure_s,
        warmup=tuple(warmup),
        samples=tuple(samples),
        client=CLIENT,
        spans=(),
        pages=pages,
    )


def window(llm_count=80, stt_count=80):
    prompts = [llm(at * 40 / llm_count, ttft_s=0.1 + 0.001 * (at % 9)) for at in range(llm_count)]
    clips = [stt(at * 40 / stt_count, 0.5 + 0.01 * (at % 7)) for at in range(stt_count)]
    return [*prompts, *clips]


def stored(measurement):
    """A measurement as it stands on a trial: JSON, without infinities."""
    attrs = TrialEvidence(measurement=measurement).to_attrs()
    return json.loads(json.dumps(attrs, allow_nan=False))["measurement"]


def test_a_calm_window_has_figures_and_no_doubts():
    seen = summarise(driven(window()))
    assert seen.doubts == ()
    assert seen.llm.ttft_s.p50 == pytest.approx(0.104)
    assert seen.llm.tpot_s.p50 == pytest.approx(0.05)
    assert seen.llm.e2e_s.p50 == pytest.approx(0.604)
    assert seen.llm.output_tokens_per_s == pytest.approx(80 * 11 / 40.103, rel=0.01)
    assert seen.stt.latency_s.mean == pytest.approx(0.53, abs=0.001)
    assert seen.stt.rtf.p50 == pytest.approx(0.53 / 5)
    assert seen.stt.infer_rtf.p50 == pytest.approx(0.08)
    assert seen.stt.audio_s_per_s == pytest.approx(80 * 5 / 40.02, rel=0.01)
    assert (seen.llm.requests, seen.llm.failed, seen.llm.saturated) == (80, 0, None)


def test_the_warm_up_is_in_no_figure():
    slow = [llm(float(at), ttft_s=30.0) for at in range(10)]
    assert summarise(driven(window(), warmup=slow)).llm == summarise(driven(window())).llm


def test_a_server_without_load_is_absent():
    only = summarise(driven(window(stt_count=0)))
    assert only.stt is None
    assert "stt" not in stored(only)
    assert set(only.legacy_ms("p50")) == {"llm_latency_ms"}


def test_failures_count_as_slowest_and_are_said():
    samples = window()
    samples[:8] = [broken(sample) for sample in samples[:8]]
    seen = summarise(driven(samples))
    assert (seen.llm.requests, seen.llm.failed, seen.llm.failed_by_kind) == (80, 8, {"timeout": 8})
    assert seen.llm.e2e_s.p50 is not None
    assert seen.llm.e2e_s.p95 is None, "one in ten never came: the 95th percentile is among them"
    assert any("8 of 80 requests failed" in doubt for doubt in seen.doubts)


def test_where_nothing_was_answered_there_is_no_latency_at_all():
    seen = summarise(driven([broken(sample, "oom") for sample in window()]))
    assert seen.stt.failed_by_kind == {"oom": 80}
    assert seen.legacy_ms("p50") == {}
    assert seen.legacy_intervals_ms("p50") == {}
    assert seen.llm.output_tokens_per_s is None
    assert "output_tokens_per_s" not in stored(seen)["llm"]


def test_legacy_names_and_milliseconds():
    seen = summarise(driven(window()))
    values = seen.legacy_ms("p50")
    assert values["llm_latency_ms"] == pytest.approx(604)
    assert values["stt_latency_ms"] == pytest.approx(530)
    low, high = seen.legacy_intervals_ms("p50")["stt_latency_ms"]
    assert 500 <= low <= 530 <= high <= 560


def test_the_legacys_latency_may_be_another_quantile():
    seen = summarise(driven(window()))
    p95_ms = seen.legacy_ms("p95")["stt_latency_ms"]
    assert p95_ms == pytest.approx(1000 * seen.stt.latency_s.p95)
    assert seen.legacy_intervals_ms("p95")["stt_latency_ms"][1] == pytest.approx(560)


def test_few_samples_never_turn_one_quantile_into_another():
    seen = summarise(driven(window(stt_count=20)))
    p95_s = seen.stt.latency_s.p95
    assert seen.legacy_ms("p95")["stt_latency_ms"] == 1000 * p95_s
    assert p95_s != seen.stt.latency_s.p50
    assert "stt_latency_ms" not in seen.legacy_intervals_ms("p95")
    assert any("p95 rests on 20 samples" in doubt for doubt in seen.doubts)
    assert summarise(driven(window(stt_count=20)), quantile="p50").doubts == ()


def test_every_kind_of_doubt_reaches_the_measurement():
    page = "vllm:num_requests_running 1\nvllm:num_requests_waiting 2\nvllm:num_preemptions_total "
    samples = [llm(at / 2, ttft_s=0.1 * at, tokens=9, lag_s=0.05) for at in range(80)]
    seen = summarise(
        driven(samples, pages=compare_pages([f"{page}0", f"{page}1"]), warmup=[broken(llm(0.0))]),
        device_doubts=["the clocks were throttled"],
    )
    said = " | ".join(seen.doubts)
    for word in (
        *("is saturated", "warm-up requests failed", "shorter than asked", "preempted 1 requests"),
        *("waited inside vLLM", "client sent late", "throttled"),
    ):
        assert word in said


def test_the_document_has_the_promised_shape_and_is_json():
    promised = capacity(
        LlmLoad(rate_rps=2, prompt_tokens=32, output_tokens=11, vocab_size=1000),
        kv_cache_tokens=4096,
    )
    document = stored(summarise(driven(window()), capacity=promised))
    summary = {"p50", "p95", "p99", "mean", "n", "p50_interval", "p95_interval"}
    for time in ("ttft_s", "tpot_s", "e2e_s"):
        assert summary <= set(document["llm"][time])
    assert {"output_tokens_per_s", "requests", "failed"} <= set(document["llm"])
    assert summary <= set(document["stt"]["latency_s"])
    assert {"rtf", "requests", "failed"} <= set(document["stt"])
    assert document["client"]["cpu_s"] == 0.5
    assert document["client"]["lag_s"]["p95"] == pytest.approx(0.001)
    assert document["capacity"]["requests"] == 85, "255 blocks of the 256, three a request"
    assert document["llm"]["e2e_s"]["p95_interval"][0] <= document["llm"]["e2e_s"]["p95"]


def test_the_same_samples_give_the_same_measurement():
    assert summarise(driven(window())) == summarise(driven(window()))


def test_two_runs_that_differ_by_noise_alone_are_not_told_apart():
    one = summarise(driven(window())).llm.e2e_s
    moved = [replace(s, done_s=s.done_s + 0.002 * (at % 3 - 1)) for at, s in enumerate(window())]
    other = summarise(driven(moved)).llm.e2e_s
    assert intervals_overlap(one.p50_interval, other.p50_interval)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 40), st.floats(1e-3, 30), st.booleans()), min_size=1, max_size=60
    )
)
def test_any_window_gives_a_document_without_infinities(requests):
    samples = [
        stt(due_s, latency_s) if answered else broken(stt(due_s))
        for due_s, latency_s, answered in sorted(requests)
    ]
    seen = summarise(driven(samples))
    assert stored(seen)["stt"]["requests"] == len(requests)
    assert seen.stt.requests == len(requests)
    assert seen.stt.failed == sum(not answered for _, _, answered in requests)
