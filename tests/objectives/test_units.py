"""Units that every room shares."""

from objectives.units import GIB, MIB, gib


def test_bytes_as_people_read_them():
    assert gib(GIB / 2) == "0.50 GiB"
    assert gib(-0.79 * GIB) == "-0.79 GiB"


def test_a_gibibyte_has_1024_mebibytes():
    assert GIB == 1024 * MIB == 1024**3
