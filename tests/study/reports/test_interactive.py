"""Interactive figures for the dashboard and the notebook."""

import pytest

from study.reports.interactive import front_graphs, hypervolume_graph, memory_graph
from study.results.findings import read_study
from tests.study import studies


@pytest.fixture(scope="module")
def findings():
    return read_study(studies.whole_study(weights="dummy"), "")


def test_there_is_a_figure_for_each_pair_of_objectives(findings):
    assert len(front_graphs(findings)) == 3


def test_only_feasible_settings_are_shown(findings):
    traces = {trace.name: trace for trace in front_graphs(findings)[0].data}
    assert list(traces["front"].text) == ["4", "7", "9", "12"]
    shown = sum(len(traces[name].x) for name in ("feasible", "front"))
    assert shown == len(findings.points)


def test_hovering_tells_the_setting(findings):
    traces = {trace.name: trace for trace in front_graphs(findings)[0].data}
    assert "vllm_memory_util=0.45 whisper_model_size=tiny" in traces["front"].hovertext[0]


def test_error_bars_reach_to_the_ends_of_the_interval(findings):
    front = next(trace for trace in front_graphs(findings)[0].data if trace.name == "front")
    assert front.error_y.array[0] == pytest.approx(0.05 * front.y[0])


def test_the_hypervolume_ends_at_all_of_it(findings):
    assert hypervolume_graph(findings).data[0].y[-1] == pytest.approx(1.0)


def test_memory_is_stacked_by_tenant(findings):
    figure = memory_graph(findings)
    assert [bar.name for bar in figure.data] == ["vllm", "whisper", "ollama", "other"]
    assert figure.layout.barmode == "stack"


def test_every_figure_says_that_weights_were_dummy(findings):
    figures = [*front_graphs(findings), hypervolume_graph(findings), memory_graph(findings)]
    assert all("Dummy weights" in figure.layout.title.text for figure in figures)


def test_an_empty_study_can_be_drawn():
    empty = read_study(studies.empty_study(), "")
    assert front_graphs(empty)
    assert not hypervolume_graph(empty).data[0].x
    assert not memory_graph(empty).data
