"""Whisper's official models: their dimensions, names and sizes; and its encoder, on vLLM.

Source: openai-whisper, `model.py` (`ModelDimensions`, the layers) and `__init__.py` (the names).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from objectives.models.config import HIDDEN, Config, UnsupportedShapeError, number, required

_FLOAT16_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class WhisperDims:
    """The official dimensions, under the names a checkpoint gives them."""

    n_mels: int = 80
    n_audio_ctx: int = 1500
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_vocab: int = 51865
    n_text_ctx: int = 448
    n_text_state: int
    n_text_head: int
    n_text_layer: int

    @property
    def parameters(self) -> int:
        """Weights, exactly: the embedding is also the output head; positions of sound are none."""
        return self._encoder + self._decoder

    @property
    def _encoder(self) -> int:
        d = self.n_audio_state
        stem = 3 * d * (self.n_mels + d) + 2 * d  # two convolutions of width 3
        block = _attention(d) + _feed_forward(d) + 4 * d
        return stem + self.n_audio_layer * block + 2 * d

    @property
    def _decoder(self) -> int:
        d = self.n_text_state
        embeddings = (self.n_vocab + self.n_text_ctx) * d
        block = 2 * _attention(d) + _feed_forward(d) + 6 * d
        return embeddings + self.n_text_layer * block + 2 * d

    @property
    def checkpoint_bytes(self) -> int:
        """Of a file with these weights and the encoder's positions, in float16, about."""
        return _FLOAT16_BYTES * (self.parameters + self.n_audio_ctx * self.n_audio_state)

    @property
    def cross_cache_values(self) -> int:
        """Keys and values of the sound that the decoder keeps while it decodes one window."""
        return 2 * self.n_text_layer * self.n_audio_ctx * self.n_text_state


def _attention(d: int) -> int:
    return 4 * d * d + 3 * d  # keys have no bias


def _feed_forward(d: int) -> int:
    return 8 * d * d + 5 * d


def _official(
    state: int, heads: int, layers: int, *, text_layers: int = 0, v3: bool = False
) -> WhisperDims:
    return WhisperDims(
        n_mels=128 if v3 else 80,
        n_vocab=51866 if v3 else 51865,
        n_audio_state=state,
        n_audio_head=heads,
        n_audio_layer=layers,
        n_text_state=state,
        n_text_head=heads,
        n_text_layer=text_layers or layers,
    )


WHISPER_DIMS: Mapping[str, WhisperDims] = {
    "tiny": _official(384, 6, 4),
    "base": _official(512, 8, 6),
    "small": _official(768, 12, 12),
    "medium": _official(1024, 16, 24),
    "large-v1": _official(1280, 20, 32),
    "large-v2": _official(1280, 20, 32),
    "large-v3": _official(1280, 20, 32, v3=True),
    "large-v3-turbo": _official(1280, 20, 32, text_layers=4, v3=True),
}
"""The official multilingual models."""

WHISPER_ALIASES = {"large": "large-v3", "turbo": "large-v3-turbo"}
"""Shorter names of two of them."""

WHISPER_ENGLISH = ("tiny.en", "base.en", "small.en", "medium.en")
"""English-only models: one token of vocabulary less, which changes nothing here."""

WHISPER_NAMES = (*WHISPER_DIMS, *WHISPER_ALIASES, *WHISPER_ENGLISH)
"""Every official name."""


def canonical_name(model: str) -> str:
    """The multilingual model that has the same dimensions: `turbo`, `tiny.en` -> its own name."""
    plain = model.removesuffix(".en") if model in WHISPER_ENGLISH else model
    return WHISPER_ALIASES.get(plain, plain)


def whisper_dims(model: str) -> WhisperDims:
    """The dimensions of an official model.

    Raises:
        UnsupportedShapeError: for a name that is not official.
    """
    found = WHISPER_DIMS.get(canonical_name(model))
    if found is None:
        known = ", ".join(WHISPER_NAMES)
        raise UnsupportedShapeError(f"Whisper model {model!r} is none of {known}")
    return found


_FROM_WORST = (
    *("tiny", "base", "small", "medium"),
    *("large-v1", "large-v3-turbo", "large-v2", "large-v3"),
)
WHISPER_SIZES = {
    name: _FROM_WORST.index(canonical_name(name)) for name in (*WHISPER_DIMS, *WHISPER_ALIASES)
}
"""Whisper's checkpoints from worst to best words, as their authors order them."""


def nearest_whisper(name: str) -> str:
    """What to say of a name that is none of Whisper's models."""
    near = difflib.get_close_matches(name, WHISPER_NAMES, n=1)
    return (
        f"an official model; nearest: {near[0]}" if near else f"one of {', '.join(WHISPER_NAMES)}"
    )


@dataclass(frozen=True, kw_only=True)
class SpeechEncoder:
    """The encoder of a Whisper and the cross-attention of its decoder.

    Attributes:
        tokens: That one window of sound becomes.
        hidden: Width of the residual stream.
        intermediate: Width of its feed-forward blocks.
        parameters: Of the encoder, and of the decoder's cross-attention.
    """

    tokens: int
    hidden: int
    intermediate: int
    parameters: int


def speech_encoder_of(config: Config, decoder_layers: int) -> SpeechEncoder | None:
    """The encoder that a Whisper's configuration describes; None for any other model."""
    if config.get("model_type") != "whisper":
        return None
    hidden = required(config, HIDDEN, "hidden size")
    layers = required(config, ("encoder_layers",), "number of encoder layers")
    wide = number(config, ("encoder_ffn_dim",)) or 4 * hidden
    mels = number(config, ("num_mel_bins",)) or 80
    tokens = number(config, ("max_source_positions",)) or 1500
    stem = 3 * hidden * (mels + hidden) + tokens * hidden
    block = 4 * hidden * hidden + 2 * hidden * wide
    positions = (number(config, ("max_target_positions",)) or 448) * hidden
    return SpeechEncoder(
        tokens=tokens,
        hidden=hidden,
        intermediate=wide,
        parameters=stem + layers * block + decoder_layers * 4 * hidden * hidden + positions,
    )
