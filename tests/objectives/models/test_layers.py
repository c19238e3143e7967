"""Which layer sees every token, which a window, and which keeps a state."""

import pytest

from objectives.models.config import UnsupportedShapeError, latent_of
from objectives.models.layers import (
    attention_layers,
    heads_of,
    indexed_layers,
    kv_bits,
    layer_kinds,
    plan_of,
)
from tests.objectives.models import published_shapes as published

STATE = {"model_type": "zamba2", "hidden_size": 64, "num_heads": 8, "n_mamba_heads": 8,
         "mamba_d_state": 16}  # fmt: skip
LFM2 = {"model_type": "lfm2", "hidden_size": 64, "conv_L_cache": 3, "num_hidden_layers": 16}
LIGHTNING = {"model_type": "minimax_text_01", "hidden_size": 64, "num_attention_heads": 4}


def test_a_window_that_is_switched_off_is_none():
    assert attention_layers(published.QWEN2_5_7B, 28).full == 28


def test_a_list_of_layers_counts_before_any_pattern():
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    found = attention_layers({"layer_types": kinds * 3, "sliding_window": 512}, 18)
    assert (found.full, found.window, found.window_tokens) == (3, 15, 512)


@pytest.mark.parametrize(
    ("config", "layers", "full"),
    [
        (published.GPT_OSS_20B, 24, 12),
        (published.GEMMA_3_4B["text_config"], 34, 5),
        ({"model_type": "gemma2", "sliding_window": 4096}, 26, 13),
        ({"model_type": "gemma4_text", "sliding_window": 512}, 30, 5),
        ({"model_type": "cohere2", "sliding_window": 4096, "sliding_window_pattern": 4}, 40, 10),
        ({"model_type": "mistral", "sliding_window": 4096}, 32, 0),
        ({"model_type": "qwen2", "sliding_window": 9, "use_sliding_window": True,
          "max_window_layers": 20}, 28, 20),
        ({"model_type": "mimo_v2_flash", "sliding_window": 128,
          "hybrid_layer_pattern": [0, 1, 1, 1]}, 4, 1),
    ],
)  # fmt: skip
def test_a_familys_pattern_says_which_layers_see_everything(config, layers, full):
    found = attention_layers(config, layers)
    assert (found.full, found.window) == (full, layers - full)


def test_chunked_layers_are_told_apart_from_sliding_ones():
    kinds = ["chunked_attention"] * 3 + ["full_attention"]
    found = attention_layers({"layer_types": kinds, "attention_chunk_size": 8192}, 4)
    assert (found.window, found.window_tokens, found.chunked) == (3, 8192, True)


def test_llama_4_sees_everything_in_every_fourth_layer_or_where_it_says():
    config = {"model_type": "llama4_text", "attention_chunk_size": 8192}
    assert layer_kinds(config, 8) == ("chunk", "chunk", "chunk", "full") * 2
    assert layer_kinds({**config, "no_rope_layers": [0, 1]}, 2) == ("full", "chunk")


def test_layers_that_read_anothers_cache_keep_none():
    kinds = ["sliding_attention"] * 4 + ["full_attention"]
    config = {"layer_types": kinds * 6, "sliding_window": 512, "num_kv_shared_layers": 10}
    found = attention_layers(config, 30)
    assert (found.full, found.window) == (4, 16)


def test_a_layer_of_unknown_kind_cannot_be_told():
    with pytest.raises(UnsupportedShapeError, match="cannot tell, because layers of the kind warp"):
        layer_kinds({"layer_types": ["warp", "full_attention"]}, 2)


def test_recurrent_layers_that_no_list_places_cannot_be_told():
    with pytest.raises(UnsupportedShapeError, match="which layers of plamo2 are recurrent"):
        plan_of({"model_type": "plamo2", "mamba_d_state": 64}, 32)


