"""From what a trial saw to its figures, or to the reason why it has none."""

from contextlib import nullcontext
from dataclasses import replace

import pytest

from objectives.candidate import Candidate
from objectives.constraints import GIB, Limit
from objectives.device.xid import XidWatch
from objectives.errors import BenchError, InfeasibleError, OverBudgetError, SloMissedError
from objectives.load.profile import LlmLoad, LoadProfile, SttLoad
from objectives.load.samples import ClientCost, Driven, Failure, Sample
from objectives.memory.server_model import ServerModel
from objectives.telemetry.record import DeviceSample, TelemetryRecord
from objectives.trial.attribution import MachineWatch
from objectives.trial.bench import Objective
from objectives.trial.conclusion import conclude
from objectives.trial.evidence import Evidence
from objectives.trial.prediction import CandidatePrediction, PredictionInputs
from objectives.trial.tenants import Tenants
from objectives.vllm.metrics import compare_pages
from objectives.vllm.settings import VllmSettings
from objectives.vllm.startup_log import StartupFacts
from tests.objectives.trial.test_bench import bench_with

WINDOW_S = 40.0


def answered(server, latency_s, due_s=0.0):
    return Sample(
        server=server, phase="measure", due_s=due_s, sent_s=due_s, done_s=due_s + latency_s
    )


def unanswered(server, message=None):
    failure = None if message is None else Failure(kind="http", message=message)
    return Sample(server=server, phase="measure", due_s=0.0, sent_s=0.0, failure=failure)


def window(server, latencies_s):
    """Requests that are due evenly through the window."""
    step_s = WINDOW_S / len(latencies_s)
    return [answered(server, latency_s, at * step_s) for at, latency_s in enumerate(latencies_s)]


def driven(*samples, pages=None):
    return Driven(
        trace_sha256="ab" * 32,
        seed=5,
        measure_s=WINDOW_S,
        warmup=(),
        samples=samples,
        client=ClientCost(wall_s=41.0, thread_cpu_s=0.5, process_cpu_s=0.7, longest_check_s=0.002),
        spans=(),
        pages=pages,
    )


def pages(labels="", *, preempted=0):
    config = f"vllm:cache_config_info{{{labels}}} 1\n" if labels else ""
    counts = [f"vllm:num_preemptions_total {count}\n" for count in (0, preempted)]
    return compare_pages([f"{config}vllm:num_requests_running 1\n{count}" for count in counts])


def telemetry(free_bytes=GIB, **more):
    look = DeviceSample(time_s=0.0, total_bytes=3 * GIB, free_bytes=free_bytes)
    return TelemetryRecord(kind="cuda", interval_s=0.25, samples=(look,), **more)


def tenants(bench, tmp_path, **started):
    return Tenants(
        bench=bench,
        candidate=candidate(bench),
        folder=tmp_path,
        allowed_s=lambda most_s: most_s,
        step=lambda name: nullcontext(),
        machine=MachineWatch(bench.device, XidWatch(bench.device)),
        started=StartupFacts(**started),
    )


def prediction(bench, max_num_seqs):
    return CandidatePrediction(
        inputs=PredictionInputs.of(bench),
        server=ServerModel(
            shape=None,
            settings=VllmSettings(utilization=0.5, max_num_seqs=max_num_seqs),
            rules=None,
        ),
        vllm=None,
        whisper=None,
        whisper_key=None,
        excess={},
        total_bytes=GIB,
    )


def candidate(bench):
    return Candidate(params={}, vllm=bench.vllm, whisper=bench.whisper)


BENCH = bench_with()
CALM = (*window("llm", [0.75] * 80), *window("stt", [0.25] * 80))
LLM, STT = CALM[:80], CALM[80:]


def evidence(*samples, bench=BENCH, load_pages=None, **seen):
    return Evidence(
        candidate=candidate(bench), driven=driven(*(samples or CALM), pages=load_pages), **seen
    )


def in_budget():
    """The trial has time left."""


def test_a_trial_that_worked_has_every_figure_in_peoples_units(tmp_path):
    bench = bench_with(objectives=[Objective(name="concurrent_capacity")], wer={"tiny": 7.6})
    seen = evidence(
        telemetry=telemetry(free_bytes=GIB + 12_345),
        tenants=tenants(bench, tmp_path, kv_cache_tokens=336, block_size=16),
    )
    figures = conclude(bench, seen, in_budget)
    assert figures == {
        "stt_latency_ms": pytest.approx(250),
        "llm_latency_ms": pytest.approx(750),
        "concurrent_capacity": 10.0,
        "gpu_utilization": 66.67,
        "free_memory_mb": 1024.0,
        "oom_events": 0.0,
        "wer": 7.6,
    }
    assert seen.figures == figures
    assert seen.values == {"concurrent_capacity": 10.0}
    assert seen.measurement.capacity == seen.capacity


