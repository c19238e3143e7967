"""From everything that a trial saw to its figures, or to the reason why it has none. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from objectives.candidate import Candidate
from objectives.constraints import FAILED_SHARE_ALLOWED
from objectives.errors import BenchError, InfeasibleError, ServingError, SloMissedError
from objectives.load import Driven, LoadedServer
from objectives.measurement import Capacity, Measurement, capacity, confirm, summarise
from objectives.telemetry import TelemetryRecord
from objectives.trial.bench import Bench
from objectives.trial.evidence import Conclusion, Started
from objectives.trial.prediction import CandidatePrediction
from objectives.vllm import StartupFacts

_BLOCK_TOKENS = 16
"""vLLM's default on GPUs, where neither its log nor its metrics say."""

_LATENCIES: Mapping[str, LoadedServer] = {"llm_latency_ms": "llm", "stt_latency_ms": "stt"}


def conclude(
    bench: Bench,
    driven: Driven,
    window: TelemetryRecord,
    *,
    candidate: Candidate,
    prediction: CandidatePrediction,
    started: Started,
) -> Conclusion:
    """Sum a trial up and hold it against its limits; `window` is the device under load."""
    llm, stt = bench.serving("llm"), bench.serving("stt")
    fits = None
    if llm is not None:
        fits = _capacity(bench, driven, started.facts.get(llm.name), prediction, llm.name)
    wer = None if stt is None else bench.wer.get(candidate[stt.name].model)
    measurement = summarise(
        driven, quantile=bench.quantile, capacity=fits, device_doubts=window.doubts()
    )
    figures = _figures(bench, measurement, window, wer)
    excess, failure = _limits(bench, figures)
    over, line = _unanswered(driven)
    absent = [o.name for o in bench.objectives if o.name not in figures]
    wanted = [*absent, *(limit.objective for limit in bench.limits)]
    if over > 0 or _hidden_by_failures(wanted, figures, measurement):
        figures, excess = {}, {}  # of the survivors
        lost = {"failed_share": over} if over > 0 else {}
        failure = InfeasibleError("requests_failed", line, excess=lost)
    elif failure is None and absent:
        failure = BenchError(f"{', '.join(absent)} could not be measured")
    return Conclusion(
        measurement=measurement,
        figures=figures,
        values={} if failure else {o.name: o.value(figures[o.name]) for o in bench.objectives},
        excess={**excess, "failed_share": over},
        failure=failure,
    )


def _capacity(
    bench: Bench,
    driven: Driven,
    started: StartupFacts | None,
    prediction: CandidatePrediction,
    name: str,
) -> Capacity | None:
    """Requests of the profile's size that fit at once, held against the load."""
    load, pages = bench.profile.llm, driven.pages
    tokens = None if started is None else started.kv_cache_tokens
    block = None if started is None else started.block_size
    if pages is not None:
        tokens, block = tokens or pages.kv_cache_tokens, pages.block_tokens or block
    if load is None or tokens is None:
        return None
    known = prediction.starts.get(name)
    promised = capacity(
        load,
        kv_cache_tokens=tokens,
        block_tokens=block or _BLOCK_TOKENS,
        max_num_seqs=prediction.forecasts[name].max_num_seqs,
        blocks=None
        if known is None
        else known.server.blocks_for(tokens, load.most_tokens_per_request),
    )
    return confirm(promised, pages)


def _unanswered(driven: Driven) -> tuple[float, str]:
    """The largest share of a server's requests without an answer, less what is allowed; in words.

    With too many of them the latencies are the survivors'.
    """
    worst, line = 0.0, ""
    for server in _LATENCIES.values():
        samples = driven.of(server)
        failed = [sample for sample in samples if not sample.answered]
        if samples and len(failed) / len(samples) > worst:
            worst = len(failed) / len(samples)
            first = failed[0].failure
            said = first.message if first is not None else "no answer"
            line = f"{len(failed)} of {len(samples)} requests to {server} failed, first: {said}"
    return worst - FAILED_SHARE_ALLOWED, line


def _hidden_by_failures(
    wanted: Sequence[str], figures: Mapping[str, float], measurement: Measurement
) -> bool:
    """Whether a latency is missing because its quantile lies among the requests that failed."""
    served = {"llm": measurement.llm, "stt": measurement.stt}
    return any(
        (part := served[server]) is not None and part.failed > 0
        for name, server in _LATENCIES.items()
        if name in wanted and name not in figures
    )


def _figures(
    bench: Bench, measurement: Measurement, window: TelemetryRecord, wer: float | None
) -> dict[str, float]:
    """Everything that can be an objective, in people's units; what was not measured is absent."""
    figures = measurement.legacy_ms(bench.quantile)
    if measurement.capacity is not None:
        figures["concurrent_capacity"] = float(measurement.capacity.requests)
    figures["gpu_utilization"] = round(window.gpu_utilization, 2)
    figures["free_memory_mb"] = round(window.free_memory_mb, 1)
    figures["oom_events"] = 0.0
    if wer is not None:
        figures["wer"] = wer
    return figures


def _limits(
    bench: Bench, figures: Mapping[str, float]
) -> tuple[dict[str, float], ServingError | None]:
    """Hard objectives of the service, each graded in its own unit; why they fail, if they do."""
    missed: list[str] = []
    excess: dict[str, float] = {}
    for limit in bench.limits:
        value = figures.get(limit.objective)
        if value is None:
            why = f"{limit.objective} has a hard limit and could not be measured"
            return excess, BenchError(why)
        excess[limit.constraint] = limit.excess(value)
        if excess[limit.constraint] > 0:
            bound = f"at most {limit.most}" if limit.most is not None else f"at least {limit.least}"
            missed.append(f"{limit.objective} is {value:.6g}, allowed is {bound}")
    if not missed:
        return excess, None
    return excess, SloMissedError(
        "slo_missed",
        "; ".join(missed),
        excess={name: over for name, over in excess.items() if over > 0},
    )
