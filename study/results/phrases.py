"""How findings are put into words and figures that a person reads.

Every report uses these, so a quantity has one name and one form everywhere. Bytes become GiB and
seconds stay seconds only here; three digits are what a measurement under load is worth.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from objectives.causes import cause_named
from objectives.measurement import intervals_overlap
from objectives.units import GIB, MIB
from study.results.findings import Findings
from study.results.points import MeasuredPoint
from study.results.records import TrialRecord

LABELS = {
    "stt_latency_ms": "speech latency",
    "llm_latency_ms": "LLM latency",
    "concurrent_capacity": "capacity",
    "gpu_utilization": "memory used",
    "oom_events": "out of memory",
    "free_memory_mb": "free memory",
    "largest_allocation_mb": "largest single allocation",
    "wer": "word error rate",
    "fitness": "legacy fitness",
}
UNITS = {
    "stt_latency_ms": "ms",
    "llm_latency_ms": "ms",
    "concurrent_capacity": "requests",
    "gpu_utilization": "%",
    "oom_events": "events",
    "free_memory_mb": "MiB",
    "largest_allocation_mb": "MiB",
}
DEVICE_WORDS = {"cuda": "GPU", "cpu": "CPU"}
STATE_WORDS = {
    "COMPLETE": "measured",
    "PRUNED": "infeasible",
    "FAIL": "failed",
    "RUNNING": "running",
    "WAITING": "waiting",
}


def label(name: str, *, unit: bool = True) -> str:
    """A quantity's name for people: `speech latency (ms)`."""
    words = LABELS.get(name, name)
    return f"{words} ({UNITS[name]})" if unit and name in UNITS else words


def number(value: float | None) -> str:
    """A figure with three significant digits; a dash where nothing was measured."""
    if value is None:
        return "–"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")


def gib(size_bytes: float | None) -> str:
    """A size in GiB; a dash where it is not known."""
    return "–" if size_bytes is None else f"{size_bytes / GIB:.2f}"


def seconds(duration_s: float | None) -> str:
    """A duration: `0.4 s`, `95 s`, `12 min`, `3.1 h`."""
    if duration_s is None:
        return "–"
    if duration_s < 120:
        return f"{duration_s:.1f} s" if duration_s < 10 else f"{duration_s:.0f} s"
    return f"{duration_s / 60:.0f} min" if duration_s < 7200 else f"{duration_s / 3600:.1f} h"


def point(params: Mapping[str, Any]) -> str:
    """A setting in one line: `vllm_memory_util=0.5 whisper_model_size=tiny`."""
    return " ".join(f"{name}={choice(value)}" for name, value in params.items())


def choice(value: object) -> str:
    """A parameter's value: `0.55`, `tiny`; a dash where a conditional one does not exist."""
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def command_lines(trial: TrialRecord) -> dict[str, str]:
    """Each server's command line with its own environment in front, to copy into a shell."""
    lines = {}
    for server, launched in trial.evidence.settings.items():
        assigned = [f"{key}={shlex.quote(value)}" for key, value in launched.env.items()]
        lines[server] = " ".join([*assigned, shlex.join(launched.argv)])
    return lines


_NOT_A_START = {"cuda_oom_serving", "host_oom"}
"""Causes of memory that no start is refused for, or that are of another memory."""


def in_one_piece(trial: TrialRecord) -> str:
    """The largest single allocation beside all tenants, or why it is not known; else empty."""
    found = trial.evidence.largest_allocation
    if found is None or found.granted_bytes is None:
        return "" if found is None else found.why_not
    free, asked = found.free_bytes or 0, found.asked_bytes or 0
    left = f"; {gib(free - asked)} GiB of it were left alone" if free - asked >= MIB else ""
    context = found.context_bytes
    beside = "" if context is None else f", its own CUDA context of {gib(context)} GiB taken off"
    return (
        f"{gib(found.granted_bytes)} GiB of {gib(free)} GiB free{beside}, right before"
        f" {found.before} started{left}"
    )


