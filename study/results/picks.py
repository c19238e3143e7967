"""Which trial to choose, for four reasons to choose one.

The scenarios are those that the first users wrote down: latency, capacity, quality; and the legacy
weighted number, `fitness`.

latency   the smallest sum of speech-to-text and LLM latency, each divided by the smallest of its
          kind among the settings compared. Ratios, not ranks: a setting that is ten times slower in
          one and first in the other by a hair of noise does not win.
capacity  most concurrent requests; then latency.
quality   the lowest word error rate, or, where none is known, the largest Whisper; then capacity,
          then latency.
fitness   the highest legacy fitness.

Only feasible settings are compared, by the medians of their measurements, and a doubted one only if
there is no other. A pick need not lie on the front: quality may be no objective of the study.
Between equals the front wins, then the older trial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from objectives.models import WHISPER_SIZES
from study.results.pareto import undominated
from study.results.points import MeasuredPoint

SCENARIOS = ("latency", "capacity", "quality", "fitness")
"""The picks, in the order in which they are shown."""

LATENCIES = ("stt_latency_ms", "llm_latency_ms")


Rank = tuple[float, ...]
"""What a setting is compared by in a scenario: smaller is better."""


def choose(
    settings: Sequence[MeasuredPoint], directions: Mapping[str, str]
) -> dict[str, int | None]:
    """A trial's number for every scenario, of feasible settings; None where nothing can win."""
    pool = [setting for setting in settings if not setting.doubted] or list(settings)
    front = {setting.point for setting in undominated(settings, directions)}
    reasons = [(_slowness(each, pool), _fewness(each), _poorness(each, pool)) for each in pool]
    ranks = {
        "latency": [_ranks(slow) for slow, few, poor in reasons],
        "capacity": [_ranks(few, slow) for slow, few, poor in reasons],
        "quality": [_ranks(poor, few, slow) for slow, few, poor in reasons],
        "fitness": [_ranks(_negative(each.figure("fitness"))) for each in pool],
    }
    return {scenario: _winner(pool, ranks[scenario], front) for scenario in SCENARIOS}


def whisper_size(setting: MeasuredPoint) -> str | None:
    """The checkpoint that a parameter chooses, without its language; None if none does."""
    for value in setting.trial.params.values():
        name = str(value).removesuffix(".en")
        if name in WHISPER_SIZES:
            return name
    return None


def _winner(
    pool: Sequence[MeasuredPoint], ranks: Sequence[Rank | None], front: set[str]
) -> int | None:
    known = [
        (rank, setting.point not in front, setting.trial.number)
        for rank, setting in zip(ranks, pool, strict=True)
        if rank is not None
    ]
    return min(known)[-1] if known else None


def _ranks(first: float | None, *then: float | None) -> Rank | None:
    """What to compare by; None where the first is not known. What is unknown later comes last."""
    if first is None:
        return None
    rest = [part for each in then for part in (float(each is None), each or 0.0)]
    return (first, *rest)


def _negative(figure: float | None) -> float | None:
    return None if figure is None else -figure


def _fewness(setting: MeasuredPoint) -> float | None:
    return _negative(setting.figure("concurrent_capacity"))


def _slowness(setting: MeasuredPoint, among: Sequence[MeasuredPoint]) -> float | None:
    """Sum of the latencies, each as a multiple of the fastest; None where one is not known."""
    total = 0.0
    for name in LATENCIES:
        own = setting.figure(name)
        if own is None:
            return None
        fastest = min(known for each in among if (known := each.figure(name)) is not None)
        total += own / fastest if fastest > 0 else own
    return total


def _poorness(setting: MeasuredPoint, among: Sequence[MeasuredPoint]) -> float | None:
    """Word error rate if all have one, else the checkpoint's rank from the best."""
    if all(each.figure("wer") is not None for each in among):
        return setting.figure("wer")
    size = whisper_size(setting)
    return None if size is None else -float(WHISPER_SIZES[size])