@pytest.mark.parametrize(
    ("config", "attending", "recurrent", "feed_forward"),
    [
        (published.QWEN3_6_27B, 16, 48, 64),
        (published.QWEN3_NEXT_80B, 12, 36, 48),
        (published.KIMI_LINEAR_48B, 7, 20, 27),
        (published.JAMBA_MINI, 4, 28, 32),
        (published.GRANITE_4_SMALL, 4, 36, 40),
        (published.NEMOTRON_NANO_9B, 4, 27, 25),
        (published.FALCON_H1_7B, 44, 44, 44),
        (published.BAMBA_9B, 3, 29, 32),
        ({**STATE, "model_type": "mamba2", "num_hidden_layers": 64}, 0, 64, 0),
        ({**LFM2, "full_attn_idxs": [2, 5]}, 2, 14, 16),
        ({**STATE, "layers_block_type": ["mamba", "hybrid"]}, 1, 2, 2),
        ({**LIGHTNING, "layer_types": ["linear_attention", "full_attention"]}, 1, 1, 2),
        (
            {
                "model_type": "gemma4_text",
                "num_kv_shared_layers": 4,
                "use_double_wide_mlp": True,
                "num_hidden_layers": 6,
            },
            6,
            0,
            10,
        ),
        ({"model_type": "minimax_m2", "attn_type_list": [1, 1]}, 2, 0, 2),
        ({**LIGHTNING, "attn_type_list": [0, 1]}, 1, 1, 2),
    ],
)
def test_hybrids_name_a_list_a_pattern_a_period_or_places(
    config, attending, recurrent, feed_forward
):
    plan = plan_of(config, config.get("num_hidden_layers", 2))
    states = 0 if plan.recurrent is None else plan.recurrent.count
    assert (plan.attending, states, plan.feed_forward) == (attending, recurrent, feed_forward)


def test_an_encoder_attends_and_keeps_nothing():
    plan = plan_of(published.BERT_BASE, 12, encodes=True)
    assert (plan.attending, plan.attention.full) == (12, 0)


@pytest.mark.parametrize(
    ("changes", "indexed"),
    [
        ({}, 21),
        ({"index_topk_freq": None}, 78),
        ({"index_topk_pattern": "FSSS" * 19 + "FS"}, 20),
        ({"index_topk": None}, 0),
    ],
)
def test_layers_may_share_an_index(changes, indexed):
    assert indexed_layers({**published.GLM_5, **changes}, 78) == indexed


def kept(config):
    full, window = heads_of(config, latent_of(config))
    return full.kept_values(), window.kept_values()


def test_ordinary_layers_are_all_alike():
    assert kept(published.LLAMA_3_1_8B) == (2 * 8 * 128, 2 * 8 * 128)


def test_gemma_4_has_wider_and_fewer_heads_where_every_token_is_seen():
    assert kept(published.GEMMA_4_26B_A4B) == (2 * 2 * 512, 2 * 8 * 256)
    plain = {**published.GEMMA_4_26B_A4B, "attention_k_eq_v": False}
    assert kept(plain) == (2 * 8 * 512, 2 * 8 * 256)


def test_values_may_be_narrower_than_keys_and_a_window_may_have_more_heads():
    config = {
        "num_attention_heads": 64,
        "num_key_value_heads": 4,
        "head_dim": 192,
        "v_head_dim": 128,
        "swa_num_key_value_heads": 8,
    }
    assert kept(config) == (4 * 320, 8 * 320)


def test_heads_are_divided_until_each_device_has_one():
    full, _ = heads_of(published.QWEN3_6_35B_A3B, None)
    assert [full.kept_values(tp) for tp in (1, 2, 4)] == [1024, 512, 512]


def test_shared_projections_and_gates_change_the_weights_and_not_the_cache():
    full, _ = heads_of(published.GEMMA_4_26B_A4B, None)
    assert full.parameters(2816, 16) == 2816 * 512 * (2 * 16 + 2)
    assert full.parameters(2816, 16, gate=True) == 2816 * 512 * (3 * 16 + 2)


@pytest.mark.parametrize(("name", "bits"), [("auto", 16), ("fp8", 8), ("float32", 32)])
def test_a_type_has_bits(name, bits):
    assert kv_bits(name) == bits


def test_a_packed_type_cannot_be_told():
    with pytest.raises(UnsupportedShapeError, match=r"cannot tell, because .*'nvfp4'"):
        kv_bits("nvfp4")
