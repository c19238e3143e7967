"""Units that every room shares."""

from objectives.units import GIB, MIB, gib, is_number


def test_bytes_as_people_read_them():
    assert gib(GIB / 2) == "0.50 GiB"
    assert gib(-0.79 * GIB) == "-0.79 GiB"


def test_what_is_true_or_false_is_no_number():
    assert [is_number(value) for value in (0, -1.5, True, False, "1", None)] == [
        *(True, True, False, False, False, False)
    ]


def test_a_gibibyte_has_1024_mebibytes():
    assert GIB == 1024 * MIB == 1024**3
