"""The encoder of a model, and what a request keeps of it."""

from objectives.models.encoder import is_gated, speech_encoder_of
from objectives.models.whisper import whisper_dims
from tests.objectives.models.published_shapes import LLAMA_3_1_8B, WHISPER_TURBO


def test_a_whispers_encoder_and_cross_attention_are_the_rest_of_its_weights():
    encoder = speech_encoder_of(WHISPER_TURBO, 4)
    dims = whisper_dims("turbo")
    decoder = 4 * (4 + 8) * 1280 * 1280 + dims.n_vocab * 1280
    assert encoder.tokens == 1500
    assert abs(encoder.parameters + decoder - dims.parameters) < 0.01 * dims.parameters


def test_other_models_have_none():
    assert speech_encoder_of(LLAMA_3_1_8B, 32) is None


def test_newer_encoders_of_text_are_gated():
    assert is_gated("modernbert")
    assert not is_gated("bert")
