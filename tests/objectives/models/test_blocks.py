"""Latent attention and mixtures of experts, as configurations describe them."""

from objectives.models.blocks import experts_of, latent_of
from tests.objectives.models.published_shapes import (
    DEEPSEEK_V2_LITE,
    LLAMA_3_1_8B,
    MIXTRAL,
    QWEN3_30B_A3B,
)


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
