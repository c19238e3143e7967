"""What one start's log says of an engine's memory."""

from objectives.memory.kv_cache import KVCacheShape
from objectives.memory.observed_start import observe_start
from objectives.memory.server_model import ServerModel
from objectives.models.shape import ModelShape
from objectives.units import GIB
from objectives.vllm.rules import VllmRules
from objectives.vllm.settings import VllmSettings
from objectives.vllm.startup_log import StartupFacts
from tests.objectives.models.published_shapes import QWEN2_5_7B_AWQ

AWQ = ModelShape.from_config(QWEN2_5_7B_AWQ)
TOTAL = round(11.63 * GIB)
BLOCK = 917_504


def learn(told, *, version="0.11.0", kind="cuda", charged=0, **args):
    options = {"gpu-memory-utilization": 0.5, "max-model-len": 2048, **args}
    rules = VllmRules(version, kind)
    settings = VllmSettings.from_args(options, rules, device_total_bytes=TOTAL)
    server = ServerModel(shape=AWQ, settings=settings, rules=rules, name="awq", device="GPU-1")
    return observe_start(server, told, total_bytes=TOTAL, charged_bytes=charged)


def test_the_number_of_blocks_is_finer_than_the_printed_size():
    start = learn(StartupFacts(available_kv_bytes=round(0.37 * GIB), kv_cache_tokens=6_976))
    assert start.rounding_bytes == BLOCK // 2
    assert abs(start.inside_bytes - 5.442 * GIB) < BLOCK


def test_the_printed_size_counts_where_the_blocks_do_not_agree_with_it():
    start = learn(StartupFacts(available_kv_bytes=round(2.0 * GIB), kv_cache_tokens=6_976))
    assert abs(start.inside_bytes - 3.815 * GIB) < GIB // 100


def test_a_start_that_died_for_want_of_cache_teaches_as_well():
    start = learn(
        StartupFacts(available_kv_bytes=round(-0.79 * GIB)), **{"gpu-memory-utilization": 0.4}
    )
    assert abs(start.inside_bytes - 5.442 * GIB) < GIB // 50


def test_the_engines_own_share_counts_where_the_device_had_another_size_than_thought():
    start = learn(StartupFacts(available_kv_bytes=GIB, requested_bytes=6 * GIB))
    assert start.inside_bytes == 5 * GIB


def test_others_are_taken_off_where_the_version_charged_for_them():
    told = StartupFacts(available_kv_bytes=GIB)
    alone, beside = learn(told, version="0.9.0"), learn(told, version="0.9.0", charged=GIB)
    assert alone.inside_bytes - beside.inside_bytes == GIB


def test_a_cpu_worker_that_says_its_size_is_believed():
    start = learn(StartupFacts(cpu_consumed_bytes=2 * GIB), version="0.32.0", kind="cpu")
    assert start.inside_bytes == 2 * GIB


def test_nothing_is_learned_from_a_size_given_outright():
    told = StartupFacts(available_kv_bytes=GIB, kv_cache_tokens=1000)
    assert learn(told, **{"kv-cache-memory-bytes": GIB}) is None


def test_nothing_is_learned_from_a_silent_log():
    assert learn(StartupFacts()) is None


def test_graphs_are_part_of_the_share_only_where_they_were_budgeted():
    told = StartupFacts(
        available_kv_bytes=GIB, graph_estimate_bytes=GIB // 8, graph_bytes=GIB // 16
    )
    assert learn(told).graph_estimate_bytes == 0
    assert learn(told, version="0.32.0").graph_estimate_bytes == GIB // 8
    assert learn(told, version="0.32.0").graph_bytes == GIB // 16


def test_the_layout_of_the_tests_is_that_of_the_model():
    kv = KVCacheShape.of(AWQ, VllmSettings(utilization=0.9), VllmRules("0.11.0"))
    assert kv.block_bytes == BLOCK
