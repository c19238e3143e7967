"""From everything that a trial saw to its figures, or to the reason why it has none."""

from dataclasses import replace

import pytest

from objectives.candidate import Candidate
from objectives.constraints import Limit
from objectives.errors import BenchError, InfeasibleError, SloMissedError
from objectives.kinds.forecast import Forecast
from objectives.load.profile import LlmLoad, LoadProfile, SttLoad
from objectives.load.samples import ClientCost, Driven, Failure, Sample
from objectives.telemetry.record import DeviceSample, TelemetryRecord
from objectives.trial import conclusion as module
from objectives.trial.bench import Objective
from objectives.trial.evidence import Started
from objectives.trial.prediction import CandidatePrediction
from objectives.units import GIB
from objectives.vllm.metrics import compare_pages
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
        client=ClientCost(wall_s=41.0, cpu_s=0.5, process_cpu_s=0.7, longest_check_s=0.002),
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


def started(**logged):
    return Started(facts={"vllm": StartupFacts(**logged)})


def prediction(max_num_seqs=None):
    forecasts = {"whisper": Forecast(), "vllm": Forecast(max_num_seqs=max_num_seqs)}
    return CandidatePrediction(forecasts=forecasts)


def candidate(bench):
    return Candidate(params={}, servers=bench.settings)


BENCH = bench_with()
CALM = (*window("llm", [0.75] * 80), *window("stt", [0.25] * 80))
LLM, STT = CALM[:80], CALM[80:]


def conclude(*samples, bench=BENCH, load_pages=None, **seen):
    """What a load comes to; a calm one of both servers unless the test says otherwise."""
    usual = {"candidate": candidate(bench), "prediction": prediction(), "started": Started()}
    return module.conclude(
        bench,
        driven(*(samples or CALM), pages=load_pages),
        seen.pop("telemetry", telemetry()),
        **{**usual, **seen},
    )


def test_a_trial_that_worked_has_every_figure_in_peoples_units():
    bench = bench_with(objectives=[Objective(name="concurrent_capacity")], wer={"tiny": 7.6})
    found = conclude(
        bench=bench,
        telemetry=telemetry(free_bytes=GIB + 12_345),
        started=started(kv_cache_tokens=336, block_size=16),
    )
    assert found.figures == {
        "stt_latency_ms": pytest.approx(250),
        "llm_latency_ms": pytest.approx(750),
        "concurrent_capacity": 10.0,
        "gpu_utilization": 66.67,
        "free_memory_mb": 1024.0,
        "oom_events": 0.0,
        "wer": 7.6,
    }
    assert found.values == {"concurrent_capacity": 10.0}
    assert found.failure is None
    assert found.excess == {"failed_share": pytest.approx(-0.05)}
    assert found.measurement.trace_sha256 == "ab" * 32


def test_what_was_not_measured_is_absent():
    found = conclude(*LLM)
    of_the_device = {"gpu_utilization", "free_memory_mb", "oom_events"}
    assert set(found.figures) == {"llm_latency_ms", *of_the_device}
    assert found.measurement.capacity is None
    assert found.measurement.stt is None


def test_the_same_trial_comes_to_the_same_conclusion():
    assert conclude() == conclude()


@pytest.mark.parametrize(("quantile", "llm_latency_ms"), [("p50", 500), ("p95", 2000)])
def test_latencies_are_of_the_benchs_quantile(quantile, llm_latency_ms):
    load = window("llm", ([0.5] * 9 + [2.0]) * 8)
    found = conclude(*load, bench=bench_with(quantile=quantile))
    assert found.figures["llm_latency_ms"] == pytest.approx(llm_latency_ms)


def test_the_published_word_error_rate_is_that_of_the_candidates_whisper():
    bench = bench_with(wer={"tiny": 7.6, "base": 5.0})

    def heard_by(model):
        whisper = replace(bench.settings["whisper"], model=model)
        servers = {**bench.settings, "whisper": whisper}
        return conclude(bench=bench, candidate=Candidate(params={}, servers=servers)).figures

    assert heard_by("base")["wer"] == 5.0
    assert "wer" not in heard_by("large-v9")


