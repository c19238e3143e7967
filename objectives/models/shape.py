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
from objectives.models.config import Config, Experts, Latent, experts_of, latent_of
from objectives.models.layers import (
    NO_HEADS,
    AttentionLayers,
    Heads,
    heads_of,
    indexed_layers,
    kv_bits,
    plan_of,
)
from objectives.models.quantization import Quantization, cache_bits, quantization_of
from objectives.models.recurrent import RecurrentLayers
from objectives.models.whisper import SpeechEncoder, speech_encoder_of

_FOUR_TIMES = ("gpt2", "gpt_bigcode", "gptj", "bloom", "falcon", "mpt")
_UNGATED = (
    *(*_FOUR_TIMES, "opt", "gpt_neox", "phi", "starcoder2", "whisper"),
    *("nemotron", "nemotron_h", "nemotron_h_puzzle", "clip_text_model", "siglip_text_model"),
    *("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "mpnet", "deberta"),
)
_TIED_BY_DEFAULT = (
    *("opt", "gpt2", "gpt_bigcode", "bloom", "falcon", "mpt", "gemma", "cohere", "starcoder2"),
    *("whisper", "lfm2", "zamba2", "mamba", "falcon_mamba"),
)
_UNTIED = ("falcon_h1", "mamba2")
"""By their own rule, unlike families whose names begin alike."""

_GATED_QUERIES = ("qwen3_next", "qwen3_5")
_DRAFT_LAYERS = ("mtp_num_hidden_layers", "num_nextn_predict_layers")
_VIDEO_TOKENS = 2496
"""Of Gemma 4: 32 frames of 78 tokens, which vLLM raises a default step to.

Source: vLLM `engine/arg_utils.py` (`_get_min_mm_batched_tokens`).
"""

_SHARED_BLOCKS = ("zamba", "zamba2")
"""Their attention and feed-forward blocks are used by several layers: the sum is not known here."""

_INDEX_BYTES = 132
"""Of sparse attention's index for a token and layer: 128 values of 8 bits, and their scale.

Source: vLLM `deepseek_v2.py` (`DeepseekV32IndexerCache`).
"""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What a model's memory depends on.

    Attributes:
        full_heads, window_heads: What layers keep that see every token, or a window of them.
        attending: Layers that attend; `attention` counts those with a cache of their own.
        heads: Query heads of a layer.
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
        recurrent: Layers that keep a state for each sequence; None without any.
        feed_forward: Layers that have such a block.
        indexed: Layers of sparse attention with an index beside their cache.
        gated_queries: Attention has an output gate, as wide as its queries.
        extra_parameters: Weights that are in no layer and that no quantisation shrinks.
        draft_layers: Layers that propose tokens ahead, where an engine is asked for it (MTP).
        longest_item_tokens: Of one image, video or sound that a single step must take whole.
        speech: A Whisper's encoder; None for any other model.
        encoder_only: Nothing is kept for later tokens: there is no KV cache.
        multimodal: An encoder comes with it, whose memory is not in these numbers.
    """

    layers: int
    full_heads: Heads
    window_heads: Heads
    attending: int
    feed_forward: int
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
    recurrent: RecurrentLayers | None = None
    indexed: int = 0
    gated_queries: bool = False
    extra_parameters: int = 0
    draft_layers: int = 0
    longest_item_tokens: int = 0
    speech: SpeechEncoder | None = None
    encoder_only: bool = False
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
        kind, encodes = str(config.get("model_type", "")), keys.is_encoder(config, whole)
        layers = keys.layer_count(config)
        hidden, latent = keys.number(config, keys.HIDDEN), latent_of(config)
        plan = plan_of(config, layers, encodes=encodes)
        full, window = heads_of(config, latent) if plan.attending else (NO_HEADS, NO_HEADS)
        tied = kind.startswith(_TIED_BY_DEFAULT) and kind not in _UNTIED
        return cls(
            layers=layers,
            attention=plan.attention,
            attending=plan.attending,
            full_heads=full,
            window_heads=window,
            recurrent=plan.recurrent,
            feed_forward=plan.feed_forward,
            indexed=indexed_layers(config, layers),
            heads=keys.number(config, keys.HEADS),
            hidden=hidden,
            intermediate=_intermediate(config, kind, hidden),
            vocab=keys.number(config, keys.VOCAB),
            max_position=keys.max_position(config),
            tied_embeddings=encodes or bool(config.get("tie_word_embeddings", tied)),
            dtype_bytes=4 if dtype in ("float32", "float") else 2,
            quantization=quantization_of(config, quantization),
            cache_bits=cache_bits(config),
            latent=latent,
            experts=experts_of(config, layers),
            gated=kind not in _UNGATED,
            gated_queries=bool(config.get("attn_output_gate", kind.startswith(_GATED_QUERIES))),
            extra_parameters=_per_layer_embeddings(config, layers),
            draft_layers=keys.number(config, _DRAFT_LAYERS) or 0,
            longest_item_tokens=_VIDEO_TOKENS if kind.startswith("gemma4") else 0,
            speech=speech_encoder_of(config, layers),
            encoder_only=encodes,
            multimodal=keys.has_vision(whole),
            kind=kind,
        )

    @property
    def embedding_parameters(self) -> int | None:
        """Embedding and output head, one matrix if tied, else two; an encoder of sound, too."""
        if self.hidden is None or self.vocab is None:
            return None
        beside = self.extra_parameters + (self.speech.parameters if self.speech else 0)
        return self.vocab * self.hidden * (1 if self.tied_embeddings else 2) + beside

    @property
    def block_parameters(self) -> int | None:
        """The decoder layers: what a quantisation shrinks; norms and biases are left out.

        With the embedding, within 2 % of the published counts of the tests' models.
        """
        if self.hidden is None or (self.attending and self.heads is None):
            return None
        dense_layers = self.feed_forward if self.experts is None else self.experts.dense_layers
        if (dense_layers and self.intermediate is None) or self.kind in _SHARED_BLOCKS:
            return None
        dense = (3 if self.gated else 2) * self.hidden * (self.intermediate or 0)
        state = self.recurrent
        return (
            self._attention_parameters()
            + (state.count * state.parameters if state else 0)
            + dense_layers * dense
            + self.expert_parameters
        )

    @property
    def expert_parameters(self) -> int:
        """Routed and shared experts, and their routers, of all layers; 0 for a dense model."""
        if self.experts is None or self.hidden is None:
            return 0
        mix, matrices = self.experts, 3 if self.gated else 2
        width = mix.inputs or self.hidden
        routed = matrices * mix.count * mix.intermediate * width + mix.count * self.hidden
        beside = matrices * mix.shared_intermediate * self.hidden
        narrowed = 2 * self.hidden * width if mix.inputs else 0
        return (self.feed_forward - mix.dense_layers) * (routed + beside + narrowed)

    def _attention_parameters(self) -> int:
        """Of all layers that attend; layers that share another's cache are like windowed ones."""
        hidden, heads = self.hidden or 0, self.heads or 0
        if self.latent is None:
            full = self.attention.full if self.attention.window else self.attending
            each = (self.full_heads, full), (self.window_heads, self.attending - full)
            return sum(
                count * kind.parameters(hidden, heads, gate=self.gated_queries)
                for kind, count in each
            )
        mla = self.latent
        head = mla.nope_dim + mla.rope_dim
        rank = mla.query_rank
        query = hidden * heads * head if rank is None else rank * (hidden + heads * head)
        down = hidden * (mla.kv_rank + mla.rope_dim)
        up = mla.kv_rank * heads * (mla.nope_dim + mla.value_dim)
        return self.attending * (query + down + up + heads * mla.value_dim * hidden)

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

    def kv_bytes_per_layer(
        self, kv_dtype: str = "auto", tp: int = 1, *, window: bool = False
    ) -> int:
        """Bytes that one token keeps in one layer, on one device; of a windowed layer if asked.

        Heads are divided among the `tp` devices until each holds one; a latent vector is not.

        Raises:
            UnsupportedShapeError: for a packed type whose scales this does not count.
        """
        bits = kv_bits(kv_dtype, self.dtype_bytes)
        if kv_dtype == "auto" and self.cache_bits is not None:
            bits = self.cache_bits
        if self.latent is None:
            return (self.window_heads if window else self.full_heads).kept_values(tp) * bits // 8
        if bits == 8 and self.indexed:  # packed: a scale for each 128 values, the rest in 16 bits
            return self.latent.kv_rank // 128 * 132 + 2 * self.latent.rope_dim
        return (self.latent.kv_rank + self.latent.rope_dim) * bits // 8

    def kv_bytes_per_token(self, kv_dtype: str = "auto", tp: int = 1) -> int:
        """Bytes that one token keeps on one device, while every layer still holds it.

        Raises:
            UnsupportedShapeError: as `kv_bytes_per_layer`.
        """
        full, window = self.attention.full, self.attention.window
        kept = full * self.kv_bytes_per_layer(kv_dtype, tp) + self.index_bytes_per_token
        return kept + window * self.kv_bytes_per_layer(kv_dtype, tp, window=True)

    @property
    def index_bytes_per_token(self) -> int:
        """Bytes of sparse attention's index for one token, over all layers that keep one."""
        return self.indexed * _INDEX_BYTES

    def state_bytes(self, tp: int, conv: str = "auto", state: str = "auto", drafts: int = 0) -> int:
        """Bytes of one sequence's state in one recurrent layer, on one device; 0 without any.

        `conv` and `state` are the types that an engine is asked for, `drafts` the tokens that it
        proposes ahead.
        """
        if self.recurrent is None:
            return 0
        return self.recurrent.state_bytes(
            self.dtype_bytes, tp, conv=conv, state=state, speculated=drafts
        )


def _intermediate(config: Config, kind: str, hidden: int | None) -> int | None:
    experts = keys.number(config, keys.EXPERTS)
    wide = ("shared_intermediate_size",) if "shared_intermediate_size" in config else ()
    found = keys.number(config, keys.INTERMEDIATE if experts else (*wide, *keys.INTERMEDIATE))
    if found is not None and config.get("block_auto_adjust_ff_dim"):  # LFM2, as Llama's first code
        rounded = keys.number(config, ("block_multiple_of",)) or 256
        found = -(-(2 * found // 3) // rounded) * rounded
    assumed = 4 * hidden if hidden is not None and kind in _FOUR_TIMES else None
    return assumed if found is None else found


def _per_layer_embeddings(config: Config, layers: int) -> int:
    """Gemma 3n's and the small Gemma 4's second embedding, with a narrow row for each layer."""
    width = keys.number(config, ("hidden_size_per_layer_input",))
    vocab = keys.number(config, ("vocab_size_per_layer_input",))
    return 0 if width is None or vocab is None else vocab * layers * width