def test_what_was_not_measured_is_absent():
    seen = evidence(*LLM)
    assert set(conclude(BENCH, seen, in_budget)) == {"llm_latency_ms", "oom_events"}
    assert seen.capacity is None


@pytest.mark.parametrize(("quantile", "llm_latency_ms"), [("p50", 500), ("p95", 2000)])
def test_latencies_are_of_the_benchs_quantile(quantile, llm_latency_ms):
    seen = evidence(*window("llm", ([0.5] * 9 + [2.0]) * 8))
    figures = conclude(bench_with(quantile=quantile), seen, in_budget)
    assert figures["llm_latency_ms"] == pytest.approx(llm_latency_ms)


def test_the_published_word_error_rate_is_that_of_the_candidates_whisper():
    bench = bench_with(wer={"tiny": 7.6, "base": 5.0})
    larger = replace(bench.whisper, model="base")
    seen = replace(evidence(), candidate=replace(candidate(bench), whisper=larger))
    assert conclude(bench, seen, in_budget)["wer"] == 5.0
    unheard = replace(bench.whisper, model="large-v9")
    seen = replace(evidence(), candidate=replace(candidate(bench), whisper=unheard))
    assert "wer" not in conclude(bench, seen, in_budget)


class TestCapacity:
    """A request of the profile is of 32 tokens, and one block is the engine's own."""

    @pytest.mark.parametrize(
        ("logged", "labels", "requests", "block_tokens"),
        [
            ({"kv_cache_tokens": 336}, "", 10, 16),
            ({"kv_cache_tokens": 384, "block_size": 128}, "", 2, 128),
            ({}, 'kv_cache_size_tokens="672",block_size="32"', 20, 32),
            ({"block_size": 64}, 'kv_cache_size_tokens="640"', 9, 64),
            ({"kv_cache_tokens": 336}, 'kv_cache_size_tokens="9999"', 10, 16),
            (
                {"kv_cache_tokens": 384, "block_size": 16},
                'kv_cache_size_tokens="9999",block_size="128"',
                2,
                128,
            ),
        ],
        ids=[
            "log without blocks",
            "log",
            "pages",
            "tokens of the pages and blocks of the log",
            "the log's tokens stand before the pages'",
            "the pages' blocks stand before the log's",
        ],
    )
    def test_it_comes_from_the_log_or_else_from_the_pages(
        self, tmp_path, logged, labels, requests, block_tokens
    ):
        seen = evidence(load_pages=pages(labels), tenants=tenants(BENCH, tmp_path, **logged))
        assert conclude(BENCH, seen, in_budget)["concurrent_capacity"] == requests
        assert seen.capacity.block_tokens == block_tokens

    def test_the_pages_do_where_nobody_read_a_log(self, tmp_path):
        labels = 'kv_cache_size_tokens="672",block_size="32"'
        unread = replace(tenants(BENCH, tmp_path), started=None)
        for started in (None, unread):
            seen = evidence(load_pages=pages(labels), tenants=started)
            assert conclude(BENCH, seen, in_budget)["concurrent_capacity"] == 20

    def test_nobody_who_says_a_size_is_no_capacity(self, tmp_path):
        silent = evidence(load_pages=pages(), tenants=tenants(BENCH, tmp_path, block_size=16))
        assert "concurrent_capacity" not in conclude(BENCH, silent, in_budget)

    def test_without_requests_to_the_llm_there_is_no_size_of_them(self, tmp_path):
        profile = LoadProfile(seed=1, stt=SttLoad(rate_rps=1))
        bench = bench_with(profile=profile, objectives=[Objective(name="stt_latency_ms")])
        seen = evidence(*STT, tenants=tenants(bench, tmp_path, kv_cache_tokens=336))
        assert "concurrent_capacity" not in conclude(bench, seen, in_budget)

    def test_the_longest_request_of_the_benchs_profile_is_what_fits(self, tmp_path):
        llm = LlmLoad(rate_rps=1, prompt_tokens=(16, 96), output_tokens=32, vocab_size=1000)
        bench = bench_with(profile=LoadProfile(seed=1, llm=llm))
        seen = evidence(tenants=tenants(bench, tmp_path, kv_cache_tokens=336))
        assert conclude(bench, seen, in_budget)["concurrent_capacity"] == 2

    def test_the_engine_runs_no_more_than_it_was_told_to(self, tmp_path):
        seen = evidence(
            tenants=tenants(BENCH, tmp_path, kv_cache_tokens=336),
            prediction=prediction(BENCH, max_num_seqs=4),
        )
        assert conclude(BENCH, seen, in_budget)["concurrent_capacity"] == 4
        assert seen.capacity.limited_by == "max_num_seqs"

    def test_a_promise_that_the_load_broke_is_a_doubt(self, tmp_path):
        seen = evidence(
            load_pages=pages(preempted=2), tenants=tenants(BENCH, tmp_path, kv_cache_tokens=336)
        )
        assert conclude(BENCH, seen, in_budget)["concurrent_capacity"] == 10
        assert seen.capacity.verdict == "refuted"
        assert any("a capacity of 10 requests did not hold" in doubt for doubt in seen.doubts)


