"""Figures that say where they came from, and parts that add up."""

from objectives.footprint import NOTHING, Figure, Parts, add, given, weakest


def figure(value, source, margin=0):
    return Figure(value_bytes=value, source=source, margin_bytes=margin)


def test_what_is_given_has_no_margin():
    assert given(100).margin_bytes == 0


def test_margins_of_a_sum_add_up():
    total = add(figure(10, "given"), figure(20, "read", 2), figure(30, "estimated", 5))
    assert (total.value_bytes, total.margin_bytes, total.source) == (60, 7, "estimated")


def test_a_part_that_is_nothing_does_not_weaken_a_sum():
    assert weakest([figure(10, "calibrated", 1), figure(0, "estimated")]) == "calibrated"
    assert weakest([]) == "given"


def test_the_share_is_charged_with_what_is_inside_it_only():
    parts = Parts(
        weights=figure(100, "read", 2),
        activation=figure(30, "estimated", 10),
        non_torch=figure(5, "estimated", 1),
        graphs=figure(7, "estimated", 3),
        context=figure(50, "estimated", 20),
        late=figure(9, "estimated", 9),
    )
    assert (parts.inside_bytes, parts.margin_bytes) == (142, 16)
    assert parts.outside.value_bytes == 59


def test_a_figure_is_plain_json():
    assert given(5).document() == {"value_bytes": 5, "source": "given", "margin_bytes": 0}
    assert NOTHING.value_bytes == 0
