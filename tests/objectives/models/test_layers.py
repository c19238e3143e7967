"""Which layer sees every token, which a window, and which keeps a state."""

import pytest

from objectives.models.config import UnsupportedShapeError
from objectives.models.layers import attention_layers, indexed_layers, layer_kinds, plan_of
from tests.objectives.models import published_shapes as published


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
        ({"model_type": "mamba2"}, 0, 64, 0),
        ({"model_type": "lfm2", "full_attn_idxs": [2, 5]}, 2, 14, 16),
        ({"model_type": "zamba2", "layers_block_type": ["mamba", "hybrid"]}, 1, 2, 2),
        ({"model_type": "minimax_m2", "attn_type_list": [1, 1]}, 2, 0, 2),
        ({"model_type": "minimax_text_01", "attn_type_list": [0, 1]}, 1, 1, 2),
    ],
)
def test_hybrids_name_a_list_a_pattern_a_period_or_places(
    config, attending, recurrent, feed_forward
):
    layers = config.get("num_hidden_layers") or {"mamba2": 64, "lfm2": 16}.get(
        config["model_type"], 2
    )
    plan = plan_of(config, layers)
    assert (plan.attending, plan.recurrent, plan.feed_forward) == (
        attending,
        recurrent,
        feed_forward,
    )


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
