"""Reading a Hugging Face `config.json`: which key says what, and which models are refused.

Model families name the same thing differently, nest the language model in a larger
configuration, or leave out what their code defaults. All of that is settled here;
`objectives.models.shape` sees plain numbers.

A model whose KV cache is not a whole number of equal tokens (state-space and linear-attention
hybrids, encoders, models whose layers differ in width) is refused with the reason: no number is
better than a wrong one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Config = Mapping[str, Any]

LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
HEADS = ("num_attention_heads", "n_head", "n_heads")
KV_HEADS = ("num_key_value_heads", "n_head_kv", "num_kv_heads", "multi_query_group_num")
HEAD_DIM = ("head_dim", "kv_channels", "attention_head_dim")
HIDDEN = ("hidden_size", "n_embd", "d_model")
INTERMEDIATE = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")
VOCAB = ("vocab_size", "padded_vocab_size")
MAX_POSITION = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
    "model_max_length",
)
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
EXPERTS_PER_TOKEN = ("num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token")

_NESTED = ("text_config", "llm_config", "language_config", "thinker_config")
_INHERITED = ("quantization_config", "torch_dtype", "dtype", "tie_word_embeddings")
_VISION = ("vision_config", "visual", "vision_tower", "mm_vision_tower")
# What transformers' LlamaConfig and MistralConfig assume where a nested text_config is silent.
_LLAMA = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
}
_NESTED_DEFAULTS: Mapping[str, Config] = {
    "llama": _LLAMA,
    "mistral": {**_LLAMA, "num_key_value_heads": 8, "intermediate_size": 14336},
}

_RECURRENT_KEYS = (
    "ssm_cfg",
    "ssm_state_size",
    "state_size",
    "mamba_d_state",
    "mamba_d_ssm",
    "hybrid_override_pattern",
    "layers_block_type",
    "attn_layer_period",
    "linear_attn_config",
    "linear_num_key_heads",
    "conv_L_cache",
    "lru_width",
    "rwkv_version",
)
_RECURRENT_TYPES = ("mamba", "rwkv", "jamba", "bamba", "zamba", "nemotron_h", "falcon_h1", "plamo2")
_ENCODERS = ("bert", "roberta", "modernbert", "deberta", "electra", "mpnet", "nomic", "gte", "clip")
_ENCODER_DECODERS = ("whisper", "t5", "bart", "mbart", "m2m", "florence2", "mllama", "nllb")
_LAYER_KINDS = ("full_attention", "attention", "sliding_attention", "chunked_attention")
_UNLIKE_LAYERS = {
    "block_configs": "attention heads differ from layer to layer",
    "index_topk": "sparse attention keeps an index beside the cache",
    "compress_ratios": "sparse attention keeps an index beside the cache",
    "num_kv_shared_layers": "layers share their KV cache",
    "global_head_dim": "global layers are wider than local ones",
    "num_global_key_value_heads": "global layers are wider than local ones",
}


class UnsupportedShapeError(ValueError):
    """A model or a setting whose memory this arithmetic does not describe; the text says why."""


@dataclass(frozen=True, kw_only=True)
class AttentionLayers:
    """How many layers keep every token, and how many only a window of them."""

    full: int
    window: int = 0
    window_tokens: int | None = None
    chunked: bool = False


def read_config(source: Path | str | Config) -> tuple[dict[str, Any], Config]:
    """The language model's part of a configuration, and the whole of it.

    Raises:
        UnsupportedShapeError: if there is no such file, or it is no JSON object.
    """
    whole = source if isinstance(source, Mapping) else _load(Path(source))
    text: Config = whole
    while (
        nested := next((text[k] for k in _NESTED if isinstance(text.get(k), Mapping)), None)
    ) is not None:
        text = nested
    if text is whole:
        return dict(whole), whole
    inherited = {key: whole[key] for key in _INHERITED if whole.get(key) is not None}
    defaults = _NESTED_DEFAULTS.get(str(text.get("model_type")), {})
    return {**defaults, **inherited, **text}, whole


def _load(path: Path) -> Config:
    file = path / "config.json" if path.is_dir() else path
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnsupportedShapeError(f"{file}: {error.strerror or error}") from error
    except ValueError as error:
        raise UnsupportedShapeError(f"{file}: not JSON ({error})") from error
    if not isinstance(document, dict):
        raise UnsupportedShapeError(f"{file}: a JSON object is needed")
    return document


def number(config: Config, keys: Sequence[str]) -> int | None:
    """The first of `keys` that holds a positive whole number; None if none does.

    Raises:
        UnsupportedShapeError: if a key holds one number per layer.
    """
    for key in keys:
        value = config.get(key)
        if isinstance(value, list | tuple):
            raise UnsupportedShapeError(f"{key} differs from layer to layer")
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def required(config: Config, keys: Sequence[str], what: str) -> int:
    """As `number`, but it must be there.

    Raises:
        UnsupportedShapeError: naming the keys that were looked for.
    """
    value = number(config, keys)
    if value is None:
        raise UnsupportedShapeError(f"the configuration gives no {what} ({' or '.join(keys)})")
    return value


def has_vision(whole: Config) -> bool:
    """Whether an image or audio encoder comes with the language model."""
    return any(whole.get(key) for key in (*_VISION, "audio_config"))


def check_supported(config: Config, whole: Config) -> None:
    """Refuse what does not keep one equal share of KV cache per token and layer.

    Raises:
        UnsupportedShapeError: with the reason.
    """
    kind = str(config.get("model_type") or whole.get("model_type") or "")
    if whole.get("is_encoder_decoder") or kind.startswith(_ENCODER_DECODERS):
        raise UnsupportedShapeError(f"{kind or 'the model'}: cross-attention keeps a second cache")
    if kind.startswith(_ENCODERS) or _is_encoder(whole):
        raise UnsupportedShapeError(f"{kind or 'the model'}: an encoder keeps no KV cache")
    recurrent = next((key for key in _RECURRENT_KEYS if config.get(key)), None)
    if recurrent or any(name in kind for name in _RECURRENT_TYPES):
        raise UnsupportedShapeError(
            f"{kind or 'the model'}: a hybrid with recurrent layers ({recurrent or 'by its name'}):"
            " they keep a fixed state per request, not bytes per token"
        )
    _check_layers_alike(config, kind)


def _is_encoder(whole: Config) -> bool:
    names = whole.get("architectures") or ()
    return any(str(name).endswith(("BertModel", "RobertaModel", "ForMaskedLM")) for name in names)


def _check_layers_alike(config: Config, kind: str) -> None:
    for key, reason in _UNLIKE_LAYERS.items():
        if config.get(key):
            raise UnsupportedShapeError(f"{kind}: {reason}")
    if 0 in (config.get("attn_type_list") or ()):
        raise UnsupportedShapeError(f"{kind}: a hybrid with linear-attention layers")
    value_dim, dim = config.get("v_head_dim"), number(config, HEAD_DIM)
    if not config.get("kv_lora_rank") and value_dim and dim and value_dim != dim:
        raise UnsupportedShapeError(f"{kind}: keys and values differ in width")


def attention_layers(config: Config, layers: int) -> AttentionLayers:
    """How the layers attend: all tokens, or a sliding window of them.

    Raises:
        UnsupportedShapeError: for a kind of layer that is neither.
    """
    window = number(config, ("sliding_window", "sliding_window_size"))
    kinds = config.get("layer_types")
    if isinstance(kinds, list | tuple) and kinds:
        return _by_list(config, [str(kind) for kind in kinds[:layers]], window)
    if config.get("attention_chunk_size"):
        raise UnsupportedShapeError("chunked attention, and no layer_types to say where")
    ends = window is None or config.get("use_sliding_window") is False
    full = layers if ends else _full_of_pattern(config, layers)
    if full == layers:
        return AttentionLayers(full=layers)
    return AttentionLayers(full=full, window=layers - full, window_tokens=window)


def _by_list(config: Config, kinds: list[str], window: int | None) -> AttentionLayers:
    odd = sorted(set(kinds) - set(_LAYER_KINDS))
    if odd:
        raise UnsupportedShapeError(f"a hybrid with {', '.join(odd)} layers")
    chunked = kinds.count("chunked_attention")
    sliding = kinds.count("sliding_attention")
    if chunked and sliding:
        raise UnsupportedShapeError("chunked and sliding-window layers in one model")
    size = number(config, ("attention_chunk_size",)) if chunked else window
    if not (chunked or sliding) or size is None:
        return AttentionLayers(full=len(kinds))
    return AttentionLayers(
        full=len(kinds) - chunked - sliding,
        window=chunked + sliding,
        window_tokens=size,
        chunked=bool(chunked),
    )


def _full_of_pattern(config: Config, layers: int) -> int:
    """Layers that see every token, of a model that names a window but no `layer_types`."""
    kind = str(config.get("model_type", ""))
    if config.get("use_sliding_window") and "max_window_layers" in config:
        return min(layers, int(config["max_window_layers"]))  # Qwen2: the first ones see all
    pattern = number(config, ("sliding_window_pattern", "_sliding_window_pattern"))
    if pattern is None:
        pattern = {"gemma2": 2, "gpt_oss": 2, "gemma3_text": 6, "cohere2": 4}.get(kind)
    return layers // pattern if pattern else 0


def max_position(config: Config) -> int:
    """Tokens of the longest request that the model's own configuration allows.

    2,048 where it says nothing, as vLLM assumes; a stretched rotary embedding counts.

    Source: vLLM `config/model.py`, `_get_and_verify_max_len`.
    """
    stated = [v for key in MAX_POSITION if (v := number(config, (key,))) is not None]
    longest = min(stated, default=2048)
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(scaling, Mapping):
        return longest
    kind = scaling.get("rope_type") or scaling.get("type")
    factor = scaling.get("factor")
    if kind not in ("linear", "dynamic", "yarn") or not isinstance(factor, int | float):
        return longest
    original = scaling.get("original_max_position_embeddings") if kind == "yarn" else None
    return int((original or longest) * factor)


@dataclass(frozen=True, kw_only=True)
class Latent:
    """Multi-head latent attention (MLA): one compressed vector per token and layer.

    Attributes:
        kv_rank: Width of the compressed keys and values.
        rope_dim: Width of the rotary part, stored beside it.
        query_rank: Width of the compressed queries; None where they are not compressed.
        nope_dim: Width of a head's part without rotation.
        value_dim: Width of a head's values.
    """

    kv_rank: int
    rope_dim: int
    query_rank: int | None
    nope_dim: int
    value_dim: int


@dataclass(frozen=True, kw_only=True)
class Experts:
    """A mixture of experts.

    Attributes:
        count: Routed experts of a layer.
        per_token: Of them, those that a token visits.
        intermediate: Width of one.
        shared_intermediate: Width of what every token visits beside them.
        dense_layers: Layers that have one plain block instead.
    """

    count: int
    per_token: int
    intermediate: int
    shared_intermediate: int
    dense_layers: int


def latent_of(config: Config) -> Latent | None:
    """The latent attention that a configuration describes; None for ordinary heads."""
    rank, rope = config.get("kv_lora_rank"), config.get("qk_rope_head_dim")
    if not rank or not rope:
        return None
    return Latent(
        kv_rank=int(rank),
        rope_dim=int(rope),
        query_rank=config.get("q_lora_rank"),
        nope_dim=int(config.get("qk_nope_head_dim") or 128),
        value_dim=int(config.get("v_head_dim") or 128),
    )


def experts_of(config: Config, layers: int) -> Experts | None:
    """The mixture that a configuration describes; None for a dense model."""
    count = number(config, EXPERTS)
    if count is None or count < 2:
        return None
    width = number(config, ("moe_intermediate_size", "expert_ffn_hidden_size", *INTERMEDIATE))
    if width is None:
        return None
    shared_experts = config.get("n_shared_experts") or config.get("num_shared_experts") or 0
    shared = config.get("shared_expert_intermediate_size") or int(shared_experts) * width
    return Experts(
        count=count,
        per_token=number(config, EXPERTS_PER_TOKEN) or 1,
        intermediate=width,
        shared_intermediate=int(shared),
        dense_layers=_dense_layers(config, layers),
    )


def _dense_layers(config: Config, layers: int) -> int:
    """Layers of a mixture that have one plain block: the first ones, or all but every n-th."""
    first = config.get("first_k_dense_replace")
    if isinstance(first, int) and first > 0:
        return min(first, layers)
    named = config.get("mlp_only_layers")
    step = config.get("decoder_sparse_step") or config.get("interleave_moe_layer_step") or 1
    sparse = layers // int(step)
    return layers - sparse + (len(named) if isinstance(named, list | tuple) else 0)
