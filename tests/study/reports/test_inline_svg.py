"""A figure as SVG inside a page."""

import re
from xml.etree import ElementTree

import pytest

from study.reports.inline_svg import inline_svg, variables
from study.reports.palette import ROLES
from study.reports.plots import fitness_figure
from study.results.findings import read_study
from tests.study import studies


@pytest.fixture(scope="module")
def svg():
    figure = fitness_figure(read_study(studies.whole_study(), ""))
    return inline_svg(figure, name="fitness", words="Rising < 1 & more")


def test_it_is_well_formed(svg):
    assert ElementTree.fromstring(svg).tag.endswith("svg")


def test_it_is_told_to_those_who_cannot_see_it(svg):
    assert 'role="img" aria-labelledby="fitness-title"' in svg
    assert '<title id="fitness-title">Rising &lt; 1 &amp; more</title>' in svg


def test_colours_are_the_pages(svg):
    assert not re.findall(r"#[0-9a-f]{6}\b", svg)
    assert "var(--front)" in svg


def test_identifiers_cannot_clash_with_another_pictures(svg):
    identifiers = re.findall(r'\bid="([^"]+)"', svg)
    assert identifiers
    assert all(name.startswith("fitness-") for name in identifiers)
    referred = re.findall(r'(?:href="#|url\(#)([^")]+)', svg)
    assert set(referred) <= set(identifiers)


def test_every_colour_has_a_variable_on_both_papers():
    for dark in (False, True):
        assert all(f"--{role.name}:" in variables(dark=dark) for role in ROLES)
