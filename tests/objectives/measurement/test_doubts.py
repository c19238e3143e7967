"""Reasons not to trust a measurement, each tested from both sides."""

import pytest

from objectives.load.profile import LlmLoad
from objectives.load.samples import Failure, Sample
from objectives.measurement import doubts
from objectives.measurement.capacity import capacity, confirm
from objectives.measurement.quantiles import summarise_values
from objectives.vllm.metrics import compare_pages


def served(latencies_s, measure_s=30.0, server="llm", **more):
    """One sample per latency, evenly due through the window."""
    step_s = measure_s / len(latencies_s)
    return [
        Sample(
            server=server,
            phase="measure",
            due_s=at * step_s,
            sent_s=at * step_s,
            done_s=at * step_s + latency_s,
            **more,
        )
        for at, latency_s in enumerate(latencies_s)
    ]


def failed(kind="timeout", message="late", due_s=0.0):
    return Sample(
        server="stt", phase="measure", due_s=due_s, failure=Failure(kind=kind, message=message)
    )


def test_too_few_samples_for_the_quantile_that_is_asked_for():
    assert [*doubts.few_samples("x", 71, "p95")] == [
        "x: p95 rests on 71 samples; an interval of it takes 72"
    ]
    assert [*doubts.few_samples("x", 72, "p95")] == []
    assert [*doubts.few_samples("x", 6, "p50")] == []
    assert [*doubts.few_samples("x", 5, "p50")]


def test_failures_are_counted_by_kind_with_the_first_message():
    samples = [*served([1.0] * 3, server="stt"), failed("oom", "no room"), failed(), failed()]
    (doubt,) = doubts.failures("x", samples)
    assert "3 of 6 requests failed (oom 1, timeout 2; first: no room)" in doubt
    assert [*doubts.failures("x", served([1.0]))] == []


def test_a_client_that_sends_late_is_in_the_figures_itself():
    def lag(values):
        return [*doubts.client_lag(summarise_values(values, block=5, seed=0))]

    assert lag([0.003] * 100) == []
    assert lag([0.003] * 90 + [0.04] * 10) == [
        "the client sent late: p95 40 ms after due (limit 10 ms)"
    ]
    assert lag([]) == []


class TestSaturation:
    def test_a_steady_server_is_not_saturated(self):
        assert doubts.saturation(served([0.2, 0.3] * 20), 30.0) is None

    def test_latency_that_grows_through_the_window_is(self):
        growing = [0.1 + 0.01 * at for at in range(60)]
        assert "the median grew" in doubts.saturation(served(growing), 30.0)

    def test_a_backlog_that_grows_is_even_if_nothing_of_it_was_answered(self):
        stuck = [failed("unfinished", due_s=float(at)) for at in range(30)]
        assert "the backlog grew" in doubts.saturation(stuck, 30.0)

    def test_slow_but_steady_is_not(self):
        """Two requests a second of five seconds each: ten inside, from early on until the end."""
        before = served([5.0] * 100, measure_s=50.0)
        assert doubts.saturation(before, 50.0) is None

    def test_a_median_that_chance_alone_may_have_moved_is_not(self):
        scattered = (
            [0.1, 0.9, 0.2, 1.5, 0.3, 1.1, 0.4] + [0.5] * 7 + [0.2, 0.9, 1.2, 0.8, 1.6, 0.3, 0.9]
        )
        assert doubts.saturation(served(scattered), 30.0) is None

    def test_too_few_requests_say_nothing(self):
        assert doubts.saturation(served([0.1, 0.1, 9.0]), 30.0) is None

    def test_a_burst_has_no_window(self):
        assert doubts.saturation(served([1.0] * 30), 0.0) is None


def test_the_backlog_is_littles_law():
    """Two requests a second, each three seconds inside: six at any time."""
    steady = served([3.0] * 80, measure_s=40.0)
    assert doubts.backlog(steady, 10.0, 30.0) == pytest.approx(6.0)


def test_a_refused_request_is_no_backlog():
    assert doubts.backlog([failed("http", due_s=1.0)], 0.0, 10.0) == 0.0


def test_a_window_that_starts_slow_was_not_warmed_up():
    slow_start = [1.0] * 10 + [0.2] * 20
    (doubt,) = doubts.still_warming(served(slow_start), 30.0)
    assert "still warming up" in doubt
    assert [*doubts.still_warming(served([0.2] * 30), 30.0)] == []
    assert [*doubts.still_warming([], 30.0)] == []


def test_a_warm_up_that_failed_is_said():
    assert [*doubts.warmup_failures(served([1.0]))] == []
    assert "1 of 2 warm-up requests failed" in next(
        doubts.warmup_failures([*served([1.0]), failed()])
    )


def test_less_work_is_not_speed():
    full = served([1.0] * 2, asked_tokens=8, output_tokens=8)
    short = served([1.0], asked_tokens=8, output_tokens=5)
    silent = served([1.0], asked_tokens=8)
    assert [*doubts.short_answers(full)] == []
    assert "1 of 3 answers were shorter" in next(doubts.short_answers([*full, *short]))
    assert "1 of 3 answers did not say" in next(doubts.short_answers([*full, *silent]))


def page(preemptions=0, waiting=0, hits=0):
    return (
        f"vllm:num_requests_running 1\nvllm:num_requests_waiting {waiting}\n"
        f"vllm:num_preemptions_total {preemptions}\nvllm:prefix_cache_hits_total {hits}\n"
    )


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (page(preemptions=2), "preempted 2 requests"),
        (page(waiting=3), "up to 3 requests waited"),
        (page(hits=128), "128 prompt tokens came from vLLM's prefix cache"),
    ],
)
def test_the_engines_own_page_speaks(last, said):
    (doubt,) = doubts.engine_pressure(compare_pages([page(), last]))
    assert said in doubt


def test_a_quiet_engine_or_no_page_raises_no_doubt():
    assert [*doubts.engine_pressure(compare_pages([page(), page()]))] == []
    assert [*doubts.engine_pressure(None)] == []


def test_a_capacity_that_did_not_hold_is_a_doubt():
    load = LlmLoad(rate_rps=1, prompt_tokens=16, output_tokens=16, vocab_size=1000)
    promised = capacity(load, kv_cache_tokens=336)
    broken = confirm(promised, compare_pages([page(), page(preemptions=1)]))
    assert "a capacity of 10 requests did not hold" in next(doubts.capacity_refuted(broken))
    assert [*doubts.capacity_refuted(promised)] == []
    assert [*doubts.capacity_refuted(None)] == []
