"""How wide quantised weights are, from a `quantization_config` or an engine's own option.

Only the linear layers of the decoder shrink: embeddings, the output head and the norms stay in
the model's own type. Scales and zero points of every group are counted with the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Reach = Literal["linear", "experts"]

_SCALE_BITS = 16
_FP8 = ("fp8", "fbgemm_fp8", "modelopt", "ptpc_fp8", "fp_quant")
_GROUPED = ("awq", "awq_marlin", "gptq", "gptq_marlin", "gptq_bitblas", "auto-round", "auto_round")
_SHORTHANDS = {"mxfp4": 4.25, "nvfp4": 4.5, "modelopt_fp4": 4.5, "petit_nvfp4": 4.5, "mxfp8": 8.25}


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Width of the quantised weights.

    Attributes:
        method: Its name, as the configuration or the option gives it.
        bits: Bits per weight with its share of scales and zero points.
        reach: "experts" where only a mixture's experts are quantised (gpt-oss).
        known: False where the width is a guess, because the method is not known here.
    """

    method: str
    bits: float
    reach: Reach = "linear"
    known: bool = True


def quantization_of(config: Mapping[str, Any], option: str | None = None) -> Quantization | None:
    """What `quantization_config` says, or what the engine is asked to do while it loads.

    `option` is its `--quantization`, which quantises a plain checkpoint on the fly. None for
    weights in the model's own type.
    """
    stated = config.get("quantization_config") or config.get("compression_config")
    if isinstance(stated, Mapping):
        return _from_config(stated)
    return None if option is None or option in ("auto", "none") else _named(option.lower(), {})


def cache_bits(config: Mapping[str, Any]) -> int | None:
    """Bits of a key or value that a checkpoint brings scales for; None for the model's own type.

    An engine that is asked for an "auto" cache then keeps it in that type.
    """
    stated = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(stated, Mapping):
        return None
    scheme = stated.get("kv_cache_scheme")
    if isinstance(scheme, Mapping) and scheme.get("num_bits"):
        return int(scheme["num_bits"])
    algorithm = str(stated.get("kv_cache_quant_algo") or scheme or "")
    return 8 if algorithm.upper() == "FP8" else None


def _from_config(stated: Mapping[str, Any]) -> Quantization:
    method = str(stated.get("quant_method") or stated.get("quant_algo") or "").lower()
    if method == "compressed-tensors" or "config_groups" in stated:
        return _compressed_tensors(stated)
    if method == "bitsandbytes":
        bits = 4.5 if stated.get("load_in_4bit") or not stated.get("load_in_8bit") else 8.1
        return Quantization(method=method, bits=bits)
    algorithm = str(stated.get("quant_algo") or "").lower()
    return _named(algorithm if "fp4" in algorithm else method, stated)


def _named(method: str, stated: Mapping[str, Any]) -> Quantization:
    for name, bits in _SHORTHANDS.items():
        if method.startswith(name):
            reach: Reach = "experts" if name == "mxfp4" else "linear"
            return Quantization(method=method, bits=bits, reach=reach)
    if method.startswith(_FP8):
        return Quantization(method=method, bits=8.05)
    if method in _GROUPED:
        bits = int(stated.get("bits") or stated.get("w_bit") or 4)
        group = int(stated.get("group_size") or stated.get("q_group_size") or 128)
        return Quantization(method=method, bits=_grouped_bits(bits, group))
    if method == "bitsandbytes":
        return Quantization(method=method, bits=4.5)
    if "int8" in method or "w8a8" in method:
        return Quantization(method=method, bits=8.1)
    return Quantization(method=method or "unknown", bits=16.0, known=False)


def _compressed_tensors(stated: Mapping[str, Any]) -> Quantization:
    groups = stated.get("config_groups")
    first: object = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    if not isinstance(weights, Mapping) or not weights.get("num_bits"):
        return Quantization(method="compressed-tensors", bits=16.0, known=False)
    bits = int(weights["num_bits"])
    group = weights.get("group_size")
    wide = _grouped_bits(bits, int(group), zeros=False) if group and int(group) > 0 else bits + 0.05
    return Quantization(method="compressed-tensors", bits=wide)


def _grouped_bits(bits: int, group: int, *, zeros: bool = True) -> float:
    """Bits per weight with one scale, and one packed zero point, for each `group` of weights."""
    if group <= 0:  # one scale for a whole column
        return bits + 0.05
    return bits + (_SCALE_BITS + (bits if zeros else 0)) / group
