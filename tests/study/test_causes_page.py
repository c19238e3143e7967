"""The page of constraints and causes."""

import re

import pytest

from objectives.causes import CAUSES
from objectives.constraints import CONSTRAINTS
from study.causes_page import causes_page

SECTIONS = {"candidate", "bench", "machine", "nobody"}


def rows(text):
    return {
        name: rest.split(" | ") for name, rest in re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.M)
    }


def test_every_constraint_is_there_in_order_with_unit_and_meaning():
    told = rows(causes_page().partition("## Whose fault it was")[0])
    assert tuple(told) == CONSTRAINTS
    assert all(unit and meaning for unit, meaning in told.values())


@pytest.mark.parametrize("fault", sorted(SECTIONS))
def test_every_cause_stands_below_whose_fault_it_is(fault):
    section = causes_page().partition(f"### The {fault}'s fault\n")[2]
    section = section or causes_page().partition("### Nobody's fault\n")[2]
    told = rows(section.partition("\n### ")[0])
    assert set(told) == {name for name, cause in CAUSES.items() if cause.fault == fault}


@pytest.mark.parametrize("cause", CAUSES.values(), ids=lambda cause: cause.name)
def test_a_row_names_meaning_every_remedy_constraint_and_who_tells(cause):
    *constraint, meaning, remedies, told_by = rows(causes_page())[cause.name]
    assert constraint == ([f"`{cause.constraint}`"] if cause.constraint else [])
    assert meaning == cause.meaning
    assert len(remedies.split("<br>")) == 1 + len(cause.remedies)
    assert all(f"<br>{kind}: {words}" in remedies for kind, words in cause.remedies.items())
    assert told_by.split(", ") == list(cause.told_by)


def test_no_remedy_shows_a_place_for_a_figure():
    assert not re.search(r"[{}]", causes_page())
