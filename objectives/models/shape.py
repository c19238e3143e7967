"""A language model's shape, and the bytes that follow from it: weights and KV cache.

Pure arithmetic over the numbers that `objectives.models.config` reads. What a configuration does
not say stays None, and the estimates that need it are absent rather than guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objectives.models import config as keys
from objectives.models.config import (
    AttentionLayers,
    Config,
    Experts,
    Latent,
    UnsupportedShapeError,
    experts_of,
    latent_of,
)
from objectives.models.quantization import Quantization, cache_bits, quantization_of

_FOUR_TIMES = ("gpt2", "gpt_bigcode", "gptj", "bloom", "falcon", "mpt")
_UNGATED = (*_FOUR_TIMES, "opt", "gpt_neox", "phi", "starcoder2")
_TIED_BY_DEFAULT = (
    "opt",
    "gpt2",
    "gpt_bigcode",
    "bloom",
    "falcon",
    "mpt",
    "gemma",
    "cohere",
    "starcoder2",
)
_KV_BITS = {
    "auto": None,
    **dict.fromkeys(("half", "float16", "bfloat16"), 16),
    **dict.fromkeys(("float", "float32"), 32),
    **dict.fromkeys(("fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc"), 8),
}


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What a model's memory depends on.

    Attributes:
        kv_heads: Heads that keys and values are kept for (1: MQA, fewer than `heads`: GQA).
        hidden: Width of the residual stream.
        intermediate: Width of the feed-forward block, of dense layers.
        max_position: Tokens of the longest request the configuration allows.
        tied_embeddings: The output head is the embedding.
        dtype_bytes: Of an unquantised weight as the engine loads it.
        quantization: None for weights in the model's own type.
        cache_bits: Of a key or value, where the checkpoint brings scales for a narrower cache.
        latent: MLA; None for ordinary heads.
        experts: None for a dense model.
        gated: The feed-forward block has a gate (three matrices, not two).
        multimodal: An encoder comes with it, whose memory is not in these numbers.
    """

    layers: int
    kv_heads: int
    head_dim: int
    heads: int | None = None
    hidden: int | None = None
    intermediate: int | None = None
    vocab: int | None = None
    max_position: int = 2048
    tied_embeddings: bool = False
    dtype_bytes: int = 2
    quantization: Quantization | None = None
    cache_bits: int | None = None
    attention: AttentionLayers
    latent: Latent | None = None
    experts: Experts | None = None
    gated: bool = True
    multimodal: bool = False
    kind: str = ""

    @classmethod
    def from_config(
        cls,
        source: Path | str | Mapping[str, Any],
        *,
        dtype: str = "auto",
        quantization: str | None = None,
    ) -> ModelShape:
        """Read a Hugging Face configuration.

        Args:
            source: A model's folder, its `config.json`, or the parsed document.
            dtype: The engine's `--dtype`; "auto" loads 16 bits, also from a 32-bit checkpoint.
            quantization: The engine's `--quantization`, for weights quantised while loading.

        Raises:
            UnsupportedShapeError: for a model that this arithmetic does not describe.
        """
        config, whole = keys.read_config(source)
        keys.check_supported(config, whole)
        kind = str(config.get("model_type", ""))
        layers = keys.required(config, keys.LAYERS, "number of layers")
        hidden, heads = keys.number(config, keys.HIDDEN), keys.number(config, keys.HEADS)
        latent = latent_of(config)
        return cls(
            layers=layers,
            kv_heads=_kv_heads(config, kind, heads, latent),
            head_dim=_head_dim(config, hidden, heads, latent),
            heads=heads,
            hidden=hidden,
            intermediate=_intermediate(config, kind, hidden),
            vocab=keys.number(config, keys.VOCAB),
            max_position=keys.max_position(config),
            tied_embeddings=bool(
                config.get("tie_word_embeddings", kind.startswith(_TIED_BY_DEFAULT))
            ),
            dtype_bytes=4 if dtype in ("float32", "float") else 2,
            quantization=quantization_of(config, quantization),
            cache_bits=cache_bits(config),
            attention=keys.attention_layers(config, layers),
            latent=latent,
            experts=experts_of(config, layers),
            gated=kind not in _UNGATED,
            multimodal=keys.has_vision(whole),
            kind=kind,
        )

    @property
    def embedding_parameters(self) -> int | None:
        """Embedding and output head: one matrix if tied, else two."""
        if self.hidden is None or self.vocab is None:
            return None
        return self.vocab * self.hidden * (1 if self.tied_embeddings else 2)

    @property
    def block_parameters(self) -> int | None:
        """The decoder layers: what a quantisation shrinks; norms and biases are left out.

        With the embedding, within 2 % of the published counts of the tests' models.
        """
        if self.hidden is None or self.heads is None:
            return None
        if self.experts is None and self.intermediate is None:
            return None
        dense_layers = self.layers if self.experts is None else self.experts.dense_layers
        dense = (3 if self.gated else 2) * self.hidden * (self.intermediate or 0)
        return (
            self.layers * self._attention_parameters()
            + dense_layers * dense
            + self.expert_parameters
        )

    @property
    def expert_parameters(self) -> int:
        """Routed and shared experts, and their routers, of all layers; 0 for a dense model."""
        if self.experts is None or self.hidden is None:
            return 0
        mix = self.experts
        one_layer = 3 * (mix.count * mix.intermediate + mix.shared_intermediate) + mix.count
        return (self.layers - mix.dense_layers) * one_layer * self.hidden

    def _attention_parameters(self) -> int:
        hidden, heads = self.hidden or 0, self.heads or 0
        if self.latent is None:
            return 2 * hidden * self.head_dim * (heads + self.kv_heads)
        mla = self.latent
        head = mla.nope_dim + mla.rope_dim
        rank = mla.query_rank
        query = hidden * heads * head if rank is None else rank * (hidden + heads * head)
        down = hidden * (mla.kv_rank + mla.rope_dim)
        up = mla.kv_rank * heads * (mla.nope_dim + mla.value_dim)
        return query + down + up + heads * mla.value_dim * hidden

    @property
    def weight_bytes(self) -> int | None:
        """All weights as the engine holds them, on however many devices; None if unknown."""
        blocks, embeddings = self.block_parameters, self.embedding_parameters
        if blocks is None or embeddings is None:
            return None
        plain = (blocks + embeddings) * self.dtype_bytes
        if self.quantization is None:
            return plain
        shrunk = self.expert_parameters if self.quantization.reach == "experts" else blocks
        return int(plain - shrunk * (self.dtype_bytes - self.quantization.bits / 8))

    @property
    def head_bytes(self) -> int:
        """The output head alone: what a checkpoint may hold twice though it is tied."""
        return (self.vocab or 0) * (self.hidden or 0) * self.dtype_bytes

    def kv_bytes_per_layer(self, kv_dtype: str = "auto", tp: int = 1) -> int:
        """Bytes that one token keeps in one layer, on one device.

        Heads are divided among the `tp` devices until each holds one; a latent vector is not.

        Raises:
            UnsupportedShapeError: for a packed type whose scales this does not count.
        """
        bits = kv_bits(kv_dtype, self.dtype_bytes)
        if kv_dtype == "auto" and self.cache_bits is not None:
            bits = self.cache_bits
        if self.latent is not None:
            return (self.latent.kv_rank + self.latent.rope_dim) * bits // 8
        return 2 * max(1, self.kv_heads // tp) * self.head_dim * bits // 8

    def kv_bytes_per_token(self, kv_dtype: str = "auto", tp: int = 1) -> int:
        """Bytes that one token keeps on one device, while every layer still holds it.

        Raises:
            UnsupportedShapeError: as `kv_bytes_per_layer`.
        """
        return self.layers * self.kv_bytes_per_layer(kv_dtype, tp)


def kv_bits(kv_dtype: str, dtype_bytes: int = 2) -> int:
    """Bits of one stored key or value.

    Raises:
        UnsupportedShapeError: for a packed type whose scales this does not count.
    """
    if kv_dtype not in _KV_BITS:
        raise UnsupportedShapeError(f"KV cache type {kv_dtype!r}: its packing is not known here")
    return _KV_BITS[kv_dtype] or 8 * dtype_bytes


def _kv_heads(config: Config, kind: str, heads: int | None, latent: Latent | None) -> int:
    if latent is not None:
        return 1
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        if kind == "chatglm":
            return keys.required(config, ("multi_query_group_num",), "number of KV heads")
        return 1
    nested = config.get("attn_config")
    found = keys.number(config, keys.KV_HEADS)
    if found is None and isinstance(nested, Mapping):
        found = keys.number(nested, ("kv_n_heads",))
    if found is None and heads is None:
        raise UnsupportedShapeError("the configuration gives neither KV heads nor attention heads")
    return found or heads or 1


def _head_dim(config: Config, hidden: int | None, heads: int | None, latent: Latent | None) -> int:
    if latent is not None:
        return latent.nope_dim + latent.rope_dim
    found = keys.number(config, keys.HEAD_DIM)
    if found is not None:
        return found
    if hidden is None or heads is None:
        raise UnsupportedShapeError(
            "the configuration gives neither head_dim nor hidden_size / heads"
        )
    return hidden // heads


def _intermediate(config: Config, kind: str, hidden: int | None) -> int | None:
    found = keys.number(config, keys.INTERMEDIATE)
    assumed = 4 * hidden if hidden is not None and kind in _FOUR_TIMES else None
    return assumed if found is None else found
