"""The state that a recurrent layer keeps for each sequence."""

import pytest

from objectives.models.config import UnsupportedShapeError
from objectives.models.recurrent import recurrent_of
from tests.objectives.models import published_shapes as published


def state(config, tp=1, *, conv="auto", kind="auto", speculated=0):
    return recurrent_of(config, 1).state_bytes(2, tp, conv=conv, state=kind, speculated=speculated)


@pytest.mark.parametrize(
    ("config", "conv", "values", "width"),
    [
        (published.QWEN3_6_27B, 3 * 10240, 48 * 128 * 128, 4),
        (published.QWEN3_NEXT_80B, 3 * 8192, 32 * 128 * 128, 2),
        (published.KIMI_LINEAR_48B, 3 * 3 * 4096, 32 * 128 * 128, 4),
        (published.JAMBA_MINI, 3 * 8192, 8192 * 16, 2),
        (published.GRANITE_4_SMALL, 3 * (8192 + 256), 128 * 64 * 128, 2),
        (published.NEMOTRON_NANO_9B, 3 * (10240 + 2 * 8 * 128), 128 * 80 * 128, 4),
        (published.FALCON_H1_7B, 3 * (3072 + 512), 24 * 128 * 256, 2),
        (published.BAMBA_9B, 3 * (8192 + 256), 128 * 64 * 128, 2),
        ({"model_type": "lfm2", "hidden_size": 2048, "conv_L_cache": 3}, 2 * 2048, 0, 2),
        ({"model_type": "mamba", "hidden_size": 768, "intermediate_size": 1536,
          "state_size": 16, "conv_kernel": 4}, 3 * 1536, 1536 * 16, 2),
        ({"model_type": "minimax_text_01", "hidden_size": 6144, "num_attention_heads": 64,
          "head_dim": 128, "attn_type_list": [0]}, 0, 64 * 128 * 128, 2),
    ],
)  # fmt: skip
def test_a_convolution_and_a_state_are_kept_as_each_family_has_them(config, conv, values, width):
    assert state(config) == 2 * conv + width * values


def test_devices_share_heads_but_each_needs_a_whole_group():
    assert state(published.QWEN3_6_27B, 2) * 2 == state(published.QWEN3_6_27B)
    whole, half = state(published.GRANITE_4_SMALL), state(published.GRANITE_4_SMALL, 2)
    assert half == whole // 2 + 3 * 256 // 2 * 2


def test_a_type_that_is_asked_for_stands_before_the_familys():
    narrow = state(published.QWEN3_6_27B, kind="bfloat16")
    assert narrow == 2 * (3 * 10240 + 48 * 128 * 128)
    assert state(published.BAMBA_9B, conv="float32") == 2 * state(published.BAMBA_9B)


def test_nemotron_says_itself_whether_its_state_is_wide():
    stated = {**published.NEMOTRON_NANO_9B, "mamba_ssm_cache_dtype": "bfloat16"}
    assert state(stated) < state(published.NEMOTRON_NANO_9B)


def test_a_draft_makes_the_convolution_longer():
    longer = state(published.QWEN3_6_27B, speculated=3) - state(published.QWEN3_6_27B)
    assert longer == 3 * 10240 * 2


def test_a_model_without_such_layers_has_none():
    assert recurrent_of(published.LLAMA_3_1_8B, 0) is None


def test_an_unknown_state_cannot_be_told():
    config = {"model_type": "x", "hidden_size": 64}
    with pytest.raises(UnsupportedShapeError, match="cannot tell, because the state that"):
        recurrent_of(config, 3)