class TestServersOfTheBench:
    """Whatever they are called, and whoever of them is there."""

    def test_a_bench_without_whisper_has_no_word_error_rate(self):
        bench = bench_with(wer={"tiny": 7.6})
        alone = replace(bench, servers={"vllm": bench.servers["vllm"]})
        found = conclude(*LLM, bench=alone)
        assert found.figures["llm_latency_ms"] == pytest.approx(750)
        assert "wer" not in found.figures

    def test_a_bench_without_vllm_has_no_capacity(self):
        stt = [Objective(name="stt_latency_ms")]
        alone = replace(bench_with(objectives=stt), servers={"whisper": BENCH.servers["whisper"]})
        found = conclude(*STT, bench=alone, started=started(kv_cache_tokens=336))
        assert found.values == {"stt_latency_ms": pytest.approx(250)}
        assert found.measurement.capacity is None

    def test_a_servers_log_and_limit_are_found_by_the_name_that_it_has(self):
        talker = replace(BENCH.servers["vllm"], name="talker")
        bench = replace(BENCH, servers={"talker": talker})
        found = conclude(
            *LLM,
            bench=bench,
            started=Started(facts={"talker": StartupFacts(kv_cache_tokens=336)}),
            prediction=CandidatePrediction(forecasts={"talker": Forecast(max_num_seqs=3)}),
        )
        assert found.figures["concurrent_capacity"] == 3
        assert found.measurement.capacity.kv_cache_tokens == 336


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
        self, logged, labels, requests, block_tokens
    ):
        found = conclude(load_pages=pages(labels), started=started(**logged))
        assert found.figures["concurrent_capacity"] == requests
        assert found.measurement.capacity.block_tokens == block_tokens

    def test_the_pages_do_where_nobody_read_a_log(self):
        labels = 'kv_cache_size_tokens="672",block_size="32"'
        found = conclude(load_pages=pages(labels), started=Started())
        assert found.figures["concurrent_capacity"] == 20

    def test_nobody_who_says_a_size_is_no_capacity(self):
        for read in (pages(), None):
            found = conclude(load_pages=read, started=started(block_size=16))
            assert "concurrent_capacity" not in found.figures
            assert found.measurement.capacity is None

    def test_without_requests_to_the_llm_there_is_no_size_of_them(self):
        profile = LoadProfile(seed=1, stt=SttLoad(rate_rps=1))
        bench = bench_with(profile=profile, objectives=[Objective(name="stt_latency_ms")])
        found = conclude(*STT, bench=bench, started=started(kv_cache_tokens=336))
        assert "concurrent_capacity" not in found.figures
        assert found.failure is None

    def test_the_longest_request_of_the_benchs_profile_is_what_fits(self):
        llm = LlmLoad(rate_rps=1, prompt_tokens=(16, 96), output_tokens=32, vocab_size=1000)
        bench = bench_with(profile=LoadProfile(seed=1, llm=llm))
        found = conclude(bench=bench, started=started(kv_cache_tokens=336))
        assert found.figures["concurrent_capacity"] == 2

    def test_the_engine_runs_no_more_than_it_was_told_to(self):
        found = conclude(started=started(kv_cache_tokens=336), prediction=prediction(4))
        assert found.figures["concurrent_capacity"] == 4
        assert found.measurement.capacity.limited_by == "max_num_seqs"

    def test_a_promise_that_the_load_broke_is_a_doubt(self):
        found = conclude(load_pages=pages(preempted=2), started=started(kv_cache_tokens=336))
        assert found.figures["concurrent_capacity"] == 10
        assert found.measurement.capacity.verdict == "refuted"
        broken = [
            doubt
            for doubt in found.measurement.doubts
            if "a capacity of 10 requests did not hold" in doubt
        ]
        assert len(broken) == 1


class TestDoubts:
    def test_those_of_the_load_come_before_those_of_the_device(self):
        found = conclude(*window("llm", [0.75] * 20), telemetry=telemetry(oom_kills=1))
        assert found.measurement.doubts == (
            "the language model: p95 rests on 20 samples; an interval of it takes 72",
            "the kernel killed 1 processes for memory",
        )
        assert found.failure is None

    def test_a_sample_that_is_too_small_for_one_quantile_does_for_another(self):
        few = window("llm", [0.75] * 20)
        assert conclude(*few, bench=bench_with(quantile="p50")).measurement.doubts == ()

    def test_a_calm_trial_leaves_none(self):
        assert conclude().measurement.doubts == ()


