"""Shapes of models: as published, so that random weights are as large as real ones."""

import pytest

from objectives.errors import UsageError
from study.dummy_models import LLM_SHAPES, WHISPER_DIMS, DummyLlm, nearest_whisper

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


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("tiny", 37.18),
        ("base", 71.83),
        ("small", 240.58),
        ("medium", 762.32),
        ("large-v2", 1541.38),
        ("large-v3", 1541.57),
        ("large-v3-turbo", 806.96),
    ],
)
def test_whispers_sizes_are_the_published_ones(name, millions):
    assert WHISPER_DIMS[name].parameters / 1e6 == pytest.approx(millions, abs=0.01)


def test_a_checkpoint_is_as_large_as_the_published_one():
    """OpenAI's tiny.pt has 75 572 083 bytes, small.pt 483 617 219."""
    assert WHISPER_DIMS["tiny"].checkpoint_bytes == pytest.approx(75_572_083, rel=0.001)
    assert WHISPER_DIMS["small"].checkpoint_bytes == pytest.approx(483_617_219, rel=0.001)


def test_the_dimensions_are_written_by_openai_whispers_own_names():
    assert WHISPER_DIMS["tiny"].document() == {
        "n_mels": 80,
        "n_audio_ctx": 1500,
        "n_audio_state": 384,
        "n_audio_head": 6,
        "n_audio_layer": 4,
        "n_vocab": 51865,
        "n_text_ctx": 448,
        "n_text_state": 384,
        "n_text_head": 6,
        "n_text_layer": 4,
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


def test_a_misspelt_name_is_answered_with_the_nearest():
    assert nearest_whisper("smal") == "an official model; nearest: small"
    assert nearest_whisper("xyzzy").startswith("one of tiny, base, small")
