"""Reading a Hugging Face `config.json`: which key says what, and which models are refused.

Model families name the same thing differently, nest the language model in a larger
configuration, or leave out what their code defaults. All of that is settled here;
`objectives.models.shape` sees plain numbers.

A model that keeps something this arithmetic does not know is refused with the reason: no number is
better than a wrong one. Which layer is what is read in `objectives.models.layers`.
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
HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
INTERMEDIATE = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "hidden_dim")
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
EXPERTS_PER_TOKEN = (
    *("num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token", "top_k_experts"),
)

_SHARED_WIDTH = (
    *("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size"),
    "shared_intermediate_size",
)
_NESTED = ("text_config", "llm_config", "language_config", "thinker_config")
_INHERITED = ("quantization_config", "torch_dtype", "dtype", "tie_word_embeddings")
_VISION = ("vision_config", "visual", "vision_tower", "mm_vision_tower")
# What transformers' configuration classes assume where a nested text_config is silent.
_LLAMA = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
}
_GEMMA = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
}
_NESTED_DEFAULTS: Mapping[str, Config] = {
    "llama": _LLAMA,
    "mistral": {**_LLAMA, "num_key_value_heads": 8, "intermediate_size": 14336},
    "gemma3_text": {**_GEMMA, "vocab_size": 262208, "sliding_window": 4096},
    "gemma4_text": {**_GEMMA, "vocab_size": 262144, "sliding_window": 512},
}
# A Whisper's decoder under the names that other models use; its own ones may be the encoder's.
_WHISPER_DECODER = {
    "num_hidden_layers": "decoder_layers",
    "num_attention_heads": "decoder_attention_heads",
    "intermediate_size": "decoder_ffn_dim",
    "max_position_embeddings": "max_target_positions",
}

_ENCODERS = (
    *("bert", "roberta", "xlm-roberta", "camembert", "modernbert", "distilbert", "deberta"),
    *("electra", "mpnet", "nomic", "gte", "new", "clip", "siglip"),
)
_ENCODER_DECODERS = (
    "t5",
    "bart",
    "mbart",
    "m2m",
    "florence2",
    "mllama",
    "nllb",
    "marian",
    "pegasus",
)
_NOT_DESCRIBED = {
    "block_configs": "its attention heads differ from layer to layer",
    "compress_ratios": "its layers compress their cache, each in its own way",
    "rwkv_version": "the state that RWKV keeps is not known here",
    "lru_width": "the state that its recurrent layers keep is not known here",
    "ssm_cfg": "its state-space layers are described in a form that is not known here",
}


class UnsupportedShapeError(ValueError):
    """A model or a setting whose memory this arithmetic does not describe; the text says why."""


def cannot_tell(reason: str) -> UnsupportedShapeError:
    """The refusal of a model that this arithmetic does not describe: a limit of ours, not its."""
    return UnsupportedShapeError(f"cannot tell, because {reason}")


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
    if text.get("model_type") == "whisper":
        named = {ours: text[theirs] for ours, theirs in _WHISPER_DECODER.items() if theirs in text}
        return {**text, **named}, whole
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
    """The first of `keys` that holds a positive whole number, or one such for each layer; or None.

    Raises:
        UnsupportedShapeError: if a key holds one number per layer.
    """
    for key in keys:
        value = config.get(key)
        if isinstance(value, list | tuple) and value:
            value = value[0] if all(each == value[0] for each in value) else value
        if isinstance(value, list | tuple):
            raise cannot_tell(f"{key} differs from layer to layer")
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def layer_count(config: Config) -> int:
    """Layers of the language model.

    Raises:
        UnsupportedShapeError: naming the keys that were looked for.
    """
    named = config.get("layers_block_type")
    if number(config, LAYERS) is None and isinstance(named, list | tuple) and named:
        return len(named)
    return required(config, LAYERS, "number of layers")


def numbers(config: Config, key: str) -> list[int]:
    """The whole numbers of a list; what is no such number is left out, no list is empty."""
    value = config.get(key)
    found = value if isinstance(value, list | tuple) else ()
    return [each for each in found if isinstance(each, int)]


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
    """Refuse what keeps something that this arithmetic does not know.

    Raises:
        UnsupportedShapeError: with the reason.
    """
    kind = str(config.get("model_type") or whole.get("model_type") or "the model")
    decodes = whole.get("is_encoder_decoder") or kind.startswith(_ENCODER_DECODERS)
    if decodes and kind != "whisper":
        raise cannot_tell(
            f"{kind} is an encoder-decoder, whose second cache is known of Whisper only"
        )
    for key, reason in _NOT_DESCRIBED.items():
        if config.get(key):
            raise cannot_tell(f"{kind}: {reason} ({key})")


def is_encoder(config: Config, whole: Config) -> bool:
    """Whether every token sees every other, so that nothing is kept for later ones.

    Source: vLLM `model_executor/models/adapters.py` and `config.py` (`is_causal`), `gemma3.py`.
    """
    kind = str(config.get("model_type") or whole.get("model_type") or "")
    stated = whole.get("architectures")
    names = [str(name) for name in stated] if isinstance(stated, list | tuple) else []
    return (
        kind in _ENCODERS
        or kind.startswith(tuple(f"{known}_" for known in _ENCODERS))
        or any(name.endswith(("BertModel", "RobertaModel", "ForMaskedLM")) for name in names)
        or config.get("is_causal") is False
        or config.get("use_bidirectional_attention") in (True, "all")
    )


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
        inputs: Width that experts read, where it is not the model's.
    """

    count: int
    per_token: int
    intermediate: int
    shared_intermediate: int
    dense_layers: int
    inputs: int | None = None


