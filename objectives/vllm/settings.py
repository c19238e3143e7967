"""What of vLLM's command line decides its memory, with the version's defaults filled in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from objectives.models import UnsupportedShapeError
from objectives.units import GIB, MIB, Scalar
from objectives.vllm.rules import VllmRules

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS |= {"K": 1 << 10, "M": MIB, "G": GIB, "T": GIB << 10}
_ALIASES = {"device-memory-utilization": "gpu-memory-utilization"}  # a second name since 0.31
_UNMODELLED = (
    *("speculative-config", "speculative-model", "enable-lora", "hf-overrides"),
    *("kv-transfer-config", "kv-offloading-size", "kv-offloading-backend"),
    *("cpu-offload-params", "offload-backend", "offload-group-size", "offload-num-in-group"),
    *("offload-params", "offload-prefetch-step"),
    *("compilation-config", "optimization-level", "enable-dbo"),
    *("cuda-graph-sizes", "cudagraph-capture-sizes", "max-cudagraph-capture-size"),
    *("enable-sleep-mode", "enable-cumem-allocator", "sleep-mode-backend"),
    *("limit-mm-per-prompt", "skip-mm-profiling", "enable-mm-embeds", "mm-encoder-only"),
    *("mm-encoder-tp-mode", "enable-multimodal-encoder-data-parallel", "mm-ipc-gpu-memory-gb"),
    *("mamba-cache-mode", "mamba-block-size"),
    *("kv-cache-dtype-skip-layers", "kv-sharing-fast-prefill"),
    *("enable-expert-parallel", "disable-hybrid-kv-cache-manager", "load-format=bitsandbytes"),
)
"""Options that move memory as the arithmetic does not describe, whatever their value."""

_UNMODELLED_ABOVE_ONE = (
    *("pipeline-parallel-size", "data-parallel-size", "ubatch-size"),
    *("decode-context-parallel-size", "prefill-context-parallel-size"),
)
_UNMODELLED_VARIABLES = ("VLLM_ENABLE_STARTUP_PLAN", "VLLM_USE_V2_MODEL_RUNNER")
"""Switches: a stored plan instead of the profile; a runner whose sampler nobody measured."""

_OFF = ("", "0", "false", "no", "off")


@dataclass(frozen=True, kw_only=True)
class VllmSettings:
    """The settings of one vLLM server that its memory depends on.

    Attributes:
        max_model_len: Tokens of the longest request; None for the model's own limit.
        fits_length_to_memory: `--max-model-len auto`: the engine shortens it until it fits.
        max_num_seqs: Requests of one step.
        max_num_batched_tokens: Tokens of one step.
        batched_tokens_given: The number above was asked for, not the version's default.
        kv_cache_dtype: Type of the cache; "auto" is the model's.
        block_tokens: Tokens of a block; None for the version's default.
        enforce_eager: No compilation and no CUDA graphs.
        kv_cache_memory_bytes: The cache's size, if it is given outright.
        blocks_override: `--num-gpu-blocks-override`.
        cpu_offload_bytes: Weights kept in the host's memory instead.
        pooling: The server embeds or scores and samples nothing.
        prefix_caching: Asked for or refused; None for the version's own rule.
        conv_state_dtype, recurrent_state_dtype: Types of a recurrent layer's state.
        drafts: Tokens that are proposed ahead of each step.
        drafts_by_model: By layers of the model itself (MTP), not by another model.
        graphs_in_budget: False where the environment turns the estimate off; None for the
            version's own rule.
        unmodelled: Options that change memory in ways this arithmetic does not describe; with
            any of them, no prediction is certain.
    """

    utilization: float
    max_model_len: int | None = None
    fits_length_to_memory: bool = False
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    batched_tokens_given: bool = False
    kv_cache_dtype: str = "auto"
    block_tokens: int | None = None
    tensor_parallel_size: int = 1
    enforce_eager: bool = False
    kv_cache_memory_bytes: int | None = None
    blocks_override: int | None = None
    cpu_offload_bytes: int = 0
    dtype: str = "auto"
    quantization: str | None = None
    pooling: bool = False
    prefix_caching: bool | None = None
    conv_state_dtype: str = "auto"
    recurrent_state_dtype: str = "auto"
    drafts: int = 0
    drafts_by_model: bool = False
    graphs_in_budget: bool | None = None
    unmodelled: tuple[str, ...] = ()

    @classmethod
    def from_args(
        cls,
        args: Mapping[str, Scalar | None],
        rules: VllmRules,
        *,
        device_total_bytes: int,
        device_name: str = "",
        env: Mapping[str, str] | None = None,
    ) -> VllmSettings:
        """Read a command line's options.

        Args:
            args: Options without their dashes; True for a bare flag, None or False for one that
                is left out. Underscores are dashes.
            rules: The version's, whose defaults fill in what is not given.
            device_total_bytes: Memory of the device, on which defaults depend.
            device_name: Its name.
            env: The server's environment.

        Raises:
            UnsupportedShapeError: for a number that cannot be read.
        """
        named = {key.replace("_", "-"): v for key, v in args.items() if v not in (None, False)}
        given = {_ALIASES.get(key, key): value for key, value in named.items()}
        tp = _integer(given, "tensor-parallel-size") or 1
        tokens = _integer(given, "max-num-batched-tokens")
        seqs = _integer(given, "max-num-seqs")
        length, fits = _length(given)
        drafts, by_model = _drafts(given)
        batched = tokens or rules.default_batched_tokens(device_total_bytes, device_name, tp)
        return cls(
            utilization=_fraction(given, rules),
            max_model_len=length,
            fits_length_to_memory=fits,
            max_num_seqs=seqs or rules.default_max_num_seqs(device_total_bytes, device_name, tp),
            max_num_batched_tokens=batched,
            batched_tokens_given=tokens is not None,
            kv_cache_dtype=str(given.get("kv-cache-dtype", "auto")),
            block_tokens=_integer(given, "block-size"),
            tensor_parallel_size=tp,
            enforce_eager=_flag(given, "enforce-eager"),
            kv_cache_memory_bytes=_cache_bytes(given, env or {}, rules),
            blocks_override=_integer(given, "num-gpu-blocks-override"),
            cpu_offload_bytes=int(_decimal(given, "cpu-offload-gb") * GIB),
            dtype=str(given.get("dtype", "auto")),
            quantization=str(given["quantization"]) if "quantization" in given else None,
            pooling=_pools(given),
            prefix_caching=_prefix_caching(given),
            conv_state_dtype=str(given.get("mamba-cache-dtype", "auto")),
            recurrent_state_dtype=str(given.get("mamba-ssm-cache-dtype", "auto")),
            drafts=drafts,
            drafts_by_model=by_model,
            graphs_in_budget=_graphs(env or {}),
            unmodelled=_unmodelled(given, env or {}),
        )


def _integer(given: Mapping[str, Scalar], key: str) -> int | None:
    """A count as vLLM reads it: 4096, "4096", "4k" (4,000), "4K" (4,096), "1.5k"."""
    value = given.get(key)
    if value is None or isinstance(value, bool):
        return None
    found = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*([kmgtKMGT]?)\s*", str(value))
    if found is None:
        raise UnsupportedShapeError(f"{key}: {value!r} is no count")
    return int(float(found[1]) * (_UNITS[found[2]]))


def _decimal(given: Mapping[str, Scalar], key: str) -> float:
    try:
        return float(given.get(key) or 0)
    except ValueError as error:
        raise UnsupportedShapeError(f"{key}: {given[key]!r} is no number") from error


def _fraction(given: Mapping[str, Scalar], rules: VllmRules) -> float:
    if "gpu-memory-utilization" not in given:
        return rules.default_utilization
    value = _decimal(given, "gpu-memory-utilization")
    if not 0 < value <= 1:
        raise UnsupportedShapeError(f"gpu-memory-utilization: {value} is not above 0 and up to 1")
    return value


def _length(given: Mapping[str, Scalar]) -> tuple[int | None, bool]:
    if str(given.get("max-model-len", "")).lower() in ("auto", "-1"):
        return None, True
    return _integer(given, "max-model-len"), False


def _flag(given: Mapping[str, Scalar], key: str) -> bool:
    return key in given and str(given[key]).lower() not in ("false", "0")


def _cache_bytes(
    given: Mapping[str, Scalar], env: Mapping[str, str], rules: VllmRules
) -> int | None:
    """A size given outright; the CPU backend's variable, in GiB, stands before the option."""
    space = env.get("VLLM_CPU_KVCACHE_SPACE", "")
    if rules.device_kind == "cpu" and space.strip().isdigit() and int(space) > 0:
        return int(space) * GIB
    return _integer(given, "kv-cache-memory-bytes") or _integer(given, "kv-cache-memory")


