"""Reasons, in words, not to trust a measurement: arithmetic on samples, no I/O.

A rule yields sentences; none where nothing speaks against the figures. The thresholds stand beside
the rules.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median

from objectives.load import LoadedServer, Sample
from objectives.measurement.capacity import Capacity
from objectives.measurement.quantiles import Summary, order_statistic_interval, samples_needed
from objectives.vllm import Pages

LAG_LIMIT_S = 0.010
"""A calm machine sends within 3 to 8 ms of the due time; beyond, the client is in the figures."""

DRIFT_LIMIT = 1.5
"""The last third's median over the first third's: beyond, the figures depend on how long one
measured."""

NAMES: dict[LoadedServer, str] = {"llm": "the language model", "stt": "speech-to-text"}


def few_samples(name: str, count: int, quantile: str) -> Iterator[str]:
    """The quantile that is asked for has no interval: it rests on too few samples."""
    needed = samples_needed(int(quantile.removeprefix("p")) / 100)
    if count < needed:
        yield f"{name}: {quantile} rests on {count} samples; an interval of it takes {needed}"


def failures(name: str, samples: Sequence[Sample]) -> Iterator[str]:
    """Requests without an answer, by kind, with the first message."""
    failed = [sample.failure for sample in samples if sample.failure is not None]
    kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(f.kind for f in failed).items())
    if failed:
        yield (
            f"{name}: {len(failed)} of {len(samples)} requests failed ({kinds}; first: "
            f"{failed[0].message}); quantiles count them as slowest, means are the survivors'"
        )


def warmup_failures(samples: Sequence[Sample]) -> Iterator[str]:
    """The warm-up did not warm up, or part of it may have run on into the window."""
    failed = [sample.failure for sample in samples if sample.failure is not None]
    if failed:
        said = failed[0].message
        yield f"{len(failed)} of {len(samples)} warm-up requests failed (first: {said})"


def client_lag(lag: Summary) -> Iterator[str]:
    """The client itself was late."""
    if lag.p95 is not None and lag.p95 > LAG_LIMIT_S:
        yield f"the client sent late: p95 {1000 * lag.p95:.0f} ms after due (limit 10 ms)"


def saturation(samples: Sequence[Sample], measure_s: float) -> str | None:
    """Why the server did not keep up, or None.

    Either the latency grows through the window, or the backlog does: requests due and not yet
    done, averaged over a third of the window. With the backlog of a steady queue, the last third
    has no more than the first, give or take a request.
    """
    if measure_s <= 0 or len(samples) < 3 * samples_needed(0.5):
        return None
    third_s = measure_s / 3
    before, after = backlog(samples, 0, third_s), backlog(samples, 2 * third_s, measure_s)
    if after > 2 * before + 1:
        return f"the backlog grew from {before:.1f} to {after:.1f} requests"
    first, last = _latencies_by_third(samples, measure_s)
    if _much_slower(last, first):
        return f"the median grew from {median(first):.3g} s to {median(last):.3g} s"
    return None


def still_warming(samples: Sequence[Sample], measure_s: float) -> Iterator[str]:
    """The first third was much slower than the last."""
    first, last = _latencies_by_third(samples, measure_s)
    if _much_slower(first, last):
        yield (
            f"{NAMES[samples[0].server]} was still warming up: median {median(first):.3g} s in the "
            f"first third, {median(last):.3g} s in the last"
        )


def backlog(samples: Sequence[Sample], start_s: float, end_s: float) -> float:
    """Requests due and not done, averaged over `start_s` .. `end_s`.

    It is the time that all of them spent inside, over its length. A request that was refused left
    early, nobody knows when, and is not counted.
    """
    inside = 0.0
    for sample in samples:
        if sample.failure is not None and sample.failure.kind not in ("timeout", "unfinished"):
            continue
        done_s = math.inf if sample.done_s is None else sample.done_s
        inside += max(0.0, min(done_s, end_s) - max(sample.due_s, start_s))
    return inside / (end_s - start_s)


def short_answers(samples: Sequence[Sample]) -> Iterator[str]:
    """Fewer tokens than asked, or no word of how many."""
    asked = [one for one in samples if one.answered and one.asked_tokens is not None]
    told = [one for one in asked if one.output_tokens is not None]
    if short := sum((one.output_tokens or 0) < (one.asked_tokens or 0) for one in told):
        yield f"{short} of {len(asked)} answers were shorter than asked: less work, not speed"
    if silent := len(asked) - len(told):
        yield f"{silent} of {len(asked)} answers did not say how many tokens they have"


def engine_pressure(pages: Pages | None) -> Iterator[str]:
    """What the engine's own page shows: preemptions, waiting, prompts answered from a cache."""
    if pages is None:
        return
    if pages.preemptions:
        yield f"vLLM preempted {int(pages.preemptions)} requests: its KV cache is too small"
    if pages.most_waiting:
        yield f"up to {int(pages.most_waiting)} requests waited inside vLLM"
    if pages.prefix_hit_tokens:
        yield f"{int(pages.prefix_hit_tokens)} prompt tokens came from vLLM's prefix cache"


def capacity_refuted(capacity: Capacity | None) -> Iterator[str]:
    """The load says that fewer requests fit than the engine's cache promises."""
    if capacity is not None and capacity.verdict == "refuted":
        yield f"a capacity of {capacity.requests} requests did not hold: {capacity.evidence}"


def _latencies_by_third(
    samples: Sequence[Sample], measure_s: float
) -> tuple[list[float], list[float]]:
    """Latencies of requests due in the window's first and in its last third, ascending."""
    first = [s.latency_s for s in samples if s.due_s < measure_s / 3 and s.latency_s is not None]
    last = [
        s.latency_s for s in samples if s.due_s >= 2 * measure_s / 3 and s.latency_s is not None
    ]
    return sorted(first), sorted(last)


def _much_slower(slow: Sequence[float], quick: Sequence[float]) -> bool:
    """Beyond `DRIFT_LIMIT`, and beyond chance: the intervals of the two medians share nothing."""
    between_slow = order_statistic_interval(slow, 0.5)
    between_quick = order_statistic_interval(quick, 0.5)
    if between_slow is None or between_quick is None:
        return False
    return median(slow) > DRIFT_LIMIT * median(quick) and between_slow[0] > between_quick[1]
