"""The evaluation record of the first users' system: a JSON object a line, a line a trial.

Its keys and their units are theirs, so whatever reads those files reads these. What was not
measured is null, where theirs had a large number; keys that theirs did not have come after.
"""

from __future__ import annotations

import hashlib
import json

from study.results import Findings, TrialRecord

STATUS = {"COMPLETE": "pass", "PRUNED": "fail", "FAIL": "error"}
"""The legacy's word for a trial's outcome; it knew only the first."""


def legacy_lines(findings: Findings) -> str:
    """One line for every finished trial, each ending in a newline."""
    return "".join(
        json.dumps(record(findings, trial), allow_nan=False) + "\n"
        for trial in findings.trials
        if trial.state in STATUS
    )


def record(findings: Findings, trial: TrialRecord) -> dict[str, object]:
    """One trial with the legacy's keys; its parameters stand among them under their own names."""
    return {
        "test_id": _test_id(findings, trial),
        "status": STATUS[trial.state],
        **trial.params,
        "stt_latency_ms": trial.figure("stt_latency_ms"),
        "llm_latency_ms": trial.figure("llm_latency_ms"),
        "gpu_utilization_pct": trial.figure("gpu_utilization"),
        "oom_events": _whole(trial.figure("oom_events")),
        "concurrent_capacity": _whole(trial.figure("concurrent_capacity")),
        "free_memory_mb": _whole(trial.figure("free_memory_mb")),
        "fitness": 0.0 if trial.feasible is False else trial.fitness,
        "trial": trial.number,
        "cause": trial.cause,
        "weights": findings.weights,
    }


def _test_id(findings: Findings, trial: TrialRecord) -> str:
    """`gpu-` and eight hexadecimal digits, the same whenever the study is reported."""
    named = f"{findings.study}/{trial.number}".encode()
    return f"gpu-{hashlib.sha256(named).hexdigest()[:8]}"


def _whole(figure: float | None) -> int | None:
    return None if figure is None else round(figure)
