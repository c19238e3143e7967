"""What to change, and never what cannot help."""

import pytest

from objectives.memory.advice import break_even
from objectives.memory.predict import predict_vllm
from objectives.memory.server_model import DeviceMemory, ServerModel
from objectives.models.shape import ModelShape
from objectives.units import GIB
from objectives.vllm.rules import VllmRules
from objectives.vllm.settings import VllmSettings
from tests.objectives.models.published_shapes import (
    LLAMA_3_1_8B,
    QWEN2_5_7B,
    QWEN3_6_35B_A3B,
)

RTX_3060 = round(11.63 * GIB)
RAISE = "raise --gpu-memory-utilization"


def ask(config, *, total=24 * GIB, free=None, version="0.32.0", kind="cuda", weights=None, **args):
    rules = VllmRules(version, kind)
    options = {name.replace("_", "-"): value for name, value in args.items()}
    server = ServerModel(
        shape=ModelShape.from_config(config),
        settings=VllmSettings.from_args(options, rules, device_total_bytes=total),
        rules=rules,
        weights_bytes=weights,
    )
    return predict_vllm(server, DeviceMemory(total_bytes=total, free_bytes=free or total))


def test_a_model_that_no_fraction_holds_is_not_answered_with_a_higher_one():
    """14 GiB of weights on 11.63 GiB: the first version said to raise the fraction."""
    found = ask(QWEN2_5_7B, total=RTX_3060, max_model_len=4096)
    assert found.cause == "kv_cache_no_blocks"
    assert break_even(found).one_request is None
    assert "No --gpu-memory-utilization is enough on this device" in found.remedy
    assert "smaller or more strongly quantised model" in found.remedy


def test_a_length_that_no_fraction_holds_is_to_be_shortened():
    found = ask(LLAMA_3_1_8B, max_model_len=131_072)
    assert found.cause == "kv_cache_too_small"
    assert found.remedy.startswith("No --gpu-memory-utilization is enough")
    assert "lower --max-model-len" in found.remedy


def test_a_batch_whose_peak_is_what_is_missing_is_to_be_made_smaller():
    found = ask(
        QWEN2_5_7B, total=17 * GIB, max_model_len=1024, max_num_batched_tokens=32_768,
        gpu_memory_utilization=0.95,
    )  # fmt: skip
    assert "lower --max-num-seqs or --max-num-batched-tokens" in found.remedy


def test_a_fraction_that_would_do_but_is_not_free_asks_for_memory():
    found = ask(LLAMA_3_1_8B, free=16 * GIB, gpu_memory_utilization=0.6, max_model_len=2048)
    assert found.cause == "kv_cache_no_blocks"
    assert "would be enough, but what is free allows 0.6479" in found.remedy
    assert "free memory that other processes hold" in found.remedy


def test_a_fraction_that_helps_is_still_named():
    found = ask(LLAMA_3_1_8B, gpu_memory_utilization=0.6, max_model_len=2048)
    assert RAISE in found.remedy


@pytest.mark.parametrize("utilization", [0.5, 0.7, 0.8, 0.9, 0.97])
@pytest.mark.parametrize("total_gib", [8, 12, 16, 24])
@pytest.mark.parametrize("config", [QWEN2_5_7B, LLAMA_3_1_8B, QWEN3_6_35B_A3B])
def test_to_raise_the_fraction_is_never_the_advice_where_none_is_enough(
    config, total_gib, utilization
):
    found = ask(config, total=total_gib * GIB, gpu_memory_utilization=utilization)
    if break_even(found).one_request is None:
        assert RAISE not in found.remedy


def test_states_for_fewer_requests_are_what_fits():
    found = ask(
        QWEN3_6_35B_A3B, total=round(79.18 * GIB), weights=65 * GIB,
        gpu_memory_utilization=0.95, max_num_seqs=1024, max_model_len=8192,
    )  # fmt: skip
    blocks = found.footprint.capacity.blocks
    assert found.cause == "kv_cache_too_small"
    assert found.remedy == f"Lower --max-num-seqs to {blocks}."
    assert "1,024 requests at once" in found.evidence
    fewer = ask(
        QWEN3_6_35B_A3B, total=round(79.18 * GIB), weights=65 * GIB,
        gpu_memory_utilization=0.95, max_num_seqs=blocks, max_model_len=8192,
    )  # fmt: skip
    assert fewer.fits


def test_a_size_that_was_given_is_to_be_raised_itself():
    found = ask(LLAMA_3_1_8B, kv_cache_memory_bytes=GIB // 8, max_model_len=2048)
    assert found.cause == "kv_cache_too_small"
    assert found.remedy.startswith("Give the KV cache 0.13 GiB more than that size")
    assert "utilization" not in found.remedy


def test_what_fits_needs_no_remedy():
    assert ask(LLAMA_3_1_8B, max_model_len=2048).remedy == ""