def latent_of(config: Config) -> Latent | None:
    """The latent attention that a configuration describes; None for ordinary heads."""
    rank, rope = number(config, ("kv_lora_rank",)), number(config, ("qk_rope_head_dim",))
    if rank is None or rope is None:
        return None
    return Latent(
        kv_rank=rank,
        rope_dim=rope,
        query_rank=number(config, ("q_lora_rank",)),
        nope_dim=number(config, ("qk_nope_head_dim",)) or 128,
        value_dim=number(config, ("v_head_dim",)) or 128,
    )


def experts_of(config: Config, layers: int) -> Experts | None:
    """The mixture that a configuration describes; None for a dense model."""
    count = number(config, EXPERTS)
    if count is None or count < 2:
        return None
    width = number(config, ("moe_intermediate_size", "expert_ffn_hidden_size", *INTERMEDIATE))
    if width is None:
        return None
    return Experts(
        count=count,
        per_token=number(config, EXPERTS_PER_TOKEN) or 1,
        intermediate=width,
        shared_intermediate=_shared_width(config, width),
        dense_layers=_dense_layers(config, layers),
        inputs=number(config, ("moe_latent_size",)),
    )


def _shared_width(config: Config, width: int) -> int:
    """Width of what every token visits beside its experts; Gemma 4 has its plain block there."""
    stated = number(config, _SHARED_WIDTH)
    if stated is not None:
        return stated
    if config.get("enable_moe_block"):
        return number(config, INTERMEDIATE) or 0
    return (number(config, ("n_shared_experts", "num_shared_experts")) or 0) * width


def _dense_layers(config: Config, layers: int) -> int:
    """Layers of a mixture that have one plain block: the first ones, or all but every n-th."""
    pattern = config.get("hybrid_override_pattern")
    if isinstance(pattern, str):
        return pattern.count("-")
    for key, name in (("layers_block_type", "mlp"), ("mlp_layer_types", "dense")):
        named = config.get(key)
        if isinstance(named, list | tuple) and {"moe", "sparse"} & {*named}:
            return list(named).count(name)
    first = number(config, ("first_k_dense_replace", "num_dense_layers"))
    if first is not None:
        return min(first, layers)
    if period := number(config, ("expert_layer_period",)):
        offset = number(config, ("expert_layer_offset",)) or 0
        return sum(at % period != offset for at in range(layers))
    plain = config.get("mlp_only_layers")
    sparse = layers // (number(config, ("decoder_sparse_step", "interleave_moe_layer_step")) or 1)
    return layers - sparse + (len(plain) if isinstance(plain, list | tuple) else 0)
