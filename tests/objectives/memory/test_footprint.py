"""Figures that say where they came from, and parts that add up."""

from objectives.memory.footprint import NOTHING, Estimate, Parts, add, budget_of, given, weakest
from objectives.models.shape import ModelShape
from objectives.vllm.rules import GIB, VllmRules
from objectives.vllm.settings import VllmSettings
from tests.objectives.models.published_shapes import LLAMA_3_1_8B


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
    assert given(5).to_dict() == {"value_bytes": 5, "source": "given", "margin_bytes": 0}
    assert NOTHING.value_bytes == 0


LLAMA = ModelShape.from_config(LLAMA_3_1_8B)
PARTS = Parts(weights=given(15 * GIB), activation=given(GIB), non_torch=NOTHING)


def budget(settings, *, version="0.32.0", kind="cuda", charged=0):
    rules = VllmRules.of(version, kind)
    return budget_of(LLAMA, settings, rules, PARTS, total_bytes=24 * GIB, charged_bytes=charged)


def test_the_cache_gets_what_the_share_leaves():
    found = budget(VllmSettings(utilization=0.75, max_model_len=4096))
    assert found.share_bytes == 18 * GIB
    assert found.available_bytes == 2 * GIB
    assert found.own_bytes == found.share_bytes


def test_what_is_charged_for_others_comes_off_the_cache():
    found = budget(VllmSettings(utilization=0.75, max_model_len=4096), charged=GIB)
    assert found.available_bytes == GIB


def test_a_number_of_blocks_stands_before_everything():
    found = budget(VllmSettings(utilization=0.1, max_model_len=64, blocks_override=10))
    assert found.capacity.blocks == 10
    assert found.sized_outright


def test_parts_that_exceed_the_share_leave_less_than_nothing():
    found = budget(VllmSettings(utilization=0.5, max_model_len=64))
    assert found.available_bytes == -4 * GIB
    assert found.own_bytes == 16 * GIB


def test_an_older_cpu_build_is_sized_by_its_default():
    found = budget(VllmSettings(utilization=0.5), version="0.11.0", kind="cpu")
    assert found.available_bytes == 4 * GIB
    assert found.sized_outright
