"""What attention keeps of one token in one layer."""

import pytest

from objectives.models.config import UnsupportedShapeError, latent_of
from objectives.models.heads import heads_of, kv_bits
from tests.objectives.models import published_shapes as published


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
