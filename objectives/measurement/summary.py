"""What one trial measured: samples in, figures with intervals and doubts out. No I/O.

Nothing here is a fact of its own: whatever a `Measurement` says can be derived again from the
samples. What was not measured is absent.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from objectives.load import ClientCost, Driven, LoadedServer, Sample
from objectives.measurement import doubts
from objectives.measurement.capacity import Capacity
from objectives.measurement.quantiles import Interval, Summary, summarise_values

Quantile = Literal["p50", "p95"]

BLOCK_S = (5.0, 10.0)
"""Shortest and longest run of the block bootstrap: longer than a queue's memory, and short enough
for several runs in a window."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """How one server dealt with its requests of the window.

    Attributes:
        requests: How many were due.
        failed: How many got no answer.
        failed_by_kind: The same by `FailureKind`; "oom" is the server's own word.
        saturated: Why the server did not keep up; None if it did. Latencies of a saturated server
            depend on how long one measured.
    """

    requests: int
    failed: int
    failed_by_kind: Mapping[str, int] = field(default_factory=dict)
    saturated: str | None = None


@dataclass(frozen=True, kw_only=True)
class LlmMeasurement(Served):
    """The language model under the load.

    Attributes:
        ttft_s: Time to first token.
        tpot_s: Time per output token after the first.
        e2e_s: Whole request.
        output_tokens_per_s: Tokens of answered requests, over the time until the last was done.
    """

    ttft_s: Summary
    tpot_s: Summary
    e2e_s: Summary
    output_tokens_per_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class SttMeasurement(Served):
    """Speech-to-text under the load.

    Attributes:
        latency_s: Whole request.
        rtf: Latency over the length of the sound.
        infer_rtf: Computation alone over the length of the sound; None if the server is silent.
        audio_s_per_s: Seconds of sound transcribed per second.
    """

    latency_s: Summary
    rtf: Summary
    infer_rtf: Summary | None = None
    audio_s_per_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class ClientFigures(ClientCost):
    """The load generator: how late it sent, from when a request was due, and what it cost."""

    lag_s: Summary


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one trial measured, as it is kept.

    Attributes:
        llm: The language model; None if it got no load.
        stt: Speech-to-text; None if it got no load.
        client: The load generator.
        capacity: Requests that the engine holds at once; None if that is not known.
        engine: Figures of vLLM's own metrics page; empty if it was not read.
        doubts: Why not to trust all this, in words; empty if nothing speaks against it.
        trace_sha256: Under which load.
    """

    client: ClientFigures
    trace_sha256: str = ""
    llm: LlmMeasurement | None = None
    stt: SttMeasurement | None = None
    capacity: Capacity | None = None
    engine: Mapping[str, float] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()

    def legacy_ms(self, quantile: Quantile) -> dict[str, float]:
        """The latencies that an objective takes, as the legacy names them; absent if not measured.

        Never another quantile than the one asked for: with fewer requests than it takes it is still
        a figure, and a doubt says what it is.
        """
        values = {name: times.of(quantile) for name, times in self._latencies().items()}
        return {name: 1000 * value for name, value in values.items() if value is not None}

    def legacy_intervals_ms(self, quantile: Quantile) -> dict[str, Interval]:
        """Where they lie; absent if there are too few samples to say."""
        between = {name: times.interval_of(quantile) for name, times in self._latencies().items()}
        return {name: (1000 * its[0], 1000 * its[1]) for name, its in between.items() if its}

    def _latencies(self) -> dict[str, Summary]:
        stt = {} if self.stt is None else {"stt_latency_ms": self.stt.latency_s}
        return stt if self.llm is None else {**stt, "llm_latency_ms": self.llm.e2e_s}