def _pools(given: Mapping[str, Scalar]) -> bool:
    runner, task = str(given.get("runner", "")), str(given.get("task", ""))
    return runner == "pooling" or task in ("embed", "embedding", "classify", "reward", "score")


def _prefix_caching(given: Mapping[str, Scalar]) -> bool | None:
    if "no-enable-prefix-caching" in given:
        return False
    return _flag(given, "enable-prefix-caching") if "enable-prefix-caching" in given else None


def _drafts(given: Mapping[str, Scalar]) -> tuple[int, bool]:
    """Tokens proposed ahead, and whether by layers of the model itself; 0 where it is not said."""
    try:
        stated = json.loads(str(given.get("speculative-config", "{}")))
    except ValueError:
        return 0, False
    if not isinstance(stated, dict) or not isinstance(stated.get("num_speculative_tokens"), int):
        return 0, False
    return stated["num_speculative_tokens"], "mtp" in str(stated.get("method", ""))


def _graphs(env: Mapping[str, str]) -> bool | None:
    value = env.get("VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS")
    return None if value is None else value not in ("0", "", "false", "False")


def _unmodelled(given: Mapping[str, Scalar], env: Mapping[str, str]) -> tuple[str, ...]:
    stated = {*given, *(f"{key}={value}" for key, value in given.items())}
    above_one = (name for name in _UNMODELLED_ABOVE_ONE if (_integer(given, name) or 1) > 1)
    switched = (name for name in _UNMODELLED_VARIABLES if env.get(name, "").lower() not in _OFF)
    return (*(name for name in _UNMODELLED if name in stated), *above_one, *switched)