class TestRequestsWithoutAnAnswer:
    def test_too_many_make_the_candidate_infeasible_by_their_share(self):
        lost = [unanswered("llm", "HTTP 500: first"), unanswered("llm", "HTTP 503: second")]
        found = conclude(*window("llm", [0.75] * 6), *lost, *STT)
        failure = found.failure
        assert isinstance(failure, InfeasibleError)
        assert failure.cause == "requests_failed"
        assert failure.evidence == "2 of 8 requests to llm failed, first: HTTP 500: first"
        assert failure.excess == {"failed_share": pytest.approx(0.20)}
        assert found.excess["failed_share"] == pytest.approx(0.20)
        assert failure.remedy
        assert not failure.predicted

    def test_they_are_counted_but_the_survivors_latencies_are_no_figures(self):
        found = conclude(*window("llm", [0.75] * 6), unanswered("llm", "HTTP 500"))
        assert found.measurement.llm.failed == 1
        assert found.figures == {}
        assert found.values == {}

    def test_they_say_more_than_a_limit_that_was_missed_or_could_not_be_held(self):
        for limit in (Limit(objective="llm_latency_ms", most=1), Limit(objective="wer", most=1)):
            bench = bench_with(limits=[limit], objectives=[Objective(name="concurrent_capacity")])
            found = conclude(*window("llm", [0.75] * 6), unanswered("llm", "HTTP 500"), bench=bench)
            assert found.failure.cause == "requests_failed"

    def test_no_limit_is_graded_by_the_survivors(self):
        bench = bench_with(limits=[Limit(objective="llm_latency_ms", most=500)], quantile="p50")
        load = [*window("llm", [0.75] * 6), unanswered("llm", "HTTP 500")]
        assert conclude(*load, bench=bench).excess == {"failed_share": pytest.approx(1 / 7 - 0.05)}

    def test_the_server_that_fails_most_is_named(self):
        llm = [*window("llm", [0.75] * 8), *[unanswered("llm", "HTTP 500")] * 2]
        stt = [*window("stt", [0.25] * 4), *[unanswered("stt", "HTTP 507")] * 2]
        for samples in ([*llm, *stt], [*stt, *llm]):
            failure = conclude(*samples).failure
            assert failure.evidence == "2 of 6 requests to stt failed, first: HTTP 507"
            assert failure.excess["failed_share"] == pytest.approx(1 / 3 - 0.05)

    def test_a_request_that_nobody_ended_has_no_answer_either(self):
        failure = conclude(*window("stt", [0.25] * 4), unanswered("stt")).failure
        assert failure.evidence == "1 of 5 requests to stt failed, first: no answer"

    @pytest.mark.parametrize(("failed", "excess"), [(0, -0.05), (1, 0.0)])
    def test_a_few_are_no_reason_to_refuse_the_candidate(self, failed, excess):
        lost = [unanswered("llm", "HTTP 500")] * failed
        load = [*window("llm", [0.75] * (20 - failed)), *lost]
        found = conclude(*load, bench=bench_with(quantile="p50"))
        assert found.failure is None
        assert found.figures["llm_latency_ms"] == pytest.approx(750)
        assert found.excess == {"failed_share": pytest.approx(excess)}


def lossy(server, latency_s):
    """20 requests of which one failed: as many as are allowed, and the p95 lies among them."""
    return [*window(server, [latency_s] * 19), unanswered(server, "HTTP 500")]


class TestALatencyThatLiesAmongTheFailed:
    """Just as many failed as are allowed, and still nobody knows the quantile."""

    def hidden(self, found, server):
        failure = found.failure
        assert isinstance(failure, InfeasibleError)
        assert failure.cause == "requests_failed"
        assert failure.evidence == f"1 of 20 requests to {server} failed, first: HTTP 500"
        assert failure.excess == {}
        assert found.excess == {"failed_share": 0}
        assert found.figures == {}
        assert found.values == {}
        return found.measurement

    def test_is_the_candidates_fault_where_an_objective_needs_it(self):
        kept = self.hidden(conclude(*lossy("llm", 0.75), *STT), "llm")
        assert (kept.llm.requests, kept.llm.failed) == (20, 1)
        assert kept.llm.e2e_s.p95 is None
        assert kept.llm.e2e_s.p50 == pytest.approx(0.75)
        assert kept.stt.latency_s.p95 == pytest.approx(0.25)

    def test_of_either_server(self):
        bench = bench_with(objectives=[Objective(name="stt_latency_ms")])
        kept = self.hidden(conclude(*LLM, *lossy("stt", 0.25), bench=bench), "stt")
        assert kept.stt.failed == 1

    def test_also_where_only_a_hard_limit_needs_it(self):
        bench = bench_with(limits=[Limit(objective="stt_latency_ms", most=1000)])
        kept = self.hidden(conclude(*LLM, *lossy("stt", 0.25), bench=bench), "stt")
        assert kept.llm.e2e_s.p95 == pytest.approx(0.75)

    def test_says_more_than_a_limit_that_was_missed(self):
        limits = [
            Limit(objective="free_memory_mb", least=4096),
            Limit(objective="llm_latency_ms", most=1000),
        ]
        self.hidden(conclude(*lossy("llm", 0.75), bench=bench_with(limits=limits)), "llm")

    def test_says_more_than_an_objective_that_nobody_measured(self):
        names = ("wer", "llm_latency_ms")
        bench = bench_with(objectives=[Objective(name=name) for name in names])
        self.hidden(conclude(*lossy("llm", 0.75), bench=bench), "llm")

    def test_does_not_matter_where_nobody_asks_for_it(self):
        found = conclude(*LLM, *lossy("stt", 0.25))
        assert found.failure is None
        assert found.values == {"llm_latency_ms": pytest.approx(750)}
        assert "stt_latency_ms" not in found.figures

    def test_is_there_with_one_request_more(self):
        found = conclude(*window("llm", [0.75] * 20), unanswered("llm", "HTTP 500"))
        assert found.failure is None
        assert found.values == {"llm_latency_ms": pytest.approx(750)}

    def test_of_a_server_without_load_is_the_benchs_fault_though_another_lost_one(self):
        bench = bench_with(objectives=[Objective(name="stt_latency_ms")], quantile="p50")
        failure = conclude(*lossy("llm", 0.75), bench=bench).failure
        assert isinstance(failure, BenchError)
        assert str(failure) == "stt_latency_ms could not be measured"

    def test_that_is_there_does_not_hide_what_else_is_missing(self):
        names = ("wer", "llm_latency_ms")
        bench = bench_with(objectives=[Objective(name=name) for name in names], quantile="p50")
        failure = conclude(*lossy("llm", 0.75), bench=bench).failure
        assert isinstance(failure, BenchError)
        assert str(failure) == "wer could not be measured"


