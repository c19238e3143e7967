"""From bytes to tokens."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.memory.kv_cache import KVCacheShape
from objectives.models.shape import ModelShape
from objectives.units import GIB
from objectives.vllm.rules import VllmRules
from objectives.vllm.settings import VllmSettings
from tests.corpus import corpus_folder
from tests.objectives.models.published_shapes import (
    BAMBA_9B,
    BERT_BASE,
    FALCON_H1_7B,
    GEMMA_3_4B,
    GEMMA_4_26B_A4B,
    GLM_5,
    GPT_OSS_20B,
    GRANITE_4_SMALL,
    JAMBA_MINI,
    KIMI_LINEAR_48B,
    LLAMA_3_1_8B,
    NEMOTRON_NANO_9B,
    QWEN2_5_7B,
    QWEN3_6_27B,
    QWEN3_6_35B_A3B,
    QWEN3_NEXT_80B,
    WHISPER_TURBO,
)

STEP = 2048
DRAFTS = {"drafts": 3, "drafts_by_model": True}
MAMBA = {
    "model_type": "mamba2",
    "hidden_size": 4096,
    "num_hidden_layers": 64,
    "num_heads": 128,
    "head_dim": 64,
    "state_size": 128,
    "vocab_size": 32768,
}


def layout(config, version="0.11.0", kind="cuda", **options):
    settings = VllmSettings(
        utilization=0.9,
        kv_cache_dtype=options.pop("kv_dtype", "auto"),
        tensor_parallel_size=options.pop("tp", 1),
        max_num_batched_tokens=STEP,
        **options,
    )
    return KVCacheShape.of(ModelShape.from_config(config), settings, VllmRules(version, kind))


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
    assert [[group.keeps for group in kv.groups] for kv in (old, new)] == [
        ["all"],
        ["all", "window"],
    ]
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
    config=st.sampled_from([QWEN2_5_7B, GPT_OSS_20B, QWEN3_6_27B, GEMMA_4_26B_A4B, GLM_5]),
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


@pytest.mark.parametrize(
    ("config", "version", "options", "gib", "length", "step", "tokens", "served"),
    [
        (QWEN3_6_27B, "0.32.0", {"tp": 2, "kv_dtype": "fp8"}, 9.84, 262_144, STEP, 619_202, 2.36),
        (QWEN3_6_27B, "0.32.0", {"tp": 2, "kv_dtype": "fp8", **DRAFTS}, 11.05, 262_144, STEP,
         623_873, 2.38),
        (QWEN3_6_27B, "0.27.1", {"tp": 2}, 44.73, 65_536, STEP, 1_407_894, 21.48),
        (QWEN3_6_27B, "0.25.1", DRAFTS, 80.17, 262_144, STEP, 1_191_213, 4.54),
        (GEMMA_4_26B_A4B, "0.25.1", {}, 83.89, 262_144, 2496, 3_875_400, 14.78),
        (GLM_5, "0.23.1", {"kv_dtype": "fp8_ds_mla"}, 28.85, 400_000, STEP, 574_336, 1.44),
    ],
    ids=["hybrid", "hybrid, drafting", "prefixes not cached", "wide", "unlike heads", "index"],
)  # fmt: skip
def test_what_published_starts_printed(config, version, options, gib, length, step, tokens, served):
    """To the last digit of the printed size, of which a hybrid's large blocks make 0.3 %."""
    kv = layout(config, version, **options)
    found = kv.capacity(round(gib * GIB), length, step)
    assert found.tokens == pytest.approx(tokens, rel=0.003)
    assert found.max_concurrency == pytest.approx(served, abs=0.011)
    assert (
        abs(kv.blocks_of(tokens, length, step) - found.blocks) <= 0.005 * GIB / kv.block_bytes + 1
    )


@pytest.mark.parametrize(
    ("config", "gib", "blocks"), [(QWEN3_6_27B, 11.6, 242), (QWEN3_6_35B_A3B, 5.52, 274)]
)
def test_blocks_that_published_refusals_counted(config, gib, blocks):
    """ "exceeds available Mamba cache blocks (242)", at 11.6 GiB of KV cache; and another."""
    assert layout(config, "0.24.0").capacity(round(gib * GIB), 65_536, STEP).blocks == blocks


