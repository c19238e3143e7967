"""Which points dominate others; volumes below a front, and what is left to win.

Arrays are to be minimised; `losses` makes them of points, whatever an objective's direction.

The region that a front dominates, and the region that it does not, are both cut into disjoint
boxes through local upper bounds: K. Klamroth, R. Lacour, D. Vanderpooten, "On the representation
of the search region in multi-objective optimization" (2015), and R. Lacour, K. Klamroth,
C. Fonseca, "A box decomposition algorithm to compute the hypervolume indicator" (2017).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from study.results.points import Interval, MeasuredPoint

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def nondominated(values: ArrayLike) -> Mask:
    """Which of (n, objectives) finite values to be minimised no other dominates: (n,) booleans.

    Of equal rows, all or none.
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
    """The exact volume that `values` dominate inside `reference`, 0.0 for no rows.

    (n, objectives) and (objectives,), to be minimised; rows not strictly inside add nothing.
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
    points: Sequence[MeasuredPoint], directions: Mapping[str, str]
) -> list[MeasuredPoint]:
    """The front: the points that no other equals in every objective and beats in one."""
    keep = nondominated(losses(points, directions))
    return [point for point, kept in zip(points, keep, strict=True) if kept]


def balanced(points: Sequence[MeasuredPoint], directions: Mapping[str, str]) -> list[MeasuredPoint]:
    """The points, most balanced first.

    Each objective runs from 0, the best of these points, to 1, the worst; the smallest sum is
    the most balanced. It weighs all objectives alike, as the legacy fitness does not.
    """
    rows = losses(points, directions)
    best, worst = rows.min(axis=0), rows.max(axis=0)
    scores = ((rows - best) / np.where(worst > best, worst - best, 1.0)).sum(axis=1)
    return [points[index] for index in np.argsort(scores, kind="stable")]


def losses(points: Sequence[MeasuredPoint], directions: Mapping[str, str]) -> Floats:
    """The medians of points, all to be minimised: (points, objectives)."""
    signs = [1.0 if way == "minimize" else -1.0 for way in directions.values()]
    rows = [list(point.values().values()) for point in points]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(signs)) * signs


MARGIN = 0.1
"""The far corner lies this share of the measured range beyond the worst: the worst still counts."""


def far_corner(rows: Floats) -> Floats:
    """The reference point of (n, objectives) values, all to be minimised: (objectives,)."""
    best, worst = rows.min(axis=0), rows.max(axis=0)
    # Where all are equal, so far away that any better value is worth something.
    width = np.where(worst > best, worst - best, np.abs(worst) + 1)
    corner: Floats = best + (1 + MARGIN) * width
    return corner


def hypervolume_share(rows: Floats, among: Floats) -> float:
    """Share of the box between the best and the far corner of `among` that `rows` dominate.

    Both (n, objectives), to be minimised; there may be no rows, but not none to be among.
    """
    corner = far_corner(among)
    return hypervolume(rows, corner) / float(np.prod(corner - among.min(axis=0)))


def may_dominate(
    left: Mapping[str, Interval], right: Mapping[str, Interval], directions: Mapping[str, str]
) -> bool:
    """Whether left's best case is nowhere worse than right's worst case."""
    return all(
        left[name][0] <= right[name][1] if way == "minimize" else left[name][1] >= right[name][0]
        for name, way in directions.items()
    )
