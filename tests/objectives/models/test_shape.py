"""A model's shape: parameters, weights, bytes of KV cache per token."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.models.config import UnsupportedShapeError
from objectives.models.layers import kv_bits
from objectives.models.shape import ModelShape
from tests.objectives.models import published_shapes as published

GIB = 1 << 30


@pytest.mark.parametrize(
    ("config", "billions"),
    [
        (published.QWEN2_5_7B, 7.62),
        (published.QWEN2_5_HALF_B, 0.494),
        (published.LLAMA_3_1_8B, 8.03),
        (published.MIXTRAL, 46.7),
        (published.QWEN3_30B_A3B, 30.5),
        (published.DEEPSEEK_V2_LITE, 15.7),
        (published.GPT_OSS_20B, 20.9),
        (published.GEMMA_3_4B, 3.88),
        (published.OPT_125M, 0.125),
        (published.QWEN3_6_27B, 26.9),
        (published.QWEN3_6_35B_A3B, 34.7),
        (published.QWEN3_NEXT_80B, 79.7),
        (published.KIMI_LINEAR_48B, 49.1),
        (published.JAMBA_MINI, 51.6),
        (published.GRANITE_4_SMALL, 32.2),
        (published.NEMOTRON_NANO_9B, 8.89),
        (published.FALCON_H1_7B, 7.59),
        (published.BAMBA_9B, 9.78),
        (published.GEMMA_4_26B_A4B, 25.2),
        (published.WHISPER_TURBO, 0.809),
        (published.BERT_BASE, 0.109),
    ],
)
def test_parameters_agree_with_the_published_count(config, billions):
    shape = ModelShape.from_config(config)
    parameters = shape.block_parameters + shape.embedding_parameters
    assert parameters / 1e9 == pytest.approx(billions, rel=0.02)


@pytest.mark.parametrize(
    ("config", "per_token"),
    [
        (published.QWEN2_5_7B, 57_344),
        (published.LLAMA_3_1_8B, 131_072),
        (published.OPT_125M, 36_864),
        (published.DEEPSEEK_V2_LITE, 27 * 576 * 2),
        (published.FALCON_7B, 32 * 2 * 64 * 2),
    ],
    ids=["GQA", "GQA 8", "MHA", "MLA", "MQA"],
)
def test_a_token_costs_what_its_kind_of_attention_keeps(config, per_token):
    assert ModelShape.from_config(config).kv_bytes_per_token() == per_token


def test_eight_bits_halve_a_token():
    shape = ModelShape.from_config(published.QWEN2_5_7B)
    assert shape.kv_bytes_per_token("fp8") * 2 == shape.kv_bytes_per_token()


def test_a_checkpoint_with_scales_for_its_cache_makes_an_automatic_one_narrow():
    stated = {"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8}}
    shape = ModelShape.from_config({**published.QWEN2_5_7B, "quantization_config": stated})
    assert shape.kv_bytes_per_token() == 28_672
    assert shape.kv_bytes_per_token("bfloat16") == 57_344


def test_heads_are_divided_until_each_device_holds_one():
    shape = ModelShape.from_config(published.QWEN2_5_7B)
    assert [shape.kv_bytes_per_token(tp=tp) for tp in (1, 2, 4, 8)] == [57344, 28672, 14336, 14336]


def test_a_latent_vector_is_on_every_device():
    shape = ModelShape.from_config(published.DEEPSEEK_V2_LITE)
    assert shape.kv_bytes_per_token(tp=8) == shape.kv_bytes_per_token()


def test_a_packed_cache_type_is_refused():
    with pytest.raises(UnsupportedShapeError, match="nvfp4"):
        kv_bits("nvfp4")


def test_four_bit_weights_leave_the_embeddings_wide():
    """The checkpoint's files are 5.57 GB; a 4-bit multiplication alone would say 3.8."""
    awq = ModelShape.from_config(published.QWEN2_5_7B_AWQ)
    assert awq.weight_bytes / 1e9 == pytest.approx(5.57, rel=0.01)


def test_only_the_experts_shrink_where_only_they_are_quantised():
    shape = ModelShape.from_config(published.GPT_OSS_20B)
    assert shape.weight_bytes / GIB == pytest.approx(12.8, rel=0.02)


def test_tied_embeddings_are_held_once():
    tied = ModelShape.from_config(published.QWEN2_5_HALF_B)
    untied = ModelShape.from_config({**published.QWEN2_5_HALF_B, "tie_word_embeddings": False})
    assert untied.weight_bytes - tied.weight_bytes == 151936 * 896 * 2 == tied.head_bytes


def test_a_32_bit_checkpoint_is_loaded_in_16_unless_asked_otherwise():
    config = {**published.OPT_125M, "torch_dtype": "float32"}
    assert ModelShape.from_config(config).dtype_bytes == 2
    assert ModelShape.from_config(config, dtype="float32").kv_bytes_per_token() == 2 * 36_864


def test_weights_quantised_while_loading_are_as_small_as_asked():
    plain = ModelShape.from_config(published.LLAMA_3_1_8B)
    fp8 = ModelShape.from_config(published.LLAMA_3_1_8B, quantization="fp8")
    assert fp8.weight_bytes < 0.58 * plain.weight_bytes


def test_layers_heads_and_their_width_are_enough_for_the_cache():
    shape = ModelShape.from_config(
        {"num_hidden_layers": 28, "num_key_value_heads": 4, "head_dim": 128}
    )
    assert shape.kv_bytes_per_token() == 57_344
    assert shape.block_parameters is None
    assert shape.weight_bytes is None


@pytest.mark.parametrize(
    ("config", "missing"),
    [
        ({"num_key_value_heads": 4, "head_dim": 128}, "number of layers"),
        ({"num_hidden_layers": 4, "head_dim": 128}, "KV heads"),
        ({"num_hidden_layers": 4, "num_key_value_heads": 4}, "head_dim"),
    ],
)
def test_what_the_cache_needs_and_is_not_there_is_named(config, missing):
    with pytest.raises(UnsupportedShapeError, match=missing):
        ModelShape.from_config(config)


CONFIGS = [value for name, value in vars(published).items() if name.isupper()]
ODD = st.sampled_from([None, 0, "auto", -1, 1.5, True, [], [3], {}, 10**7, ["full_attention"]])


@settings(deadline=None, max_examples=300)
@given(config=st.sampled_from(CONFIGS), data=st.data())
def test_an_odd_value_ends_in_a_shape_or_in_a_reason(config, data):
    """Configurations are written by hand: what is wrong with one is said, and never a traceback."""
    odd = {**config, data.draw(st.sampled_from(sorted(config))): data.draw(ODD)}
    try:
        shape = ModelShape.from_config(odd)
    except UnsupportedShapeError as error:
        assert str(error)
    else:
        assert shape.kv_bytes_per_token() >= 0
        assert shape.weight_bytes is None or shape.weight_bytes > 0
