"""Which key of a `config.json` says what, and which models are refused."""

import json

import pytest

from objectives.models.config import (
    UnsupportedShapeError,
    check_supported,
    experts_of,
    is_encoder,
    latent_of,
    layer_count,
    max_position,
    number,
    read_config,
)
from tests.objectives.models.published_shapes import (
    BERT_BASE,
    DEEPSEEK_V2_LITE,
    GEMMA_3_4B,
    GEMMA_4_26B_A4B,
    GLM_5,
    JAMBA_MINI,
    KIMI_LINEAR_48B,
    LLAMA_3_1_8B,
    MIXTRAL,
    QWEN3_6_27B,
    QWEN3_30B_A3B,
    WHISPER_TURBO,
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
        ({"model_type": "t5"}, "second cache"),
        ({"model_type": "x", "is_encoder_decoder": True}, "second cache"),
        ({"model_type": "nemotron-nas", "block_configs": [{}]}, "from layer to layer"),
        ({"model_type": "deepseek_v4", "compress_ratios": [4]}, "compress"),
        ({"model_type": "recurrent_gemma", "lru_width": 2560}, "not known here"),
        ({"model_type": "rwkv6", "rwkv_version": 6}, "RWKV"),
    ],
)
def test_what_is_not_described_here_cannot_be_told_and_says_why(config, reason):
    with pytest.raises(UnsupportedShapeError, match=f"^cannot tell, because .*{reason}"):
        check_supported(config, config)


@pytest.mark.parametrize("config", [WHISPER_TURBO, BERT_BASE, QWEN3_6_27B, GLM_5, GEMMA_4_26B_A4B])
def test_whisper_encoders_hybrids_and_sparse_attention_are_described(config):
    assert check_supported(config, config) is None


@pytest.mark.parametrize(
    ("config", "encodes"),
    [
        (BERT_BASE, True),
        ({"model_type": "x", "architectures": ["XLMRobertaModel"]}, True),
        ({"model_type": "modernbert"}, True),
        ({"model_type": "nomic_bert"}, True),
        ({"model_type": "clip_text_model"}, True),
        ({"model_type": "qwen2", "is_causal": False}, True),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, True),
        ({"model_type": "gemma4_text", "use_bidirectional_attention": "vision"}, False),
        (LLAMA_3_1_8B, False),
        ({"model_type": "bertha"}, False),
    ],
)
def test_what_sees_all_tokens_at_once_is_an_encoder(config, encodes):
    assert is_encoder(config, config) is encodes


def test_whisper_counts_its_decoder_and_not_its_encoder():
    text, _ = read_config(WHISPER_TURBO)
    assert layer_count(text) == 4
    assert max_position(text) == 448


def test_a_number_for_each_layer_that_is_always_the_same_is_that_number():
    assert number({"intermediate_size": [8192] * 30}, ("intermediate_size",)) == 8192


def test_layers_that_are_only_named_are_counted():
    assert layer_count({"layers_block_type": ["mamba", "attention"]}) == 2


def test_a_silent_gemma_means_what_transformers_assumes():
    text, _ = read_config({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}})
    assert (text["num_key_value_heads"], text["head_dim"]) == (4, 256)


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


@pytest.mark.parametrize(
    ("config", "layers", "dense"),
    [
        (JAMBA_MINI, 32, 16),
        (KIMI_LINEAR_48B, 27, 1),
        ({**QWEN3_30B_A3B, "mlp_layer_types": ["dense"] * 3 + ["sparse"] * 45}, 48, 3),
        ({**QWEN3_30B_A3B, "layers_block_type": ["mamba", "mlp", "moe", "mlp"]}, 4, 2),
        ({**QWEN3_30B_A3B, "hybrid_override_pattern": "ME*-ME"}, 6, 1),
    ],
)
def test_every_family_says_in_its_way_which_layers_are_plain(config, layers, dense):
    assert experts_of(config, layers).dense_layers == dense


def test_gemmas_plain_block_stands_beside_the_experts():
    experts = experts_of(GEMMA_4_26B_A4B, 30)
    assert (experts.per_token, experts.shared_intermediate) == (8, 2112)
