"""Whisper's official models: names and dimensions."""

from dataclasses import asdict

import pytest

from objectives.models.config import UnsupportedShapeError
from objectives.models.whisper import (
    WHISPER_DIMS,
    WHISPER_NAMES,
    canonical_name,
    nearest_whisper,
    speech_encoder_of,
    whisper_dims,
)
from tests.objectives.models.published_shapes import LLAMA_3_1_8B, WHISPER_TURBO


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
    assert asdict(WHISPER_DIMS["tiny"]) == {
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


def test_a_misspelt_name_is_answered_with_the_nearest():
    assert nearest_whisper("smal") == "an official model; nearest: small"
    assert nearest_whisper("xyzzy").startswith("one of tiny, base, small")


@pytest.mark.parametrize(
    ("short", "own"),
    [("turbo", "large-v3-turbo"), ("large", "large-v3"), ("tiny.en", "tiny"), ("small", "small")],
)
def test_short_and_english_names_have_the_dimensions_of_the_multilingual_model(short, own):
    assert canonical_name(short) == own
    assert whisper_dims(short) == WHISPER_DIMS[own]


def test_every_official_name_has_dimensions_and_no_other_has():
    assert all(whisper_dims(name).parameters > 0 for name in WHISPER_NAMES)
    with pytest.raises(UnsupportedShapeError, match=r"'turbo\.en' is none of tiny"):
        whisper_dims("turbo.en")


def test_a_whispers_encoder_and_cross_attention_are_the_rest_of_its_weights():
    encoder = speech_encoder_of(WHISPER_TURBO, 4)
    dims = whisper_dims("turbo")
    decoder = 4 * (4 + 8) * 1280 * 1280 + dims.n_vocab * 1280
    assert encoder.tokens == 1500
    assert abs(encoder.parameters + decoder - dims.parameters) < 0.01 * dims.parameters


def test_other_models_have_none():
    assert speech_encoder_of(LLAMA_3_1_8B, 32) is None
