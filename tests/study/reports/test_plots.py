"""Still pictures of a study."""

import re
from xml.etree import ElementTree

import pytest
from matplotlib.colors import to_hex

from objectives.errors import UsageError
from study.reports.palette import BASELINE, FRONT, OTHER
from study.reports.plots import (
    fitness_figure,
    front_figure,
    inline_svg,
    memory_figure,
    memory_trials,
    pairs,
    save,
    title,
)
from study.results.findings import read_study
from tests.study import studies


@pytest.fixture(scope="module")
def findings():
    study = studies.whole_study()
    studies.complete(study, 0.60, "tiny", noise=1.02, generation=4)
    return read_study(study, "")


def marks(axes, role):
    """How many marks of a role there are."""
    return sum(
        len(drawn.get_offsets())
        for drawn in axes.collections
        if role.light in {to_hex(c) for c in [*drawn.get_facecolor(), *drawn.get_edgecolor()]}
    )


def test_there_is_a_panel_for_each_pair_of_objectives_that_differ(findings):
    assert pairs(findings) == [
        ("stt_latency_ms", "llm_latency_ms"),
        ("stt_latency_ms", "concurrent_capacity"),
        ("llm_latency_ms", "concurrent_capacity"),
    ]
    assert len(front_figure(findings).axes) == 3


def test_only_feasible_settings_are_marked_and_the_front_among_them(findings):
    axes = front_figure(findings, [("stt_latency_ms", "llm_latency_ms")]).axes[0]
    assert marks(axes, FRONT) == len(findings.front) == 4
    assert marks(axes, OTHER) == len(findings.points) - 4
    assert marks(axes, BASELINE) == 1


def test_the_front_and_the_baseline_carry_their_numbers(findings):
    axes = front_figure(findings, [("stt_latency_ms", "llm_latency_ms")]).axes[0]
    assert {text.get_text() for text in axes.texts} == {"0", "4", "7", "9", "12"}


def test_axes_say_the_unit_and_what_is_better(findings):
    axes = front_figure(findings, [("stt_latency_ms", "concurrent_capacity")]).axes[0]
    assert axes.get_xlabel() == "speech latency (ms), less is better"
    assert axes.get_ylabel() == "capacity (requests), more is better"


def test_memory_has_a_bar_a_setting_and_the_device_as_a_line(findings):
    axes = memory_figure(findings).axes[0]
    assert len(axes.get_yticklabels()) == len(findings.points)
    assert axes.get_yticklabels()[0].get_text() == "0: 0.5 small (today)"
    assert [line.get_xdata()[0] for line in axes.lines] == [12.0]


def test_what_decides_comes_first_among_the_bars(findings):
    assert [trial.number for trial in memory_trials(findings)][:5] == [0, 4, 7, 9, 12]


def test_fitness_never_falls_and_the_infeasible_stand_at_zero(findings):
    axes = fitness_figure(findings).axes[0]
    assert axes.get_xlabel() == "generation"
    best = next(line for line in axes.lines if line.get_label() == "best so far").get_ydata()
    assert list(best) == sorted(best)
    crosses = next(drawn for drawn in axes.collections if drawn.get_label() == "infeasible")
    assert [tuple(at) for at in crosses.get_offsets()] == [(0, 0), (0, 0), (0, 0), (4, 0)]


def test_without_generations_the_trials_are_counted():
    study = studies.empty_study()
    studies.complete(study, 0.5, "tiny")
    assert fitness_figure(read_study(study, "")).axes[0].get_xlabel() == "trial"


@pytest.mark.parametrize("draw", [front_figure, memory_figure, fitness_figure])
def test_an_empty_study_can_be_drawn(draw, tmp_path):
    figure = draw(read_study(studies.empty_study(), ""))
    assert save(figure, tmp_path / "empty.png").stat().st_size > 0


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_same_findings_give_the_same_file(findings, tmp_path, suffix):
    files = [
        save(fitness_figure(findings), tmp_path / folder / f"fitness{suffix}").read_bytes()
        for folder in ("a", "b")
    ]
    assert files[0] == files[1]


def test_an_unknown_suffix_is_refused_in_one_line(findings, tmp_path):
    with pytest.raises(UsageError, match=r"found suffix '.bmp', allowed: .png, .svg, .pdf"):
        save(fitness_figure(findings), tmp_path / "fitness.bmp")


def test_a_picture_that_travels_alone_says_that_weights_were_dummy():
    assert "Dummy weights" in title(read_study(studies.empty_study(weights="dummy"), ""))


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