def test_doubts_of_the_load_and_of_the_device_join_those_that_were_there():
    seen = evidence(
        *window("llm", [0.75] * 20), telemetry=telemetry(oom_kills=1), doubts=["it began late"]
    )
    conclude(BENCH, seen, in_budget)
    assert seen.doubts == [
        "it began late",
        "the language model: p95 rests on 20 samples; an interval of it takes 72",
        "the kernel killed 1 processes for memory",
    ]


def test_a_sample_that_is_too_small_for_one_quantile_does_for_another():
    seen = evidence(*window("llm", [0.75] * 20))
    conclude(bench_with(quantile="p50"), seen, in_budget)
    assert seen.doubts == []


def test_a_calm_trial_leaves_no_doubt():
    seen = evidence(telemetry=telemetry())
    conclude(BENCH, seen, in_budget)
    assert seen.doubts == []


class TestRequestsWithoutAnAnswer:
    def test_too_many_make_the_candidate_infeasible_by_their_share(self):
        lost = [unanswered("llm", "HTTP 500: first"), unanswered("llm", "HTTP 503: second")]
        seen = evidence(*window("llm", [0.75] * 6), *lost, *STT)
        with pytest.raises(InfeasibleError) as caught:
            conclude(BENCH, seen, in_budget)
        assert caught.value.cause == "requests_failed"
        assert caught.value.evidence == ("2 of 8 requests to llm failed, first: HTTP 500: first")
        assert caught.value.excess == {"failed_share": pytest.approx(0.20)}
        assert seen.excess["failed_share"] == pytest.approx(0.20)
        assert caught.value.remedy

    def test_they_are_counted_but_the_survivors_latencies_are_no_figures(self):
        seen = evidence(*window("llm", [0.75] * 6), unanswered("llm", "HTTP 500"))
        with pytest.raises(InfeasibleError):
            conclude(BENCH, seen, in_budget)
        assert seen.measurement.llm.failed == 1
        assert seen.figures == {}
        assert seen.values == {}

    def test_the_server_that_fails_most_is_named(self):
        llm = [*window("llm", [0.75] * 8), *[unanswered("llm", "HTTP 500")] * 2]
        stt = [*window("stt", [0.25] * 4), *[unanswered("stt", "HTTP 507")] * 2]
        for samples in ([*llm, *stt], [*stt, *llm]):
            with pytest.raises(InfeasibleError) as caught:
                conclude(BENCH, evidence(*samples), in_budget)
            assert caught.value.evidence == "2 of 6 requests to stt failed, first: HTTP 507"
            assert caught.value.excess["failed_share"] == pytest.approx(1 / 3 - 0.05)

    def test_a_request_that_nobody_ended_has_no_answer_either(self):
        seen = evidence(*window("stt", [0.25] * 4), unanswered("stt"))
        with pytest.raises(InfeasibleError, match=r"1 of 5 .* to stt failed, first: no answer"):
            conclude(BENCH, seen, in_budget)

    @pytest.mark.parametrize(("failed", "excess"), [(0, -0.05), (1, 0.0)])
    def test_a_few_are_no_reason_to_refuse_the_candidate(self, failed, excess):
        lost = [unanswered("llm", "HTTP 500")] * failed
        seen = evidence(*window("llm", [0.75] * (20 - failed)), *lost)
        assert "llm_latency_ms" in conclude(bench_with(quantile="p50"), seen, in_budget)
        assert seen.excess == {"failed_share": pytest.approx(excess)}


