"""The encoder of a model: what it weighs, and how many of its tokens a request keeps.

An encoder of text (BERT and its kin) keeps nothing between requests. Whisper's decoder looks at
every token of the encoded sound, whose keys and values are kept beside its own.

Source: transformers `modeling_whisper.py`, `modeling_bert.py`; vLLM
`v1/kv_cache_interface.py` (`CrossAttentionSpec`, `EncoderOnlyAttentionSpec`).
"""

from __future__ import annotations

from dataclasses import dataclass

from objectives.models.config import HIDDEN, Config, number, required

_GATED = ("modernbert", "nomic_bert", "gte", "new")


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
    mels, tokens = int(config.get("num_mel_bins") or 80), config.get("max_source_positions") or 1500
    stem = 3 * hidden * (mels + hidden) + int(tokens) * hidden
    block = 4 * hidden * hidden + 2 * hidden * wide
    positions = (number(config, ("max_target_positions",)) or 448) * hidden
    return SpeechEncoder(
        tokens=int(tokens),
        hidden=hidden,
        intermediate=wide,
        parameters=stem + layers * block + decoder_layers * 4 * hidden * hidden + positions,
    )


def is_gated(kind: str) -> bool:
    """Whether an encoder of this type has three matrices in its feed-forward block, not two."""
    return kind in _GATED
