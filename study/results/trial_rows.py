"""What a study's figures rest on, as rows and words: percentiles, memory, conditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from objectives.measurement import Measurement, Served, Summary
from objectives.space import SERVERS
from study.results.findings import Findings
from study.results.pareto import balanced
from study.results.phrases import flat, gib, in_one_piece, number, seconds
from study.results.points import MeasuredPoint
from study.results.records import TrialRecord

ROWS = 16
"""Longer lists are cut where a person reads; the JSON document and the table have everything."""

PHASES = ("predict", "start", "warmup", "measure", "stop", "other")
QUANTILES = ("p50", "p95", "p99")
ENGINE_PARTS = (*SERVERS, "torch", "cuda", "python")


def foremost(findings: Findings) -> list[MeasuredPoint]:
    """The front by trial number; of a long one the picks and the most balanced."""
    settings = findings.front_points
    if len(settings) <= ROWS:
        return list(settings)
    chosen = [each for each in settings if each.trial.number in findings.picks.values()]
    rest = [each for each in balanced(settings, findings.directions) if each not in chosen]
    return sorted([*chosen, *rest][:ROWS], key=lambda setting: setting.trial.number)


def percentile_rows(findings: Findings) -> list[list[str]]:
    """Trial, what, p50, p95, p99 (ms), requests and failed ones: of the front and the baseline."""
    front = [setting.trial.number for setting in foremost(findings)]
    numbers = dict.fromkeys((*_some(findings.baseline), *front))
    return [row for number_ in numbers for row in _percentiles(findings[number_])]


def _some(chosen: int | None) -> list[int]:
    return [] if chosen is None else [chosen]


def _percentiles(trial: TrialRecord) -> list[list[str]]:
    return [
        [
            str(trial.number),
            words,
            *(_milliseconds(times.of(quantile)) for quantile in QUANTILES),
            str(served.requests),
            str(served.failed),
        ]
        for words, served, times in _times(trial.evidence.measurement)
    ]


def _times(measured: Measurement | None) -> Iterator[tuple[str, Served, Summary]]:
    """Every latency of a measurement: what it is, whose, and its quantiles."""
    if measured is not None and (llm := measured.llm) is not None:
        yield "LLM, first token", llm, llm.ttft_s
        yield "LLM, per further token", llm, llm.tpot_s
        yield "LLM, whole request", llm, llm.e2e_s
    if measured is not None and (stt := measured.stt) is not None:
        yield "speech, whole request", stt, stt.latency_s


def _milliseconds(time_s: float | None) -> str:
    return number(None if time_s is None else 1000 * time_s)


def kv_cache_rows(findings: Findings) -> list[list[str]]:
    """Trial, predicted GiB, logged GiB, percent off: where both are known."""
    rows = []
    for trial in findings.trials:
        predicted, logged = trial.kv_cache_bytes
        if predicted is not None and logged is not None:
            off = f"{100 * (predicted - logged) / logged:+.1f}" if logged else "–"
            rows.append([str(trial.number), gib(predicted), gib(logged), off])
    return rows


def phase_rows(findings: Findings) -> list[list[str]]:
    """Phase, and the time that all trials together spent in it; what nobody reached is left out."""
    totals = {name: sum(t.phases_s.get(name, 0.0) for t in findings.trials) for name in PHASES}
    return [[name, seconds(total)] for name, total in totals.items() if total]


def least_in_one_piece(findings: Findings) -> str:
    """The least that any trial was given in one piece, or why nobody knows; empty if not asked."""
    told = [(t, t.evidence.largest_allocation) for t in findings.trials]
    known = [
        (found.granted_bytes, trial, found.is_fragmented)
        for trial, found in told
        if found is not None and found.granted_bytes is not None
    ]
    if not known:
        return next((in_one_piece(trial) for trial, found in told if found is not None), "")
    _, least, _ = min(known, key=lambda each: each[0])
    broken = sum(bool(is_fragmented) for *_, is_fragmented in known)
    return (
        f"{in_one_piece(least)} (trial {least.number}, the least of {len(known)});"
        f" fragmented in {broken or 'none'} of them"
    )


def conditions(findings: Findings) -> dict[str, str]:
    """Under what conditions everything was measured, as name and words."""
    stored = findings.attrs
    device = findings.device
    said = {
        "device": f"{device['name']}, {gib(device.get('total_bytes'))} GiB, {device.get('uuid')}"
        if device.get("name")
        else "",
        "weights": findings.weights,
        "engines": engines(stored.get("engines") or {}),
        "load": "; ".join(flat(stored.get("load") or {})),
        "latencies": _latencies(findings),
        "load generator": _lag(findings),
        "largest single allocation": least_in_one_piece(findings),
        "search space": "; ".join(
            _parameter(*item) for item in (stored.get("space") or {}).items()
        ),
        "constraints": ", ".join(stored.get("constraints") or ()),
        "seed": str(stored.get("seed", "")),
        "kept in": findings.storage,
    }
    return {name: words for name, words in said.items() if words}


def engines(stored: Mapping[str, Mapping[str, Any]]) -> str:
    """`vllm: vllm 0.11.0, torch 2.8.0; whisper: ...`."""
    return "; ".join(
        f"{role}: "
        + ", ".join(f"{part} {engine[part]}" for part in ENGINE_PARTS if engine.get(part))
        for role, engine in stored.items()
    )


def _parameter(name: str, described: Mapping[str, Any]) -> str:
    values: Sequence[Any] = described.get("choices") or ()
    if values:
        listed = ", ".join(map(str, values[:12])) + (" ..." if len(values) > 12 else "")
    else:
        listed = f"{described.get('low')} to {described.get('high')}"
    return f"{name} ({described.get('binding', 'unbound')}): {listed}"


def _latencies(findings: Findings) -> str:
    quantile = ((findings.attrs.get("config") or {}).get("load") or {}).get("quantile")
    return f"{quantile} of the requests of the measured window" if quantile else ""


def _lag(findings: Findings) -> str:
    """How late the load generator was at its worst: what it adds to the tails it reports."""
    lags = [
        lag
        for trial in findings.feasible
        if (measured := trial.evidence.measurement) is not None
        and (lag := measured.client.lag_s.p95) is not None
    ]
    return f"sent at most {_milliseconds(max(lags))} ms late (p95 of a trial)" if lags else ""
