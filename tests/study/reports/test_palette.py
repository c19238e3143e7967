"""Colours that everybody can tell from the paper, in light and in dark."""

import pytest

from study.reports.palette import (
    BASELINE,
    FEASIBLE,
    FILLS,
    FRONT,
    INK,
    MUTED,
    ONFILL,
    OTHER,
    PAPER,
    REST,
    ROLES,
    fills,
    tenants,
    variables,
)


def luminance(colour):
    """Relative luminance, WCAG 2.2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """From 1 to 21, WCAG 2.2."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("side", ["light", "dark"])
@pytest.mark.parametrize(
    ("role", "least"), [(INK, 7), (MUTED, 4.5), (FRONT, 3), (BASELINE, 3), (OTHER, 3)]
)
def test_marks_and_words_stand_out_from_the_paper(role, least, side):
    assert contrast(getattr(role, side), getattr(PAPER, side)) >= least


@pytest.mark.parametrize("fill", [*FILLS, FEASIBLE, REST], ids=lambda role: role.name)
@pytest.mark.parametrize("side", ["light", "dark"])
def test_words_can_be_read_on_every_fill(fill, side):
    assert contrast(getattr(ONFILL, side), getattr(fill, side)) >= 4.5


def test_no_two_roles_share_a_light_colour():
    """A role's light colour is replaced by its name in the page; it must be its alone."""
    assert len({role.light for role in ROLES}) == len(ROLES)


def test_a_tuned_tenant_always_has_the_same_colour():
    assert tenants(["whisper", "vllm"])["vllm"] is tenants(["vllm", "ollama", "other"])["vllm"]


def test_after_the_last_fill_comes_the_first_again():
    names = [str(n) for n in range(len(FILLS) + 1)]
    assert fills(names)[names[-1]] is FILLS[0]


def test_every_colour_has_a_variable_on_both_papers():
    for dark in (False, True):
        assert all(f"--{role.name}:" in variables(dark=dark) for role in ROLES)
