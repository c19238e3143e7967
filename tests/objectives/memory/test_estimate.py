"""Figures that say where they came from."""

from objectives.memory.estimate import NOTHING, Estimate, add, given, weakest


def figure(value, source, margin=0):
    return Estimate(value_bytes=value, source=source, margin_bytes=margin)


def test_what_is_given_has_no_margin():
    assert given(100).margin_bytes == 0


def test_margins_of_a_sum_add_up():
    total = add(figure(10, "given"), figure(20, "read", 2), figure(30, "estimated", 5))
    assert (total.value_bytes, total.margin_bytes, total.source) == (60, 7, "estimated")


def test_a_part_that_is_nothing_does_not_weaken_a_sum():
    assert weakest([figure(10, "calibrated", 1), figure(0, "estimated")]) == "calibrated"
    assert weakest([]) == "given"


def test_a_figure_is_plain_json():
    assert given(5).to_dict() == {"value_bytes": 5, "source": "given", "margin_bytes": 0}
    assert NOTHING.value_bytes == 0
