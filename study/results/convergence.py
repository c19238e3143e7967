"""How a study's front grew: its hypervolume after each trial.

Only feasible settings count, in the box that all single measurements of the study span.
"""

from __future__ import annotations

from study.results.findings import Findings
from study.results.pareto import Floats, hypervolume_share, losses
from study.results.points import MeasuredPoint, measured_points

STEPS = 120
"""A longer study is drawn in so many steps."""


def hypervolume_now(findings: Findings) -> float | None:
    """Share of the box between the best and the far corner that the front dominates, 0 to 1.

    Returns:
        None where nothing is feasible. As the ranges grow with the study, two values of a
        running study are not to be compared; `hypervolume_history` is.
    """
    if not findings.points:
        return None
    rows = losses(findings.points, findings.directions)
    return hypervolume_share(rows, _single_measurements(findings))


def hypervolume_history(findings: Findings) -> list[tuple[int, float]]:
    """After finished trials, at most `STEPS` of them, the hypervolume as a share of today's.

    Returns:
        (trial number, share), by number; empty where nothing is feasible. A share above 1 is
        possible: a lucky measurement counts until its setting is measured again.
    """
    if not findings.points:
        return []
    among = _single_measurements(findings)
    finished = [trial for trial in findings.trials if trial.feasible is not None]
    stride = -(-len(finished) // STEPS)
    counts = sorted({*range(1, len(finished) + 1, stride), len(finished)})
    volumes = [
        hypervolume_share(losses(measured_points(finished[:count]), findings.directions), among)
        for count in counts
    ]
    now = volumes[-1]
    numbers = [finished[count - 1].number for count in counts]
    return [(at, volume / now) for at, volume in zip(numbers, volumes, strict=True)]


def _single_measurements(findings: Findings) -> Floats:
    """Every feasible trial as a point of its own, to be minimised: (trials, objectives)."""
    single = [MeasuredPoint(point=each.point, trials=(each,)) for each in findings.feasible]
    return losses(single, findings.directions)
