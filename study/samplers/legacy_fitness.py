"""Parity with the legacy search: its tournament, and its one weighted number.

The sampler itself is in `tournament/`, the folder that OptunaHub's registry takes as it is: it
needs nothing but Optuna and numpy. What knows the first users' figures is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from optuna.trial import FrozenTrial

from objectives.units import is_number

FIGURES = (
    "stt_latency_ms",
    "llm_latency_ms",
    "concurrent_capacity",
    "oom_events",
    "gpu_utilization",
)
"""What the weighted number is made of, as the trial's attributes name it."""


def legacy_fitness(
    *,
    stt_latency_ms: float | None,
    llm_latency_ms: float | None,
    concurrent_capacity: float | None,
    oom_events: float | None,
    gpu_utilization: float | None,
) -> float:
    """The first users' weighted number, 0 (worst) to 1.

    0.25 speech latency + 0.25 LLM latency + 0.20 capacity + 0.20 stability + 0.10 efficiency.
    Their documents give weights and targets; the normalisations are those that reproduce both
    values they recorded, 0.309 and 0.537. (A third, 0.782, is an illustration that no
    normalisation with those targets gives.)

    Args:
        stt_latency_ms: Of a transcription; 500 ms and slower scores 0.
        llm_latency_ms: Of a completion; 1000 ms and slower scores 0.
        concurrent_capacity: Requests at once; 20 and more scores full.
        oom_events: Any at all makes the whole number 0.
        gpu_utilization: Used memory in percent; 70 scores full, 20 and 120 nothing.

    Each is None where it was not measured, and then scores 0 for its part.
    """
    if oom_events:
        return 0.0
    return (
        0.25 * _share(stt_latency_ms, lambda ms: 1 - ms / 500)
        + 0.25 * _share(llm_latency_ms, lambda ms: 1 - ms / 1000)
        + 0.20 * _share(concurrent_capacity, lambda count: count / 20)
        + 0.20 * _share(oom_events, lambda _: 1.0)
        + 0.10 * _share(gpu_utilization, lambda percent: 1 - abs(percent - 70) / 50)
    )


def _share(figure: float | None, score: Callable[[float], float]) -> float:
    return 0.0 if figure is None else min(max(score(figure), 0.0), 1.0)


def fitness_of(trial: FrozenTrial) -> float | None:
    """A trial's legacy fitness: as it was stored, else from the figures stored with it.

    Returns:
        None where no figure was stored at all.
    """
    attrs: Mapping[str, object] = trial.user_attrs
    stored = _number(attrs.get("fitness"))
    figures = {name: _number(attrs.get(name)) for name in FIGURES}
    if stored is not None or all(figure is None for figure in figures.values()):
        return stored
    return legacy_fitness(**figures)


def _number(value: object) -> float | None:
    return float(value) if is_number(value) else None