def summarise(
    driven: Driven,
    *,
    quantile: Quantile = "p95",
    capacity: Capacity | None = None,
    device_doubts: Sequence[str] = (),
) -> Measurement:
    """The evidence of one trial.

    Args:
        driven: All that was seen.
        quantile: The quantile that will be relied on: too few samples for it are a doubt.
        capacity: What the engine holds, already confirmed or refuted by the load.
        device_doubts: What the device's telemetry has to say: clocks, throttling, strangers.
    """
    llm, stt = _llm(driven), _stt(driven)
    lag_s = _summary(
        driven, [sample.lag_s for sample in driven.samples if sample.lag_s is not None]
    )
    found = [
        *([] if llm is None else _doubts("llm", driven, llm, quantile)),
        *([] if stt is None else _doubts("stt", driven, stt, quantile)),
        *doubts.warmup_failures(driven.warmup),
        *doubts.short_answers(driven.of("llm")),
        *doubts.engine_pressure(driven.pages),
        *doubts.capacity_refuted(capacity),
        *doubts.client_lag(lag_s),
        *device_doubts,
    ]
    return Measurement(
        llm=llm,
        stt=stt,
        client=ClientFigures(lag_s=lag_s, **vars(driven.client)),
        capacity=capacity,
        engine={} if driven.pages is None else driven.pages.to_dict(),
        doubts=tuple(found),
        trace_sha256=driven.trace_sha256,
    )


def _llm(driven: Driven) -> LlmMeasurement | None:
    samples = driven.of("llm")
    if not samples:
        return None
    tokens = [
        one.output_tokens for one in samples if one.answered and one.output_tokens is not None
    ]
    return LlmMeasurement(
        **vars(_served(driven, samples)),
        ttft_s=_times(driven, samples, lambda one: one.ttft_s),
        tpot_s=_times(driven, samples, lambda one: one.tpot_s),
        e2e_s=_times(driven, samples, lambda one: one.latency_s),
        output_tokens_per_s=sum(tokens) / _span_s(driven) if tokens else None,
    )


def _stt(driven: Driven) -> SttMeasurement | None:
    samples = driven.of("stt")
    if not samples:
        return None
    heard_s = [one.audio_s for one in samples if one.answered and one.audio_s is not None]
    infer_rtf = _times(driven, samples, lambda one: one.infer_rtf)
    return SttMeasurement(
        **vars(_served(driven, samples)),
        latency_s=_times(driven, samples, lambda one: one.latency_s),
        rtf=_times(driven, samples, lambda one: one.rtf),
        infer_rtf=infer_rtf if infer_rtf.n else None,
        audio_s_per_s=math.fsum(heard_s) / _span_s(driven) if heard_s else None,
    )


def _served(driven: Driven, samples: Sequence[Sample]) -> Served:
    kinds = Counter[str](one.failure.kind for one in samples if one.failure is not None)
    return Served(
        requests=len(samples),
        failed=kinds.total(),
        failed_by_kind=dict(kinds),
        saturated=doubts.saturation(samples, driven.measure_s),
    )


def _times(
    driven: Driven, samples: Sequence[Sample], time: Callable[[Sample], float | None]
) -> Summary:
    """Summary of one kind of time; an answered request that has none of it is left out."""
    values = [(one.answered, time(one) if one.answered else None) for one in samples]
    return _summary(driven, [v for answered, v in values if v is not None or not answered])


def _summary(driven: Driven, values: Sequence[float | None]) -> Summary:
    return summarise_values(values, block=_block(len(values), driven.measure_s), seed=driven.seed)


def _block(count: int, measure_s: float) -> int:
    """Samples in a run of the bootstrap: an eighth of the window, within `BLOCK_S`."""
    if measure_s <= 0:
        return max(1, count)
    block_s = min(max(measure_s / 8, BLOCK_S[0]), BLOCK_S[1])
    return max(1, round(count * block_s / measure_s))


def _span_s(driven: Driven) -> float:
    """Seconds over which the window's work was done: until its end, or its last answer."""
    done_s = (sample.done_s for sample in driven.samples if sample.done_s is not None)
    return max([driven.measure_s, *done_s])


def _doubts(server: LoadedServer, driven: Driven, served: Served, quantile: str) -> Iterator[str]:
    name, samples = doubts.NAMES[server], driven.of(server)
    yield from doubts.few_samples(name, served.requests, quantile)
    yield from doubts.failures(name, samples)
    yield from doubts.still_warming(samples, driven.measure_s)
    if served.saturated is not None:
        yield f"{name} is saturated: {served.saturated}"