def fragments(trial: TrialRecord) -> str:
    """Whether memory lay in pieces where a start was refused for memory; else empty.

    Source: vLLM v1/worker/utils.py `request_memory`, v1/core/kv_cache_utils.py
    `check_enough_kv_cache_memory`: both compare sums before any KV cache is allocated.
    """
    found = trial.evidence.largest_allocation
    last = [*trial.evidence.settings][-1:]  # who was started last is who was refused
    if found is None or trial.cause is None or [found.before] != last or trial.predicted:
        return ""
    cause = cause_named(trial.cause)
    if not cause.is_memory or cause.name in _NOT_A_START:
        return ""
    unknown = found.granted_bytes is None
    got = f"one allocation right before got {gib(found.granted_bytes)} of the"
    sizes = "" if unknown else f"{got} {gib(found.asked_bytes)} GiB that were asked for"
    if not cause.is_oom:
        lead = "This check adds up bytes: that memory lies in pieces cannot be why"
        return f"{lead}; {sizes}." if sizes else f"{lead}."
    if found.is_fragmented is None:
        why = found.why_not or "the search ran out of time"
        return f"Whether free memory lay in pieces is not known: {why}."
    words = (
        "Free memory was fragmented" if found.is_fragmented else "Memory was short, not fragmented"
    )
    return f"{words}: {sizes}."


def causes(findings: Findings) -> list[tuple[str, int]]:
    """Why candidates do not work here, the most frequent cause first."""
    return Counter(str(trial.cause) for trial in findings.infeasible).most_common()


@dataclass(frozen=True, kw_only=True)
class Change:
    """One objective of a setting against the baseline's.

    `better` is None where the intervals overlap, or nothing changed.
    """

    name: str
    before: float
    after: float
    better: bool | None

    @property
    def percent(self) -> str:
        """The relative change, with its sign; what it is from zero is not said."""
        if self.before == 0:
            return "" if self.after == 0 else f"from 0 to {number(self.after)}"
        ratio = 100 * (self.after - self.before) / abs(self.before)
        sign = "−" if ratio < 0 else "+"
        return f"{sign}{abs(ratio):.0f} %" if round(ratio) else "±0 %"


def changes(findings: Findings, setting: MeasuredPoint) -> list[Change]:
    """What a setting changes against the baseline, by objective; empty without a measured one."""
    today = None if findings.baseline is None else findings.measured_point(findings.baseline)
    if today is None or today.point == setting.point:
        return []
    found = []
    for name, direction in findings.directions.items():
        before, after = today.values()[name], setting.values()[name]
        overlap = intervals_overlap(spread(today, name), spread(setting, name))
        better = (after < before) == (direction == "minimize")
        judged = None if overlap or before == after else better
        if findings.target(name) is not None:  # a value is a distance: show the figures themselves
            before, after = today.figure(name) or before, setting.figure(name) or after
        found.append(Change(name=name, before=before, after=after, better=judged))
    return found


def spread(setting: MeasuredPoint, name: str) -> tuple[float, float]:
    """How far a quantity's true value may lie: its replicates and their intervals together."""
    lows, highs = [], []
    for trial in setting.trials:
        value = trial.figure(name)
        low, high = trial.interval(name) or (value, value)
        if low is not None and high is not None:
            lows.append(low)
            highs.append(high)
    middle = setting.values().get(name, math.nan)
    return (min(lows, default=middle), max(highs, default=middle))


def figure_with_interval(setting: MeasuredPoint, name: str) -> str:
    """A figure and, where it is known to be wider than a point, its interval: `61 (58-66)`."""
    value = setting.figure(name)
    low, high = spread(setting, name)
    if value is None or number(low) == number(high):
        return number(value)
    return f"{number(value)} ({number(low)}-{number(high)})"


def doubts_of(settings: Iterable[MeasuredPoint]) -> dict[str, list[int]]:
    """Every doubt about these settings, with the trials that have it."""
    found: dict[str, list[int]] = {}
    for setting in settings:
        for trial in setting.trials:
            for doubt in trial.doubts:
                found.setdefault(doubt, []).append(trial.number)
    return found


def flat(value: object) -> list[str]:
    """A nested value as `a.b 3` phrases; what is None or empty is left out."""
    if isinstance(value, Mapping):
        return [
            f"{key}.{rest}" if isinstance(inner, Mapping) else f"{key} {rest}"
            for key, inner in value.items()
            if inner is not None and inner != []
            for rest in flat(inner)
        ]
    if isinstance(value, list | tuple):
        return [", ".join(phrase for inner in value for phrase in flat(inner))]
    return [str(value)]
