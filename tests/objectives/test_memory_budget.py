"""What settings ask of a device, and what that leaves for the cache."""

from objectives.footprint import NOTHING, Parts, given
from objectives.memory_budget import budget_of
from objectives.model_shape import ModelShape
from objectives.vllm_rules import GIB, VllmRules
from objectives.vllm_settings import VllmSettings
from tests.objectives.published_shapes import LLAMA_3_1_8B

LLAMA = ModelShape.from_config(LLAMA_3_1_8B)
PARTS = Parts(weights=given(15 * GIB), activation=given(GIB), non_torch=NOTHING)


def budget(settings, *, version="0.32.0", kind="cuda", charged=0):
    rules = VllmRules.of(version, kind)
    return budget_of(LLAMA, settings, rules, PARTS, total_bytes=24 * GIB, charged=charged)


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
