"""A study's state as a Prometheus text file, for node_exporter's textfile collector.

The file is replaced as a whole, so whoever scrapes it never reads half of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from objectives.errors import UsageError
from study.results import Findings, causes, hypervolume_now

STATES = ("COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING")
PREFIX = "gpu_allocation_study"

Sample = tuple[dict[str, str], float]


def write_metrics(findings: Findings, path: Path) -> None:
    """Replace the file with the study's state.

    Raises:
        UsageError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_to_textfile(str(path), _registry(findings))
        path.chmod(0o644)  # the collector is another user
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error


def _registry(findings: Findings) -> CollectorRegistry:
    """A study's metrics; one without samples is left out."""
    registry = CollectorRegistry()
    common = {"study": findings.study, "weights": findings.weights}
    for name, words, samples in _metrics(findings):
        if samples:
            labels = [*common, *samples[0][0]]
            gauge = Gauge(f"{PREFIX}_{name}", words, labels, registry=registry)
            for own, value in samples:
                gauge.labels(**common, **own).set(value)
    return registry


def _metrics(findings: Findings) -> Iterator[tuple[str, str, Sequence[Sample]]]:
    """Name, help and samples of every metric."""
    yield (
        "trials",
        "Trials by Optuna state; PRUNED is infeasible.",
        [({"state": state}, findings.count(state)) for state in STATES],
    )
    yield (
        "infeasible_trials",
        "Infeasible trials by cause.",
        [({"cause": cause}, times) for cause, times in causes(findings)],
    )
    yield "front_size", "Settings on the front.", [({}, len(findings.front))]
    volume = hypervolume_now(findings)
    yield (
        "front_hypervolume",
        "Share of the measured ranges that the front dominates, 0 to 1.",
        [] if volume is None else [({}, volume)],
    )
    yield "best", "Best median of an objective among feasible settings.", list(_best(findings))
    last = next((t for t in reversed(findings.trials) if t.cause), None)
    yield (
        "last_cause",
        "The trial that last ended without a measurement, and why.",
        [] if last is None else [({"cause": str(last.cause)}, last.number)],
    )
    ended = [
        trial.started.timestamp() + (trial.duration_s or 0.0)
        for trial in findings.trials
        if trial.started is not None and trial.duration_s is not None
    ]
    yield (
        "last_trial_end_seconds",
        "When a trial last ended, seconds since the epoch.",
        [({}, max(ended))] if ended else [],
    )


def _best(findings: Findings) -> Iterator[Sample]:
    for name, direction in findings.directions.items():
        values = [setting.values()[name] for setting in findings.points]
        if values:
            yield {"objective": name}, min(values) if direction == "minimize" else max(values)
