"""From everything that a trial saw to its figures, or to the reason why it has none."""

from __future__ import annotations

from collections.abc import Callable

from objectives.constraints import FAILED_SHARE_ALLOWED
from objectives.errors import BenchError, InfeasibleError, SloMissedError
from objectives.load import LoadedServer
from objectives.measurement import Capacity, capacity, confirm, summarise
from objectives.trial.bench import Bench
from objectives.trial.evidence import Evidence

_SERVERS: tuple[LoadedServer, ...] = ("llm", "stt")
_BLOCK_TOKENS = 16
"""vLLM's default on GPUs, where neither its log nor its metrics say."""


def conclude(
    bench: Bench, evidence: Evidence, check_budget: Callable[[], None]
) -> dict[str, float]:
    """Sum a trial up and hold it against its limits.

    Args:
        bench: What stays the same from trial to trial.
        evidence: What the trial has so far; its capacity, measurement, figures, values, excess
            and doubts are filled in.
        check_budget: Raises when the trial ran too long.

    Returns:
        Every figure that can be an objective, in people's units; what was not measured is absent.

    Raises:
        InfeasibleError: Too many requests failed, or a hard objective of the service was missed.
        BenchError: An objective could not be measured.
    """
    assert evidence.driven is not None
    evidence.capacity = _capacity(bench, evidence)
    telemetry = evidence.telemetry
    evidence.measurement = summarise(
        evidence.driven,
        quantile=bench.quantile,
        capacity=evidence.capacity,
        device_doubts=() if telemetry is None else telemetry.doubts(),
    )
    evidence.doubts += evidence.measurement.doubts
    _check_answers(evidence)
    evidence.figures = _figures(bench, evidence)
    _check_limits(bench, evidence)
    check_budget()
    absent = [o.name for o in bench.objectives if o.name not in evidence.figures]
    if absent:
        raise BenchError(f"{', '.join(absent)} could not be measured")
    evidence.values = {o.name: o.value(evidence.figures[o.name]) for o in bench.objectives}
    return evidence.figures


def _capacity(bench: Bench, evidence: Evidence) -> Capacity | None:
    """Requests of the profile's size that fit at once, held against the load."""
    load = bench.profile.llm
    started = None if evidence.tenants is None else evidence.tenants.started
    pages = None if evidence.driven is None else evidence.driven.pages
    tokens = None if started is None else started.kv_cache_tokens
    block = None if started is None else started.block_size
    if pages is not None:
        tokens, block = tokens or pages.kv_cache_tokens, pages.block_tokens or block
    if load is None or tokens is None:
        return None
    promised = capacity(
        load,
        kv_cache_tokens=tokens,
        block_tokens=block or _BLOCK_TOKENS,
        max_num_seqs=None if evidence.prediction is None else evidence.prediction.max_num_seqs,
    )
    return confirm(promised, pages)


def _check_answers(evidence: Evidence) -> None:
    """Too many requests without an answer: the latencies are the survivors'."""
    assert evidence.driven is not None
    worst, line = 0.0, ""
    for server in _SERVERS:
        samples = evidence.driven.of(server)
        failed = [sample for sample in samples if not sample.answered]
        if samples and len(failed) / len(samples) > worst:
            worst = len(failed) / len(samples)
            first = failed[0].failure
            said = first.message if first is not None else "no answer"
            line = f"{len(failed)} of {len(samples)} requests to {server} failed, first: {said}"
    over = worst - FAILED_SHARE_ALLOWED
    evidence.excess["failed_share"] = over
    if over > 0:
        raise InfeasibleError(
            "requests_failed",
            line,
            excess={"failed_share": over},
        )


def _figures(bench: Bench, evidence: Evidence) -> dict[str, float]:
    assert evidence.measurement is not None and evidence.candidate is not None
    figures = dict(evidence.measurement.legacy(bench.quantile).values)
    if evidence.capacity is not None:
        figures["concurrent_capacity"] = float(evidence.capacity.requests)
    if evidence.telemetry is not None:
        figures["gpu_utilization"] = round(evidence.telemetry.gpu_utilization, 2)
        figures["free_memory_mb"] = round(evidence.telemetry.free_memory_mb, 1)
    figures["oom_events"] = 0.0
    published = bench.wer.get(evidence.candidate.whisper.model)
    if published is not None:
        figures["wer"] = published
    return figures


def _check_limits(bench: Bench, evidence: Evidence) -> None:
    """Hard objectives of the service, each graded in its own unit."""
    missed: list[str] = []
    excess: dict[str, float] = {}
    for limit in bench.limits:
        value = evidence.figures.get(limit.objective)
        if value is None:
            raise BenchError(f"{limit.objective} has a hard limit and could not be measured")
        excess[limit.constraint] = limit.excess(value)
        if excess[limit.constraint] > 0:
            bound = f"at most {limit.most}" if limit.most is not None else f"at least {limit.least}"
            missed.append(f"{limit.objective} is {value:.6g}, allowed is {bound}")
    evidence.excess.update(excess)
    if missed:
        raise SloMissedError(
            "slo_missed",
            "; ".join(missed),
            excess={name: over for name, over in excess.items() if over > 0},
        )
