from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.results.pareto import (
    dominated_boxes,
    far_corner,
    hypervolume,
    hypervolume_share,
    may_dominate,
    nondominated,
    open_boxes,
)


@st.composite
def small_fronts(draw):
    """Rows of small whole numbers, so that ties are common and cells can be counted."""
    objectives = draw(st.integers(1, 5))
    side = draw(st.integers(2, 4))
    row = st.lists(st.integers(0, side), min_size=objectives, max_size=objectives)
    rows = draw(st.lists(row, max_size=7))
    return np.array(rows, dtype=float).reshape(len(rows), objectives), float(side)


def cells_below(rows: np.ndarray, side: float) -> int:
    """Unit cells of the cube that some row dominates."""
    cells = itertools.product(range(int(side)), repeat=rows.shape[1])
    return sum(
        any(all(r <= c for r, c in zip(row, cell, strict=True)) for row in rows) for cell in cells
    )


@settings(max_examples=150, deadline=None)
@given(small_fronts())
def test_a_hypervolume_is_the_count_of_dominated_cells(front):
    rows, side = front
    assert hypervolume(rows, [side] * rows.shape[1]) == pytest.approx(cells_below(rows, side))


@settings(max_examples=150, deadline=None)
@given(small_fronts())
def test_open_and_dominated_boxes_fill_the_cube(front):
    rows, side = front
    corner = np.full(rows.shape[1], side)
    lower, upper = open_boxes(rows, corner)
    left = np.prod(upper - np.maximum(lower, 0.0), axis=1).sum()
    assert left + hypervolume(rows, corner) == pytest.approx(side ** rows.shape[1])


@settings(max_examples=60, deadline=None)
@given(small_fronts(), st.integers(0, 2**32 - 1))
def test_a_point_lies_in_at_most_one_box(front, seed):
    rows, side = front
    corner = np.full(rows.shape[1], side)
    point = np.random.default_rng(seed).random(rows.shape[1]) * side
    boxes = [dominated_boxes(rows, corner), open_boxes(rows, corner)]
    inside = [
        int(np.sum(np.all((lower < point) & (point < upper), axis=1))) for lower, upper in boxes
    ]
    assert sum(inside) == 1


def test_no_front_dominates_nothing():
    assert hypervolume(np.empty((0, 3)), [1.0, 1.0, 1.0]) == 0.0


def test_rows_beyond_the_reference_add_nothing():
    assert hypervolume([[0.5, 2.0], [1.0, 0.0]], [1.0, 1.0]) == 0.0


def test_two_objectives_by_hand():
    assert hypervolume([[1.0, 3.0], [2.0, 1.0]], [4.0, 4.0]) == pytest.approx(7.0)


class TestNondominated:
    def test_keeps_what_nobody_beats(self):
        rows = [[1, 4], [2, 2], [3, 3], [4, 1], [4, 4]]
        assert nondominated(rows).tolist() == [True, True, False, True, False]

    def test_keeps_all_of_equal_rows(self):
        assert nondominated([[1, 1], [1, 1], [2, 1]]).tolist() == [True, True, False]

    def test_holds_for_huge_numbers_beside_small_ones(self):
        assert nondominated([[1e17, 1.0], [1e17, 0.0]]).tolist() == [False, True]

    @settings(max_examples=100, deadline=None)
    @given(small_fronts())
    def test_is_what_the_definition_says(self, front):
        rows, _ = front
        beaten = [
            any(np.all(other <= row) and np.any(other < row) for other in rows) for row in rows
        ]
        assert nondominated(rows).tolist() == [not each for each in beaten]


class TestTheFarCorner:
    def test_lies_a_tenth_of_the_range_beyond_the_worst(self):
        assert far_corner(np.array([[0.0, 10.0], [10.0, 30.0]])).tolist() == [11.0, 32.0]

    def test_leaves_room_where_all_are_equal(self):
        assert (far_corner(np.array([[5.0, -5.0], [5.0, -5.0]])) > [5.0, -5.0]).all()

    def test_a_share_does_not_depend_on_units(self):
        rows = np.array([[1.0, 5.0], [2.0, 2.0], [6.0, 1.0]])
        share = hypervolume_share(rows[:2], rows)
        assert 0 < share < 1
        assert hypervolume_share(rows[:2] * [1000, 0.1] + 7, rows * [1000, 0.1] + 7) == (
            pytest.approx(share)
        )

    def test_the_best_of_everything_has_all_of_it_and_nothing_has_none(self):
        rows = np.array([[1.0, 1.0], [2.0, 2.0]])
        assert hypervolume_share(rows, rows) == pytest.approx(1.0)
        assert hypervolume_share(np.zeros((0, 2)), rows) == 0.0


def test_who_may_dominate_is_told_by_the_intervals():
    ways = {"ms": "minimize", "rps": "maximize"}
    left = {"ms": (10.0, 20.0), "rps": (4.0, 6.0)}
    assert may_dominate(left, {"ms": (5.0, 12.0), "rps": (5.0, 9.0)}, ways)
    assert not may_dominate(left, {"ms": (5.0, 9.0), "rps": (5.0, 9.0)}, ways)
    assert not may_dominate(left, {"ms": (5.0, 12.0), "rps": (7.0, 9.0)}, ways)