@pytest.mark.parametrize(
    ("config", "options", "block"),
    [
        (QWEN3_6_27B, {}, 784),
        (QWEN3_6_27B, {"tp": 2, "kv_dtype": "fp8"}, 1568),
        (QWEN3_6_27B, {"block_tokens": 64}, 832),
        (QWEN3_6_35B_A3B, {}, 1056),
        (KIMI_LINEAR_48B, {}, 1920),
        (GRANITE_4_SMALL, {}, 528),
        (NEMOTRON_NANO_9B, {}, 1312),
    ],
)
def test_a_block_of_attention_is_as_large_as_a_state(config, options, block):
    kv = layout(config, "0.32.0", **options)
    state = kv.groups[1].page_bytes
    assert kv.block_tokens == block
    assert all(group.page_bytes == state for group in kv.groups)


@pytest.mark.parametrize(
    ("config", "tokens_and_blocks"),
    [
        (QWEN3_6_27B, [(784, 19), (784, 19), (784, 19)]),
        (QWEN3_NEXT_80B, [(544, 25), (544, 25), (272, 43)]),
        (JAMBA_MINI, [(80, 139), (80, 139), (80, 139)]),
        (GRANITE_4_SMALL, [(528, 37), (528, 37), (528, 37)]),
        (NEMOTRON_NANO_9B, [(1312, 22), (1312, 22), (1312, 22)]),
        (FALCON_H1_7B, [(1568, 9), (1568, 9), (784, 15)]),
        (BAMBA_9B, [(528, 39), (528, 39), (528, 39)]),
        (KIMI_LINEAR_48B, [(1920, 12), (1024, 16), (512, 26)]),
        (GEMMA_4_26B_A4B, [(16, 1918), (16, 1918), (16, 2230)]),
        (GPT_OSS_20B, [(16, 890), (16, 890), (16, 890)]),
    ],
)
def test_the_layout_is_that_of_vllms_own_code(config, tokens_and_blocks):
    """Of 0.32.0, for one, two and four devices: `get_kv_cache_groups` and what follows from it."""
    found = [layout(config, "0.32.0", tp=tp) for tp in (1, 2, 4)]
    assert [
        (kv.block_tokens, kv.blocks_per_request(10_000, 2 * STEP)) for kv in found
    ] == tokens_and_blocks


def test_a_state_for_each_sequence_and_another_where_prefixes_are_cached():
    def states(version, **options):
        return layout(QWEN3_6_27B, version, **options).groups[1].limit

    assert (states("0.27.1"), states("0.28.0")) == (1, 2)
    assert states("0.27.1", prefix_caching=True) == 2
    assert states("0.32.0", prefix_caching=False) == 1
    assert states("0.32.0", **DRAFTS) == 5


def test_layers_are_grouped_by_the_rarest_kind():
    counts = [
        [group.count for group in layout(config, "0.32.0").groups]
        for config in (QWEN3_6_27B, KIMI_LINEAR_48B, NEMOTRON_NANO_9B, GEMMA_4_26B_A4B)
    ]
    assert counts == [[1, 3], [1, 3], [1, 7], [1, 5]]


def test_smaller_pages_get_more_tokens_until_all_are_alike():
    full, window = layout(GEMMA_4_26B_A4B, "0.32.0").groups
    assert (full.block_tokens, window.block_tokens) == (32, 16)


def test_a_model_that_only_keeps_states_takes_one_block_for_a_request_of_any_length():
    kv = layout({**MAMBA, "n_groups": 8}, "0.32.0")
    assert [kv.blocks_per_request(length, STEP) for length in (1, 100_000)] == [1, 1]
    assert kv.block_bytes == 64 * 2 * (3 * (8192 + 2048) + 8192 * 128)


def test_whisper_keeps_the_sound_beside_its_own_tokens():
    kv = layout(WHISPER_TURBO, "0.32.0")
    assert [group.keeps for group in kv.groups] == ["all", "sound"]
    assert kv.blocks_per_request(448, 1) == 28 + 128
    assert kv.block_bytes == 4 * 16 * 2 * 1280 * 2


def test_an_encoder_keeps_nothing():
    kv = layout(BERT_BASE, "0.32.0")
    assert (kv.block_bytes, kv.groups, kv.needed_bytes(512, STEP)) == (0, (), 0)
    assert kv.capacity(GIB, 512, STEP).blocks == 0


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