class TestHardLimits:
    def test_a_missed_one_is_graded_in_its_own_unit_and_keeps_the_figures(self):
        bench = bench_with(
            limits=[
                Limit(objective="llm_latency_ms", most=500),
                Limit(objective="stt_latency_ms", most=400),
            ]
        )
        seen = evidence()
        with pytest.raises(SloMissedError) as caught:
            conclude(bench, seen, in_budget)
        assert caught.value.cause == "slo_missed"
        assert caught.value.evidence == "llm_latency_ms is 750, allowed is at most 500"
        assert caught.value.excess == {"slo_llm_latency_ms": pytest.approx(250)}
        assert seen.excess == {
            "failed_share": pytest.approx(-0.05),
            "slo_llm_latency_ms": pytest.approx(250),
            "slo_stt_latency_ms": pytest.approx(-150),
        }
        assert seen.figures["llm_latency_ms"] == pytest.approx(750)
        assert seen.values == {}

    def test_every_missed_one_is_said(self):
        bench = bench_with(
            limits=[
                Limit(objective="free_memory_mb", least=2048),
                Limit(objective="llm_latency_ms", most=700),
            ]
        )
        with pytest.raises(SloMissedError) as caught:
            conclude(bench, evidence(telemetry=telemetry()), in_budget)
        assert caught.value.evidence == (
            "free_memory_mb is 1024, allowed is at least 2048; "
            "llm_latency_ms is 750, allowed is at most 700"
        )
        assert caught.value.excess == {
            "slo_free_memory_mb": pytest.approx(1024),
            "slo_llm_latency_ms": pytest.approx(50),
        }

    def test_one_that_is_just_met_is_met(self):
        bench = bench_with(
            limits=[
                Limit(objective="free_memory_mb", least=1024),
                Limit(objective="gpu_utilization", most=66.67),
            ]
        )
        seen = evidence(telemetry=telemetry())
        assert conclude(bench, seen, in_budget)
        assert seen.excess["slo_free_memory_mb"] == 0
        assert seen.excess["slo_gpu_utilization"] == 0

    @pytest.mark.parametrize("most_ms", [500, 900])
    def test_one_whose_figure_is_missing_is_the_benchs_fault(self, most_ms):
        bench = bench_with(
            limits=[
                Limit(objective="llm_latency_ms", most=most_ms),
                Limit(objective="gpu_utilization", most=90),
            ]
        )
        with pytest.raises(BenchError, match="gpu_utilization has a hard limit and could not be"):
            conclude(bench, evidence(), in_budget)


class TestObjectives:
    def test_one_that_nobody_measured_is_the_benchs_fault(self):
        names = ("concurrent_capacity", "llm_latency_ms", "wer")
        bench = bench_with(objectives=[Objective(name=name) for name in names])
        seen = evidence()
        with pytest.raises(BenchError) as caught:
            conclude(bench, seen, in_budget)
        assert str(caught.value) == "concurrent_capacity, wer could not be measured"
        assert "llm_latency_ms" in seen.figures
        assert seen.values == {}

    def test_a_neutral_one_is_the_distance_to_its_target(self):
        bench = bench_with(
            objectives=[
                Objective(name="gpu_utilization", target=70.0),
                Objective(name="llm_latency_ms"),
            ]
        )
        seen = evidence(telemetry=telemetry())
        figures = conclude(bench, seen, in_budget)
        assert figures["gpu_utilization"] == 66.67
        assert list(seen.values) == ["gpu_utilization", "llm_latency_ms"]
        assert seen.values["gpu_utilization"] == pytest.approx(3.33)
        assert seen.values["llm_latency_ms"] == figures["llm_latency_ms"]


class TestTheTimeBudget:
    def ran_too_long(self):
        raise OverBudgetError("over_time_budget", "61 s of 60 s were used")

    def test_a_trial_that_ran_too_long_keeps_its_figures_and_has_no_values(self):
        seen = evidence()
        with pytest.raises(OverBudgetError):
            conclude(BENCH, seen, self.ran_too_long)
        assert seen.figures["llm_latency_ms"] == pytest.approx(750)
        assert seen.values == {}

    def test_a_missed_limit_says_more_than_the_time(self):
        bench = bench_with(limits=[Limit(objective="llm_latency_ms", most=500)])
        with pytest.raises(SloMissedError):
            conclude(bench, evidence(), self.ran_too_long)

    def test_the_time_says_more_than_an_objective_that_is_missing(self):
        bench = bench_with(objectives=[Objective(name="wer")])
        with pytest.raises(OverBudgetError):
            conclude(bench, evidence(), self.ran_too_long)
