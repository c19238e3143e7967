"""Which key of a `config.json` says what, and which models are refused."""

import json

import pytest

from objectives.models.config import (
    UnsupportedShapeError,
    attention_layers,
    check_supported,
    experts_of,
    latent_of,
    max_position,
    number,
    read_config,
)
from tests.objectives.models.published_shapes import (
    DEEPSEEK_V2_LITE,
    GEMMA_3_4B,
    GPT_OSS_20B,
    LLAMA_3_1_8B,
    MIXTRAL,
    QWEN2_5_7B,
    QWEN3_30B_A3B,
)


def test_a_folder_its_file_and_the_document_say_the_same(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_3_1_8B))
    read = [read_config(source)[0] for source in (tmp_path, tmp_path / "config.json", LLAMA_3_1_8B)]
    assert read[0] == read[1] == read[2] == LLAMA_3_1_8B


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UnsupportedShapeError, match=r"config\.json: No such file"):
        read_config(tmp_path)


@pytest.mark.parametrize("text", ["", "[1]", "{", '"llama"'])
def test_what_is_no_json_object_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UnsupportedShapeError):
        read_config(tmp_path)


def test_the_language_model_of_a_multimodal_one_inherits_what_it_leaves_out():
    text, whole = read_config({**GEMMA_3_4B, "quantization_config": {"quant_method": "fp8"}})
    assert text["num_hidden_layers"] == 34
    assert text["tie_word_embeddings"] is True
    assert text["quantization_config"] == {"quant_method": "fp8"}
    assert whole["model_type"] == "gemma3"


def test_a_silent_text_config_means_what_transformers_assumes():
    text, _ = read_config({"model_type": "llava", "text_config": {"model_type": "llama"}})
    assert (text["num_hidden_layers"], text["num_attention_heads"]) == (32, 32)


def test_a_number_per_layer_is_refused():
    with pytest.raises(UnsupportedShapeError, match="from layer to layer"):
        number({"num_kv_heads": [4, 8]}, ("num_kv_heads",))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "mamba2", "state_size": 128}, "recurrent"),
        ({"model_type": "jamba"}, "recurrent"),
        ({"model_type": "qwen3_next", "linear_num_key_heads": 16}, "recurrent"),
        ({"model_type": "kimi_linear", "linear_attn_config": {"x": 1}}, "recurrent"),
        ({"model_type": "whisper", "is_encoder_decoder": True}, "cross-attention"),
        ({"model_type": "t5"}, "cross-attention"),
        ({"model_type": "bert"}, "encoder"),
        ({"model_type": "x", "architectures": ["XLMRobertaModel"]}, "encoder"),
        ({"model_type": "nemotron-nas", "block_configs": [{}]}, "from layer to layer"),
        ({"model_type": "deepseek_v32", "index_topk": 2048}, "index"),
        ({"model_type": "gemma3n_text", "num_kv_shared_layers": 10}, "share"),
        ({"model_type": "gemma4_text", "global_head_dim": 512}, "wider"),
        ({"model_type": "minimax_text_01", "attn_type_list": [0, 1]}, "linear-attention"),
        ({"model_type": "mimo", "head_dim": 192, "v_head_dim": 128}, "differ in width"),
    ],
)
def test_what_keeps_no_equal_share_per_token_is_refused_with_the_reason(config, reason):
    with pytest.raises(UnsupportedShapeError, match=reason):
        check_supported(config, config)


def test_minimax_without_linear_layers_is_an_ordinary_model():
    config = {"model_type": "minimax_m2", "attn_type_list": [1, 1], "head_dim": 128}
    assert check_supported(config, config) is None


def test_a_window_that_is_switched_off_is_none():
    assert attention_layers(QWEN2_5_7B, 28).full == 28


def test_a_list_of_layers_counts_before_any_pattern():
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    found = attention_layers({"layer_types": kinds * 3, "sliding_window": 512}, 18)
    assert (found.full, found.window, found.window_tokens) == (3, 15, 512)


@pytest.mark.parametrize(
    ("config", "layers", "full"),
    [
        (GPT_OSS_20B, 24, 12),
        (GEMMA_3_4B["text_config"], 34, 5),
        ({"model_type": "gemma2", "sliding_window": 4096}, 26, 13),
        ({"model_type": "cohere2", "sliding_window": 4096, "sliding_window_pattern": 4}, 40, 10),
        ({"model_type": "mistral", "sliding_window": 4096}, 32, 0),
        ({"model_type": "qwen2", "sliding_window": 9, "use_sliding_window": True,
          "max_window_layers": 20}, 28, 20),
    ],
)  # fmt: skip
def test_a_familys_pattern_says_which_layers_see_everything(config, layers, full):
    found = attention_layers(config, layers)
    assert (found.full, found.window) == (full, layers - full)


def test_chunked_layers_are_told_apart_from_sliding_ones():
    kinds = ["chunked_attention"] * 3 + ["full_attention"]
    found = attention_layers({"layer_types": kinds, "attention_chunk_size": 8192}, 4)
    assert (found.window, found.window_tokens, found.chunked) == (3, 8192, True)


def test_a_layer_of_unknown_kind_makes_a_hybrid():
    with pytest.raises(UnsupportedShapeError, match="linear_attention"):
        attention_layers({"layer_types": ["linear_attention", "full_attention"]}, 2)


def test_a_stretched_rotary_embedding_makes_requests_longer():
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert max_position({"max_position_embeddings": 40960, "rope_scaling": yarn}) == 131072
    llama3 = {"rope_type": "llama3", "factor": 8.0}
    assert max_position({"max_position_embeddings": 131072, "rope_scaling": llama3}) == 131072
    assert max_position({}) == 2048


def test_ordinary_models_have_neither():
    assert latent_of(LLAMA_3_1_8B) is None
    assert experts_of(LLAMA_3_1_8B, 32) is None


def test_latent_attention_keeps_its_rank_and_its_rotary_part():
    latent = latent_of(DEEPSEEK_V2_LITE)
    assert (latent.kv_rank, latent.rope_dim, latent.query_rank) == (512, 64, None)


def test_mixtral_names_the_width_of_an_expert_as_its_own():
    experts = experts_of(MIXTRAL, 32)
    assert (experts.count, experts.per_token, experts.intermediate) == (8, 2, 14336)
    assert experts.dense_layers == 0


def test_shared_experts_and_dense_first_layers_are_counted():
    experts = experts_of(DEEPSEEK_V2_LITE, 27)
    assert experts.shared_intermediate == 2 * 1408
    assert experts.dense_layers == 1


def test_every_layer_of_qwen3_is_sparse():
    assert experts_of(QWEN3_30B_A3B, 48).dense_layers == 0


def test_a_step_leaves_plain_layers_between():
    step = {**QWEN3_30B_A3B, "decoder_sparse_step": 2}
    assert experts_of(step, 48).dense_layers == 24
