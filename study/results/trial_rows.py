"""What a study's figures rest on, as rows and words: percentiles, memory, conditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from objectives.measurement import Measurement, Served, Summary
from objectives.space import SERVERS
from study.results.findings import Findings
from study.results.pareto import balanced
from study.results.phrases import (
    DEVICE_WORDS,
    STATE_WORDS,
    causes,
    choice,
    doubts_of,
    figure_with_interval,
    flat,
    gib,
    in_one_piece,
    number,
    seconds,
)
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


def setting_row(findings: Findings, setting: MeasuredPoint) -> list[str]:
    """Trial (with a star if a measurement is doubted), parameters, objectives, fitness, times."""
    return [
        f"{setting.trial.number}{'*' if doubts_of([setting]) else ''}",
        *(choice(setting.trial.params.get(name)) for name in findings.parameters),
        *(figure_with_interval(setting, name) for name in findings.directions),
        number(setting.figure("fitness")),
        str(len(setting.trials)),
    ]


def telling_trials(findings: Findings) -> Iterator[tuple[str, list[TrialRecord], TrialRecord]]:
    """Each cause, its trials, and the one to quote: one that was really started if one was."""
    for cause, _ in causes(findings):
        trials = [trial for trial in findings.infeasible if str(trial.cause) == cause]
        yield cause, trials, min(trials, key=lambda trial: trial.predicted)


def device_line(findings: Findings, link: str) -> str:
    """`GPU: its name`, and its memory after the link where that is known."""
    device = findings.device
    total = f"{link} {gib(device['total_bytes'])} GiB" if device.get("total_bytes") else ""
    kind = DEVICE_WORDS.get(str(device.get("kind")), "device")
    return f"{kind}: {device.get('name', 'not recorded')}{total}"


def states_line(findings: Findings) -> str:
    """How many trials are measured, infeasible, ..."""
    counts = {words: findings.count(state) for state, words in STATE_WORDS.items()}
    return ", ".join(f"{count} {words}" for words, count in counts.items() if count) or "none"


def percentile_rows(findings: Findings) -> list[list[str]]:
    """Trial, what, p50, p95, p99 (ms), requests and failed ones: of the front and the baseline."""
    front = [setting.trial.number for setting in foremost(findings)]
    numbers = dict.fromkeys((findings.baseline, *front))
    return [
        [
            str(chosen),
            words,
            *(_milliseconds(times.of(quantile)) for quantile in QUANTILES),
            str(served.requests),
            str(served.failed),
        ]
        for chosen in numbers
        if chosen is not None
        for words, served, times in _times(findings[chosen].evidence.measurement)
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
