"""Volumes below a front: what a set of trials dominates, and what is left to win.

Everything here minimises; a maximised objective comes in negated. Nothing here knows trials.

The region that a front dominates, and the region that it does not, are both cut into disjoint
boxes through local upper bounds: K. Klamroth, R. Lacour, D. Vanderpooten, "On the representation
of the search region in multi-objective optimization" (2015), and R. Lacour, K. Klamroth,
C. Fonseca, "A box decomposition algorithm to compute the hypervolume indicator" (2017).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from study.results.records import MeasuredPoint

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def nondominated(values: ArrayLike) -> Mask:
    """Which rows no other row dominates; of equal rows, all or none.

    Args:
        values: (n, objectives), to be minimised, finite.

    Returns:
        (n,) booleans.
    """
    rows = np.asarray(values, dtype=np.float64)
    keep = np.zeros(len(rows), dtype=np.bool_)
    rest = np.lexsort(rows.T[::-1])  # a row comes after every row that dominates it
    while rest.size:
        best = rows[rest[0]]
        keep[rest[0]] = True
        others = rows[rest[1:]]
        beaten = np.all(others >= best, axis=1) & np.any(others > best, axis=1)
        rest = rest[1:][~beaten]
    return keep


def hypervolume(values: ArrayLike, reference: Sequence[float] | Floats) -> float:
    """Volume that `values` dominate inside `reference`.

    Args:
        values: (n, objectives), to be minimised; rows not strictly inside add nothing.
        reference: (objectives,) the far corner.

    Returns:
        The exact volume, 0.0 for no rows; in the product of the objectives' units.
    """
    corner = np.asarray(reference, dtype=np.float64)
    lower, upper = dominated_boxes(values, corner)
    return float(np.prod(upper - lower, axis=1).sum())


def dominated_boxes(values: ArrayLike, reference: Floats) -> tuple[Floats, Floats]:
    """Disjoint boxes whose union is what `values` dominate inside `reference`.

    Returns:
        Lower and upper corners, each (boxes, objectives).
    """
    front = _inside(values, reference)
    bounds, definers = _local_upper_bounds(front, reference)
    return _boxes(bounds, definers, reference)


def open_boxes(values: ArrayLike, reference: Floats) -> tuple[Floats, Floats]:
    """Disjoint boxes whose union is what `values` leave undominated inside `reference`.

    Returns:
        Lower corners (some are -inf) and upper corners, each (boxes, objectives).
    """
    front = _inside(values, reference)
    bounds, _ = _local_upper_bounds(front, reference)
    # The open region is the union of {y < bound}: mirrored, what the bounds "dominate".
    far = np.full(reference.shape, np.inf)
    mirrored, definers = _local_upper_bounds(-bounds, far)
    lower, upper = _boxes(mirrored, definers, far)
    return -upper, -lower


def _inside(values: ArrayLike, reference: Floats) -> Floats:
    """The distinct non-dominated rows strictly inside the reference, in a fixed order."""
    rows = np.asarray(values, dtype=np.float64).reshape(-1, len(reference))
    rows = np.unique(rows[np.all(rows < reference, axis=1)], axis=0)
    return rows[nondominated(rows)] if len(rows) else rows


def _local_upper_bounds(front: Floats, reference: Floats) -> tuple[Floats, Floats]:
    """Maximal corners of the open region, and the front's rows that define each.

    Returns:
        Bounds (b, m) and definers (b, m, m): row k of a bound's definers gave its k-th value.
    """
    m = len(reference)
    bounds = reference[None, :].copy()
    definers = np.full((1, m, m), -np.inf)
    definers[0, range(m), range(m)] = reference
    for point in front:
        hit = np.all(point < bounds, axis=1)
        if not hit.any():
            continue
        hit_bounds, hit_definers = bounds[hit], definers[hit]
        kept_bounds, kept_definers = [bounds[~hit]], [definers[~hit]]
        for j in range(m):
            others = hit_definers[:, [k for k in range(m) if k != j], j]
            grows = np.all(point[j] >= others, axis=1)
            new_bounds, new_definers = hit_bounds[grows], hit_definers[grows]
            new_bounds[:, j] = point[j]
            new_definers[:, j] = point
            kept_bounds.append(new_bounds)
            kept_definers.append(new_definers)
        bounds, definers = np.concatenate(kept_bounds), np.concatenate(kept_definers)
    return bounds, definers


def _boxes(bounds: Floats, definers: Floats, reference: Floats) -> tuple[Floats, Floats]:
    """One box a bound (Lacour et al., eq. 6); empty ones left out."""
    lower, upper = bounds.copy(), bounds.copy()
    upper[:, 0] = reference[0]
    for j in range(1, len(reference)):
        lower[:, j] = definers[:, :j, j].max(axis=1)
    solid = np.all(lower < upper, axis=1)
    return lower[solid], upper[solid]


def undominated(
    settings: Sequence[MeasuredPoint], directions: Mapping[str, str]
) -> list[MeasuredPoint]:
    """The settings that no other equals in every objective and beats in one, by medians."""
    if not settings:
        return []
    keep = nondominated([losses(setting, directions) for setting in settings])
    return [setting for setting, kept in zip(settings, keep, strict=True) if kept]


def balanced(
    settings: Sequence[MeasuredPoint], directions: Mapping[str, str]
) -> list[MeasuredPoint]:
    """The settings, most balanced first.

    Each objective runs from 0, the best of these settings, to 1, the worst; the smallest sum is
    the most balanced. It weighs all objectives alike, as the legacy fitness does not.
    """
    rows = [losses(setting, directions) for setting in settings]
    best = [min(column) for column in zip(*rows, strict=True)]
    width = [max(column) - min(column) or 1.0 for column in zip(*rows, strict=True)]
    scores = [
        sum((value - low) / span for value, low, span in zip(row, best, width, strict=True))
        for row in rows
    ]
    order = sorted(range(len(scores)), key=lambda index: (scores[index], index))
    return [settings[index] for index in order]


def losses(setting: MeasuredPoint, directions: Mapping[str, str]) -> tuple[float, ...]:
    """The objectives' medians, all to be minimised."""
    return tuple(
        value if directions[name] == "minimize" else -value
        for name, value in setting.values().items()
    )
