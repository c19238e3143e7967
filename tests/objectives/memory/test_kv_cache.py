"""From bytes to tokens."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.memory.kv_cache import KVCacheShape
from objectives.models.shape import ModelShape
from objectives.units import GIB
from objectives.vllm.rules import VllmRules
from tests.corpus import corpus_folder
from tests.objectives.models.published_shapes import (
    GEMMA_3_4B,
    GPT_OSS_20B,
    LLAMA_3_1_8B,
    QWEN2_5_7B,
)

STEP = 2048


def layout(config, version="0.11.0", **options):
    shape = ModelShape.from_config(config)
    return KVCacheShape.of(shape, VllmRules(version, options.pop("kind", "cuda")), **options)


def test_the_cache_that_production_logged():
    """judge.service, 2025-10-28: 0.37 GB, 6,976 tokens, 3.41x for 2048 tokens."""
    capacity = layout(QWEN2_5_7B).capacity(400_100_000, 2048, STEP)
    assert capacity.tokens == 6_976
    assert capacity.max_concurrency == pytest.approx(3.41, abs=0.005)


def test_less_than_a_block_holds_nothing():
    kv = layout(QWEN2_5_7B)
    assert kv.capacity(kv.block_bytes - 1, 2048, STEP).tokens == 0
    assert kv.capacity(-GIB, 2048, STEP).blocks == 0


def test_a_published_mixed_window_model_is_counted_by_groups():
    """gpt-oss-20b on 0.13: 12.94 GiB printed as 282,624 tokens, 54.44x at 8,192."""
    capacity = layout(GPT_OSS_20B, "0.13.0").capacity(round(12.94 * GIB), 8192, STEP)
    assert capacity.tokens == pytest.approx(282_624, rel=0.002)
    assert capacity.max_concurrency == pytest.approx(54.44, abs=0.05)


def test_the_same_over_two_devices():
    """gpt-oss-120b, two GPUs, 0.15.1: 77.93 GiB, 2,269,888 tokens, 32.56x at 131,072."""
    config = {**GPT_OSS_20B, "num_hidden_layers": 36}
    capacity = layout(config, "0.15.1", tp=2).capacity(round(77.93 * GIB), 131_072, 8192)
    assert capacity.tokens == pytest.approx(2_269_888, rel=0.002)
    assert capacity.max_concurrency == pytest.approx(32.56, abs=0.02)


def test_a_step_limits_what_a_windowed_layer_holds_of_one_request():
    """A Gemma of 3 full and 15 windowed layers on the CPU build 0.32: 157,391 tokens, 76.85x."""
    config = {
        **GEMMA_3_4B["text_config"],
        "num_hidden_layers": 18,
        "num_key_value_heads": 1,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 3,
        "sliding_window": 512,
    }
    kv = layout(config, "0.32.0", kind="cpu")
    blocks = kv.blocks_of(157_391, 2048, STEP)
    assert kv.blocks_per_request(2048, STEP) == 16 + 5 * 17
    assert blocks / kv.blocks_per_request(2048, STEP) == pytest.approx(76.85, abs=0.005)


def test_older_versions_keep_every_token_of_windowed_layers():
    old, new = layout(GPT_OSS_20B, "0.9.1"), layout(GPT_OSS_20B, "0.10.0")
    assert (old.window_groups, new.window_groups) == (0, 1)
    assert old.block_bytes == 2 * new.block_bytes


def test_newer_versions_keep_one_block_for_themselves():
    old, new = layout(QWEN2_5_7B, "0.11.0"), layout(QWEN2_5_7B, "0.32.0")
    assert old.needed_bytes(2048, STEP) == 128 * old.block_bytes
    assert new.needed_bytes(2048, STEP) == 129 * new.block_bytes


def test_newer_versions_print_concurrency_times_length():
    kv = layout(LLAMA_3_1_8B, "0.32.0")
    capacity = kv.capacity(100 * kv.block_bytes, 100, STEP)  # 7 blocks hold 112 tokens
    assert capacity.tokens == int(100 / 7 * 100)
    assert layout(LLAMA_3_1_8B, "0.11.0").capacity(100 * kv.block_bytes, 100, STEP).tokens == 1600


def test_the_cpu_builds_block_is_128_tokens():
    assert layout(QWEN2_5_7B, "0.32.0", kind="cpu").block_tokens == 128
    assert layout(QWEN2_5_7B, "0.32.0", kind="cpu", block_tokens=32).block_tokens == 32


@settings(deadline=None)
@given(
    available=st.integers(min_value=0, max_value=64 * GIB),
    length=st.integers(min_value=1, max_value=200_000),
    version=st.sampled_from(["0.9.0", "0.11.0", "0.32.0"]),
    config=st.sampled_from([QWEN2_5_7B, LLAMA_3_1_8B, GPT_OSS_20B]),
)
def test_what_fits_never_takes_more_than_there_is(available, length, version, config):
    kv = layout(config, version)
    capacity = kv.capacity(available, length, STEP)
    assert capacity.blocks * kv.block_bytes <= available
    fits = available >= kv.needed_bytes(length, STEP)
    assert fits == (capacity.blocks >= kv.blocks_per_request(length, STEP) + kv.null_blocks)


@settings(deadline=None)
@given(blocks=st.integers(min_value=1, max_value=100_000), length=st.integers(1, 40_000))
@pytest.mark.parametrize("version", ["0.11.0", "0.32.0"])
def test_blocks_can_be_read_back_from_the_printed_tokens(version, blocks, length):
    kv = layout(QWEN2_5_7B, version)
    printed = kv.capacity(blocks * kv.block_bytes, length, STEP).tokens
    per_request = kv.blocks_per_request(length, STEP)
    slack = per_request / length / 2 + 1 if kv.tokens_from_concurrency else 0
    assert abs(kv.blocks_of(printed, length, STEP) - blocks) <= slack


def records():
    folder = corpus_folder()
    if folder is None or not (folder / "kv_records.jsonl").is_file():
        pytest.skip("the published records are not on this machine")
    lines = (folder / "kv_records.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def test_bytes_become_tokens_as_published_logs_printed_them():
    """Within 0.2 %, or the last digit of the printed size."""
    checked = 0
    for record in records():
        if not (record["config"] and record["kv_tokens"] and record["available_kv_gib"]):
            continue
        kv = layout(
            record["config"],
            record["vllm_version"] or "0.11.0",
            kv_dtype=record["kv_cache_dtype"] or "auto",
            tp=record["tensor_parallel_size"] or 1,
        )
        available = record["available_kv_gib"]
        tokens = kv.capacity(round(available * GIB), record["max_model_len"], STEP).tokens
        allowed = max(0.002, 0.005 / available)
        assert tokens == pytest.approx(record["kv_tokens"], rel=allowed), record["id"]
        checked += 1
    assert checked >= 10
