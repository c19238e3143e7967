"""The two parts that make some models unlike a plain one: latent attention and experts."""

from __future__ import annotations

from dataclasses import dataclass

from objectives.models import config as keys
from objectives.models.config import Config


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
    count = keys.number(config, keys.EXPERTS)
    if count is None or count < 2:
        return None
    width = keys.number(
        config, ("moe_intermediate_size", "expert_ffn_hidden_size", *keys.INTERMEDIATE)
    )
    if width is None:
        return None
    shared = config.get("shared_expert_intermediate_size")
    if not shared:
        shared = (
            int(config.get("n_shared_experts") or config.get("num_shared_experts") or 0) * width
        )
    return Experts(
        count=count,
        per_token=keys.number(config, keys.EXPERTS_PER_TOKEN) or 1,
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
