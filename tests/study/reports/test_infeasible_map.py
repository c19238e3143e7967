"""A map of where candidates work and where they do not."""

import pytest

from study.reports.infeasible_map import letters, map_figure, side, telling_parameters
from study.results.findings import read_study
from study.results.records import TrialRecord
from tests.study import studies


@pytest.fixture(scope="module")
def findings():
    return read_study(studies.whole_study(), "")


def trials(**columns):
    names = list(columns)
    rows = zip(*columns.values(), strict=True)
    return [
        TrialRecord(
            number=number,
            state="COMPLETE",
            params=dict(zip(names, row, strict=True)),
            values={},
            constraints={},
        )
        for number, row in enumerate(rows)
    ]


def words(figure):
    return sorted(text.get_text() for text in figure.axes[0].texts)


def test_every_cell_says_its_outcome_without_a_colour(findings):
    assert words(map_figure(findings)) == ["A"] * 4 + ["✓"] * 11


def test_the_parameter_that_tells_best_lies_across(findings):
    assert map_figure(findings).axes[0].get_xlabel() == "vllm_memory_util"


def test_several_trials_in_a_cell_show_how_many_agree():
    study = studies.empty_study()
    for _ in range(2):
        studies.complete(study, 0.60, "tiny")
    studies.refused(study, 0.60, "tiny")
    studies.complete(study, 0.55, "tiny")
    assert words(map_figure(read_study(study, ""))) == ["✓", "✓ 2/3"]


def test_causes_have_letters_and_what_works_a_tick(findings):
    assert letters(findings) == {"works here": "✓", "kv_cache_no_blocks": "A"}


def test_whisper_sizes_are_in_their_own_order():
    assert side(trials(size=["small", "tiny", "base"]), "size").ticks == ("tiny", "base", "small")


def test_many_values_become_ranges():
    found = side(trials(util=[n / 100 for n in range(40)]), "util")
    assert len(found.ticks) == 10
    assert found.place[0] == 0
    assert found.place[39] == 9


def test_a_parameter_that_does_not_vary_spans_nothing():
    assert telling_parameters(trials(util=[0.4, 0.5], size=["tiny", "tiny"])) == ["util"]


def test_one_parameter_gives_one_row_and_none_gives_no_map():
    study = studies.empty_study()
    studies.complete(study, 0.55, "tiny")
    assert not map_figure(read_study(study, "")).axes[0].axison
    studies.complete(study, 0.60, "tiny")
    assert words(map_figure(read_study(study, ""))) == ["✓", "✓"]
