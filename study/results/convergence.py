"""How a study's front grew: its hypervolume after each trial.

Only feasible settings count, each objective is scaled to the range that was measured, and the
far corner lies a tenth of that range beyond the worst, so the worst of an objective still counts.
"""

from __future__ import annotations

import numpy as np

from study.results.findings import Findings
from study.results.pareto import Floats, hypervolume, losses
from study.results.records import MeasuredPoint, measured_points

STEPS = 120
"""A longer study is drawn in so many steps."""

MARGIN = 0.1
"""The far corner lies this share of the range beyond the worst value."""


def hypervolume_now(findings: Findings) -> float | None:
    """Share of the box between the best and the far corner that the front dominates, 0 to 1.

    Returns:
        None where nothing is feasible. As the ranges grow with the study, two values of a
        running study are not to be compared; `hypervolume_history` is.
    """
    if not findings.points:
        return None
    scaled = _scaled(findings, [losses(each, findings.directions) for each in findings.points])
    volume = hypervolume(scaled, _corner(findings))
    return volume / float((1 + MARGIN) ** len(findings.directions))


def hypervolume_history(findings: Findings) -> list[tuple[int, float]]:
    """After finished trials, at most `STEPS` of them, the hypervolume as a share of today's.

    Returns:
        (trial number, share), by number; empty where nothing is feasible. A share above 1 is
        possible: a lucky measurement counts until its setting is measured again.
    """
    if not findings.points:
        return []
    corner = _corner(findings)
    finished = [trial for trial in findings.trials if trial.feasible is not None]
    stride = -(-len(finished) // STEPS)
    counts = sorted({*range(1, len(finished) + 1, stride), len(finished)})
    volumes = []
    for count in counts:
        settings = measured_points(finished[:count])
        rows = [losses(setting, findings.directions) for setting in settings]
        volumes.append(hypervolume(_scaled(findings, rows), corner) if rows else 0.0)
    now = volumes[-1]
    numbers = [finished[count - 1].number for count in counts]
    return [(at, volume / now) for at, volume in zip(numbers, volumes, strict=True)]


def _corner(findings: Findings) -> Floats:
    return np.full(len(findings.directions), 1 + MARGIN)


def _scaled(findings: Findings, rows: list[tuple[float, ...]]) -> Floats:
    """Losses from 0, the best single measurement of the study, to 1, the worst."""
    measured = np.array(
        [losses(each, findings.directions) for each in _single_measurements(findings)]
    )
    best, worst = measured.min(axis=0), measured.max(axis=0)
    width = np.where(worst > best, worst - best, 1.0)
    scaled: Floats = (np.array(rows) - best) / width
    return scaled


def _single_measurements(findings: Findings) -> list[MeasuredPoint]:
    return [
        MeasuredPoint(point=each.point, trials=(trial,))
        for each in findings.points
        for trial in each.trials
    ]
