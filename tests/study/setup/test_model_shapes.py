"""Shapes of models: as published, so that random weights are as large as real ones."""

import pytest

from objectives.errors import UsageError
from study.setup.model_shapes import LLM_SHAPES, DummyLlm

SMALL = {
    "layers": 8,
    "hidden": 512,
    "heads": 8,
    "kv_heads": 8,
    "head_dim": 64,
    "intermediate": 1024,
    "vocab": 2048,
    "max_position": 4096,
}


def test_a_small_llm_is_a_llama_of_that_shape():
    config = DummyLlm(**SMALL).config()
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["num_hidden_layers"], config["head_dim"]) == (8, 64)
    assert config["max_position_embeddings"] == 4096
    assert "quantization_config" not in config


def test_the_model_that_the_first_users_ran_is_known_by_name():
    config = LLM_SHAPES["Qwen/Qwen2.5-7B-Instruct-AWQ"].config()
    assert config["model_type"] == "qwen2"
    assert (config["num_hidden_layers"], config["num_key_value_heads"]) == (28, 4)
    assert config["head_dim"] == 128
    assert config["quantization_config"]["bits"] == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kv_heads": 3}, "8 is no multiple of kv_heads"),
        ({"family": "qwen2", "head_dim": 32}, "512 is not heads times head_dim"),
    ],
)
def test_an_impossible_shape_is_bad_usage(change, said):
    with pytest.raises(UsageError, match=said):
        DummyLlm(**(SMALL | change)).config()
