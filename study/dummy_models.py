"""The shapes of models: enough to make random weights of the same size, and to say how large.

Pure: what makes the files is `study.weights`.
"""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from typing import Any, Literal

from objectives.errors import UsageError

_FLOAT16_BYTES = 2
_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}


@dataclass(frozen=True, kw_only=True)
class DummyLlm:
    """The shape of a language model whose weights are random."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    max_position: int  # tokens
    family: Literal["llama", "qwen2"] = "llama"
    tied: bool = False  # input and output embeddings are one
    quantization: Literal["awq"] | None = None  # 4 bits a weight

    def config(self) -> dict[str, Any]:
        """As Hugging Face's `config.json` says it.

        Raises: UsageError, if the shape cannot be computed.
        """
        if self.heads % self.kv_heads:
            raise UsageError(
                f"heads: {self.heads} is no multiple of kv_heads, which are {self.kv_heads}"
            )
        if self.family == "qwen2" and self.heads * self.head_dim != self.hidden:
            raise UsageError(f"hidden: {self.hidden} is not heads times head_dim, as qwen2 needs")
        config = {
            "architectures": [
                {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}[self.family]
            ],
            "model_type": self.family,
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.max_position,
            "tie_word_embeddings": self.tied,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 1_000_000.0,
            "torch_dtype": "float16" if self.quantization else "bfloat16",
        }
        return config | ({"quantization_config": _AWQ} if self.quantization else {})


def _qwen(
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    intermediate: int,
    *,
    large: bool = False,
    quantization: Literal["awq"] | None = None,
) -> DummyLlm:
    """A Qwen2.5: heads of 64 or 128, 32768 tokens; from 7B on, embeddings of their own."""
    return DummyLlm(
        family="qwen2",
        vocab=152_064 if large else 151_936,
        tied=not large,
        quantization=quantization,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=hidden // heads,
        intermediate=intermediate,
        max_position=32_768,
    )


LLM_SHAPES: dict[str, DummyLlm] = {
    "Qwen/Qwen2.5-0.5B-Instruct": _qwen(24, 896, 14, 2, 4864),
    "Qwen/Qwen2.5-1.5B-Instruct": _qwen(28, 1536, 12, 2, 8960),
    "Qwen/Qwen2.5-3B-Instruct": _qwen(36, 2048, 16, 2, 11008),
    "Qwen/Qwen2.5-7B-Instruct": _qwen(28, 3584, 28, 4, 18944, large=True),
    "Qwen/Qwen2.5-7B-Instruct-AWQ": _qwen(28, 3584, 28, 4, 18944, large=True, quantization="awq"),
}
"""Models whose names are enough for random weights of the same size (their config.json)."""


@dataclass(frozen=True, kw_only=True)
class WhisperDims:
    """A Whisper model's dimensions, by openai-whisper's own names."""

    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_text_layer: int
    n_mels: int = 80
    n_vocab: int = 51_865
    n_audio_ctx: int = 1500
    n_text_ctx: int = 448

    def document(self) -> dict[str, int]:
        """As a checkpoint says it; the decoder is as wide as the encoder."""
        text = {"n_text_state": self.n_audio_state, "n_text_head": self.n_audio_head}
        return asdict(self) | text

    @property
    def parameters(self) -> int:
        """How many weights; encoder's fixed positions are no weights.

        Per block, of width d: attention 4 d² + 3 d (the key has no bias), feed-forward 8 d² + 5 d,
        each layer norm 2 d; the decoder's blocks attend twice.
        Source: openai-whisper's model.py.
        """
        width = self.n_audio_state
        encoder = (
            3 * width * (self.n_mels + width)  # two convolutions, kernels of 3
            + 2 * width
            + self.n_audio_layer * (12 * width**2 + 12 * width)
            + 2 * width
        )
        decoder = (
            width * (self.n_vocab + self.n_text_ctx)
            + self.n_text_layer * (16 * width**2 + 17 * width)
            + 2 * width
        )
        return encoder + decoder

    @property
    def checkpoint_bytes(self) -> int:
        """Of a file with these weights and the positions, in float16, about."""
        return _FLOAT16_BYTES * (self.parameters + self.n_audio_ctx * self.n_audio_state)


def _dims(width: int, heads: int, layers: int, **more: int) -> WhisperDims:
    return WhisperDims(
        **{"n_text_layer": layers, **more},
        n_audio_state=width,
        n_audio_head=heads,
        n_audio_layer=layers,
    )


WHISPER_DIMS: dict[str, WhisperDims] = {
    "tiny": _dims(384, 6, 4),
    "base": _dims(512, 8, 6),
    "small": _dims(768, 12, 12),
    "medium": _dims(1024, 16, 24),
    "large-v1": _dims(1280, 20, 32),
    "large-v2": _dims(1280, 20, 32),
    "large-v3": _dims(1280, 20, 32, n_mels=128, n_vocab=51_866),
    "large-v3-turbo": _dims(1280, 20, 32, n_mels=128, n_vocab=51_866, n_text_layer=4),
}
"""The official multilingual models."""

WHISPER_ALIASES = {"large": "large-v3", "turbo": "large-v3-turbo"}
WHISPER_ENGLISH = ("tiny.en", "base.en", "small.en", "medium.en")


def nearest_whisper(name: str) -> str:
    """What to say of a name that is none of Whisper's models."""
    names = [*WHISPER_DIMS, *WHISPER_ALIASES, *WHISPER_ENGLISH]
    near = difflib.get_close_matches(name, names, n=1)
    return f"an official model; nearest: {near[0]}" if near else f"one of {', '.join(names)}"
