"""What attention keeps of one token in one layer: keys and values of heads, or a latent vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from objectives.models import config as keys
from objectives.models.config import Config, Latent, UnsupportedShapeError, cannot_tell

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
        value_dim=keys.number(config, ("v_head_dim",)) or dim,
    )
    return _global(config, plain), _windowed(config, plain)


def _global(config: Config, plain: Heads) -> Heads:
    dim = keys.number(config, ("global_head_dim",))
    kind = str(config.get("model_type", ""))
    dim = 512 if dim is None and kind.startswith("gemma4") else dim
    shares = bool(config.get("attention_k_eq_v"))
    fewer = keys.number(config, ("num_global_key_value_heads",)) if shares or dim is None else None
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
        kv_heads=keys.number(config, ("swa_num_key_value_heads",)) or plain.kv_heads,
        key_dim=keys.number(config, ("swa_head_dim",)) or plain.key_dim,
        value_dim=keys.number(config, ("swa_v_head_dim",)) or plain.value_dim,
    )


def _kv_heads(config: Config) -> int:
    heads = keys.number(config, keys.HEADS)
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        if config.get("model_type") == "chatglm":
            return keys.required(config, ("multi_query_group_num",), "number of KV heads")
        return 1
    nested = config.get("attn_config")
    found = keys.number(config, keys.KV_HEADS)
    if found is None and isinstance(nested, Mapping):
        found = keys.number(nested, ("kv_n_heads",))
    if found is None and heads is None:
        raise UnsupportedShapeError("the configuration gives neither KV heads nor attention heads")
    return found or heads or 1


def _head_dim(config: Config) -> int:
    hidden, heads = keys.number(config, keys.HIDDEN), keys.number(config, keys.HEADS)
    found = keys.number(config, keys.HEAD_DIM)
    if found is not None:
        return found
    if hidden is None or heads is None:
        raise UnsupportedShapeError(
            "the configuration gives neither head_dim nor hidden_size / heads"
        )
    return hidden // heads