class TestHardLimits:
    def test_a_missed_one_is_graded_in_its_own_unit_and_keeps_the_figures(self):
        bench = bench_with(
            limits=[
                Limit(objective="llm_latency_ms", most=500),
                Limit(objective="stt_latency_ms", most=400),
            ]
        )
        found = conclude(bench=bench)
        failure = found.failure
        assert isinstance(failure, SloMissedError)
        assert failure.cause == "slo_missed"
        assert failure.evidence == "llm_latency_ms is 750, allowed is at most 500"
        assert failure.excess == {"slo_llm_latency_ms": pytest.approx(250)}
        assert failure.remedy
        assert found.excess == {
            "failed_share": pytest.approx(-0.05),
            "slo_llm_latency_ms": pytest.approx(250),
            "slo_stt_latency_ms": pytest.approx(-150),
        }
        assert found.figures["llm_latency_ms"] == pytest.approx(750)
        assert found.values == {}

    def test_every_missed_one_is_said(self):
        bench = bench_with(
            limits=[
                Limit(objective="free_memory_mb", least=2048),
                Limit(objective="llm_latency_ms", most=700),
            ]
        )
        failure = conclude(bench=bench).failure
        assert failure.evidence == (
            "free_memory_mb is 1024, allowed is at least 2048; "
            "llm_latency_ms is 750, allowed is at most 700"
        )
        assert failure.excess == {
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
        found = conclude(bench=bench)
        assert found.failure is None
        assert found.values
        assert found.excess["slo_free_memory_mb"] == 0
        assert found.excess["slo_gpu_utilization"] == 0

    @pytest.mark.parametrize("most_ms", [500, 900])
    def test_one_whose_figure_is_missing_is_the_benchs_fault(self, most_ms):
        bench = bench_with(
            limits=[
                Limit(objective="llm_latency_ms", most=most_ms),
                Limit(objective="wer", most=9),
            ]
        )
        found = conclude(bench=bench)
        assert isinstance(found.failure, BenchError)
        assert str(found.failure) == "wer has a hard limit and could not be measured"
        assert found.values == {}

    def test_a_missed_one_says_more_than_an_objective_that_is_missing(self):
        bench = bench_with(
            objectives=[Objective(name="wer")],
            limits=[Limit(objective="llm_latency_ms", most=500)],
        )
        assert isinstance(conclude(bench=bench).failure, SloMissedError)


class TestObjectives:
    def test_one_that_nobody_measured_is_the_benchs_fault(self):
        names = ("concurrent_capacity", "llm_latency_ms", "wer")
        bench = bench_with(objectives=[Objective(name=name) for name in names])
        found = conclude(bench=bench)
        assert isinstance(found.failure, BenchError)
        assert str(found.failure) == "concurrent_capacity, wer could not be measured"
        assert "llm_latency_ms" in found.figures
        assert found.values == {}

    def test_a_neutral_one_is_the_distance_to_its_target(self):
        bench = bench_with(
            objectives=[
                Objective(name="gpu_utilization", target=70.0),
                Objective(name="llm_latency_ms"),
            ]
        )
        found = conclude(bench=bench)
        assert found.figures["gpu_utilization"] == 66.67
        assert list(found.values) == ["gpu_utilization", "llm_latency_ms"]
        assert found.values["gpu_utilization"] == pytest.approx(3.33)
        assert found.values["llm_latency_ms"] == found.figures["llm_latency_ms"]
