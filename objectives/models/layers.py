"""Which layer of a model does what, and what its attention keeps of one token.

Families say which layer sees every token, a window of them, or keeps a state in four ways: a list
of names, a pattern of letters, a period, or not at all because their code knows. What comes out is
counts, for nothing else enters the memory.

Source: transformers' configuration classes; vLLM `model_executor/models/` (`nemotron_h`, `jamba`,
`falcon_h1`, `qwen3_next`, `deepseek_v2`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from objectives.models.config import (
    HEAD_DIM,
    HEADS,
    HIDDEN,
    KV_HEADS,
    Config,
    Latent,
    UnsupportedShapeError,
    cannot_tell,
    number,
    numbers,
    required,
)
from objectives.models.recurrent import RecurrentLayers, recurrent_of

_NAMES = {
    **dict.fromkeys(("full_attention", "attention", "global_attention"), "full"),
    **dict.fromkeys(("indexed_attention", "deepseek_sparse_attention"), "full"),
    **dict.fromkeys(("sliding_attention", "sliding_window"), "window"),
    "chunked_attention": "chunk",
    # MiMo lists numbers
    "0": "full",
    "1": "window",
    **dict.fromkeys(("linear_attention", "mamba", "mamba2", "conv", "kda", "recurrent"), "state"),
    **dict.fromkeys(("hybrid", "parallel_hybrid"), "both"),
    **dict.fromkeys(("mlp", "moe"), "none"),
}
_LETTERS = {"M": "state", "*": "full", "-": "none", "E": "none"}
_PURE = ("mamba", "mamba2", "falcon_mamba")
_RECURRENT = (
    *("ssm_state_size", "state_size", "mamba_d_state", "mamba_d_conv", "mamba_num_heads"),
    *("linear_attn_config", "linear_num_key_heads", "conv_L_cache", "layer_group_size"),
)
_LAYER_LISTS = ("layers_block_type", "layer_types", "hybrid_layer_pattern")


@dataclass(frozen=True, kw_only=True)
class AttentionLayers:
    """How many layers keep every token, and how many only a window of them."""

    full: int
    window: int = 0
    window_tokens: int | None = None
    chunked: bool = False


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """What the layers of a model do.

    Attributes:
        attention: Those with a KV cache of their own.
        attending: Those that attend at all.
        recurrent: Those that keep a state for each sequence; None without any.
        feed_forward: Those with a feed-forward block.
    """

    attention: AttentionLayers
    attending: int
    recurrent: RecurrentLayers | None
    feed_forward: int


def plan_of(config: Config, layers: int, *, encodes: bool = False) -> LayerPlan:
    """What each layer does; `encodes` where nothing is kept for later tokens.

    Raises:
        UnsupportedShapeError: for a kind of layer that is not known here.
    """
    kind = str(config.get("model_type", ""))
    if kind in _PURE:
        none = AttentionLayers(full=0)
        state = recurrent_of(config, layers)
        return LayerPlan(attention=none, attending=0, recurrent=state, feed_forward=0)
    kinds = layer_kinds(config, layers)
    if kinds is None and (key := next((key for key in _RECURRENT if config.get(key)), None)):
        raise cannot_tell(
            f"which layers of {kind or 'the model'} are recurrent is not said ({key})"
        )
    each = kinds or ("full",) * layers
    wide = _sharing(config) if config.get("use_double_wide_mlp") else 0  # those count twice
    return LayerPlan(
        attention=AttentionLayers(full=0) if encodes else attention_layers(config, layers),
        attending=sum(name not in ("state", "none") for name in each),
        recurrent=recurrent_of(config, sum(name in ("state", "both") for name in each)),
        feed_forward=each.count("none") if "none" in each else layers + wide,
    )


def attention_layers(config: Config, layers: int) -> AttentionLayers:
    """How the layers that have a KV cache of their own attend: to all tokens, or to a window.

    Layers that read the cache of an earlier one (`num_kv_shared_layers`, the last ones) keep none.

    Raises:
        UnsupportedShapeError: for a kind of layer that is neither.
    """
    window = number(config, ("sliding_window", "sliding_window_size"))
    own = max(0, layers - _sharing(config))
    kinds = layer_kinds(config, layers)
    if kinds is not None:
        return _by_kind(config, kinds[:own], window)
    if config.get("attention_chunk_size"):
        raise cannot_tell("chunked attention, and no layer_types to say where")
    ends = window is None or config.get("use_sliding_window") is False
    full = own if ends else _full_of_pattern(config, own)
    if full == own:
        return AttentionLayers(full=own)
    return AttentionLayers(full=full, window=own - full, window_tokens=window)


def _sharing(config: Config) -> int:
    """The last layers, which read the cache of an earlier one."""
    return number(config, ("num_kv_shared_layers",)) or 0


def layer_kinds(config: Config, layers: int) -> tuple[str, ...] | None:
    """Every layer: "full", "window", "chunk", "state", "both", "none"; None if all are alike.

    Raises:
        UnsupportedShapeError: for a name that is not known here.
    """
    pattern = config.get("hybrid_override_pattern")
    if isinstance(pattern, str) and pattern:
        return _named(pattern, _LETTERS)[:layers]
    for key in _LAYER_LISTS:
        named = config.get(key)
        if isinstance(named, list | tuple) and named:
            return _named(named, _NAMES)[:layers]
    return _by_period(config, layers)


def _named(names: str | list[str] | tuple[str, ...], known: Mapping[str, str]) -> tuple[str, ...]:
    odd = sorted({str(name) for name in names} - set(known))
    if odd:
        raise cannot_tell(f"layers of the kind {', '.join(odd)} are not known here")
    return tuple(known[str(name)] for name in names)


def _by_period(config: Config, layers: int) -> tuple[str, ...] | None:
    """Layers of a hybrid that names a period or places; None for any other model."""
    if config.get("model_type") == "falcon_h1":  # both side by side in every layer
        return ("both",) * layers
    if str(config.get("model_type")).startswith("llama4") and config.get("attention_chunk_size"):
        rotates = numbers(config, "no_rope_layers") or [(at + 1) % 4 for at in range(layers)]
        return tuple("chunk" if each else "full" for each in rotates[:layers])
    attending = _attending(config, layers)
    if attending is None:
        return None
    return tuple("full" if at in attending else "state" for at in range(layers))


def _attending(config: Config, layers: int) -> frozenset[int] | None:
    """Places of the layers with attention, in a hybrid; None for any other model."""
    kimi, places = config.get("linear_attn_config"), range(layers)
    if isinstance(kimi, Mapping) and isinstance(kimi.get("full_attn_layers"), list | tuple):
        return frozenset(at - 1 for at in numbers(kimi, "full_attn_layers"))
    for key in ("attn_layer_indices", "full_attn_idxs"):
        if isinstance(config.get(key), list | tuple):
            return frozenset(numbers(config, key))
    if isinstance(config.get("attn_type_list"), list | tuple):
        return frozenset(at for at, kind in enumerate(config["attn_type_list"]) if kind)
    if period := number(config, ("attn_layer_period",)):
        offset = number(config, ("attn_layer_offset",)) or 0
        return frozenset(at for at in places if at % period == offset)
    if config.get("linear_num_value_heads"):
        period = number(config, ("full_attention_interval",)) or 4
        return frozenset(at for at in places if (at + 1) % period == 0)
    return None


def _by_kind(config: Config, kinds: tuple[str, ...], window: int | None) -> AttentionLayers:
    chunked, sliding = kinds.count("chunk"), kinds.count("window")
    if chunked and sliding:
        raise cannot_tell("it has chunked and sliding-window layers in one model")
    full = kinds.count("full") + kinds.count("both")
    size = number(config, ("attention_chunk_size",)) if chunked else window
    if not (chunked or sliding) or size is None:
        return AttentionLayers(full=full + chunked + sliding)
    return AttentionLayers(
        full=full, window=chunked + sliding, window_tokens=size, chunked=bool(chunked)
    )


def _full_of_pattern(config: Config, layers: int) -> int:
    """Layers that see every token, of a model that names a window but no `layer_types`."""
    kind = str(config.get("model_type", ""))
    if config.get("use_sliding_window") and "max_window_layers" in config:
        first = number(config, ("max_window_layers",)) or 0
        return min(layers, first)  # Qwen2: the first ones see all
    pattern = number(config, ("sliding_window_pattern", "_sliding_window_pattern"))
    if pattern is None:
        known = {"gemma2": 2, "gpt_oss": 2, "gemma3_text": 6, "gemma4_text": 6, "cohere2": 4}
        pattern = {**known, "gemma3n_text": 5}.get(kind)
    return layers // pattern if pattern else 0


def indexed_layers(config: Config, layers: int) -> int:
    """Layers of sparse latent attention that keep an index of their own beside the cache.

    All of them, unless the configuration lets several share one (`index_topk_freq`, or a pattern
    with an "S" for each that shares).
    """
    if not config.get("index_topk"):
        return 0
    pattern = config.get("index_topk_pattern")
    if isinstance(pattern, str | list | tuple):
        return layers - list(pattern[:layers]).count("S")
    every = number(config, ("index_topk_freq",)) or 1
    offset = number(config, ("index_skip_topk_offset",)) or 2
    return sum(max(at - offset + 1, 0) % every == 0 for at in range(layers))


_KV_BITS = {
    "auto": None,
    **dict.fromkeys(("half", "float16", "bfloat16"), 16),
    **dict.fromkeys(("float", "float32"), 32),
    **dict.fromkeys(("fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc", "fp8_ds_mla"), 8),
}


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The heads of one layer.

    Attributes:
        kv_heads: That keys and values are kept for (1: MQA; fewer than those that ask: GQA).
        key_dim, value_dim: Width of a key and of a value.
        own_values: Values have a projection of their own; else the keys' serves both.
    """

    kv_heads: int
    key_dim: int
    value_dim: int
    own_values: bool = True

    def kept_values(self, tp: int = 1) -> int:
        """Numbers kept on one of `tp` devices: heads are divided until each device has one."""
        return max(1, self.kv_heads // tp) * (self.key_dim + self.value_dim)

    def parameters(self, hidden: int, queries: int, *, gate: bool = False) -> int:
        """Weights of the four projections for so many query heads, with a gate if there is one."""
        kept = self.kv_heads * (self.key_dim + (self.value_dim if self.own_values else 0))
        asked = queries * (self.key_dim * (2 if gate else 1) + self.value_dim)
        return hidden * (asked + kept)


NO_HEADS = Heads(kv_heads=0, key_dim=0, value_dim=0)


def kv_bits(kv_dtype: str, dtype_bytes: int = 2) -> int:
    """Bits of one stored key or value.

    Raises:
        UnsupportedShapeError: for a packed type whose scales this does not count.
    """
    if kv_dtype not in _KV_BITS:
        raise cannot_tell(f"the packing of KV cache type {kv_dtype!r} is not known here")
    return _KV_BITS[kv_dtype] or 8 * dtype_bytes


def heads_of(config: Config, latent: Latent | None) -> tuple[Heads, Heads]:
    """Heads of the layers that see every token, and of those that see a window.

    Gemma 4 has wider and fewer ones where every token is seen, MiMo more of them in a window.

    Raises:
        UnsupportedShapeError: naming what the configuration does not give.
    """
    if latent is not None:
        dim = latent.nope_dim + latent.rope_dim
        alike = Heads(kv_heads=1, key_dim=dim, value_dim=latent.value_dim)
        return alike, alike
    dim = _head_dim(config)
    plain = Heads(
        kv_heads=_kv_heads(config),
        key_dim=dim,
        value_dim=number(config, ("v_head_dim",)) or dim,
    )
    return _global(config, plain), _windowed(config, plain)


def _global(config: Config, plain: Heads) -> Heads:
    dim = number(config, ("global_head_dim",))
    kind = str(config.get("model_type", ""))
    dim = 512 if dim is None and kind.startswith("gemma4") else dim
    shares = bool(config.get("attention_k_eq_v"))
    fewer = number(config, ("num_global_key_value_heads",)) if shares or dim is None else None
    return replace(
        plain,
        kv_heads=fewer or plain.kv_heads,
        key_dim=dim or plain.key_dim,
        value_dim=dim or plain.value_dim,
        own_values=not shares,
    )


def _windowed(config: Config, plain: Heads) -> Heads:
    return replace(
        plain,
        kv_heads=number(config, ("swa_num_key_value_heads",)) or plain.kv_heads,
        key_dim=number(config, ("swa_head_dim",)) or plain.key_dim,
        value_dim=number(config, ("swa_v_head_dim",)) or plain.value_dim,
    )


def _kv_heads(config: Config) -> int:
    heads = number(config, HEADS)
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        if config.get("model_type") == "chatglm":
            return required(config, ("multi_query_group_num",), "number of KV heads")
        return 1
    nested = config.get("attn_config")
    found = number(config, KV_HEADS)
    if found is None and isinstance(nested, Mapping):
        found = number(nested, ("kv_n_heads",))
    if found is None and heads is None:
        raise UnsupportedShapeError("the configuration gives neither KV heads nor attention heads")
    return found or heads or 1


def _head_dim(config: Config) -> int:
    hidden, heads = number(config, HIDDEN), number(config, HEADS)
    found = number(config, HEAD_DIM)
    if found is not None:
        return found
    if hidden is None or heads is None or hidden < heads:
        raise UnsupportedShapeError(
            "the configuration gives neither head_dim nor hidden_size / heads"
        )
    return hidden // heads
