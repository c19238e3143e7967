"""What vLLM printed about its memory as it started: the figures a prediction is held against.

Wordings of vLLM 0.4 to 0.33, V0 and V1, GPU and CPU builds. All sizes become bytes. Where older
versions print "GB" they divided by 2**30, too (`consumed_memory / float(2**30)`), so a GB of theirs
is a GiB. Printed figures are rounded; nothing is known better than to their last digit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from objectives.units import GIB
from objectives.vllm.log_lines import is_banner, read_line, starts_run

_DERIVED_WITHIN = 0.01  # a block size is a power of two: a concurrency's two decimals do for it
_LONGEST = 8_192  # characters of a line that are looked at
_LONGEST_BLOCK = 1 << 12

_N = r"-?\d+(?:\.\d+)?"
_G = r" ?Gi?B"


@dataclass(frozen=True, kw_only=True)
class StartupFacts:
    """The figures of the last start in a log; None where it has none.

    Attributes:
        device_kind: "cuda" or "cpu", by the name before the size of the KV cache.
        available_kv_bytes: What the KV cache gets; of several ranks the least.
        kv_cache_tokens: Its size; of V0 computed from blocks and block size.
        gpu_blocks: Its size in blocks, where that is printed.
        block_size: Tokens of a block, printed or, for V0, following from the concurrency.
        max_concurrency: How many requests of full length fit.
        weights_bytes: What loading the model took; of several ranks the most.
        graph_bytes: What CUDA graphs took in the end; of several ranks the most.
        graph_estimate_bytes: What was set aside for them.
        activation_bytes: Peak beside the weights in the profiling run.
        non_torch_bytes: What other libraries hold.
        requested_bytes: The server's share of the device.
        device_total_bytes: The device's, or the CPU node's, memory.
        free_at_start_bytes: What of it was free.
        cpu_consumed_bytes: What a CPU worker's process held besides its KV cache.
        kv_is_explicit: Whether the size was given and nothing was measured.
    """

    version: str | None = None
    device_kind: str | None = None
    available_kv_bytes: int | None = None
    kv_cache_tokens: int | None = None
    gpu_blocks: int | None = None
    block_size: int | None = None
    max_concurrency: float | None = None
    weights_bytes: int | None = None
    graph_bytes: int | None = None
    graph_estimate_bytes: int | None = None
    activation_bytes: int | None = None
    non_torch_bytes: int | None = None
    requested_bytes: int | None = None
    device_total_bytes: int | None = None
    free_at_start_bytes: int | None = None
    cpu_consumed_bytes: int | None = None
    utilization: float | None = None
    max_model_len: int | None = None
    max_num_batched_tokens: int | None = None
    kv_is_explicit: bool | None = None


def _wording(
    part: str, pattern: str, *, is_second: bool = False
) -> tuple[str, re.Pattern[str], bool]:
    """A line of the log: a part to look for first, and the figures in it.

    Groups are named after fields; `_gib` stands for a field in bytes. Where `is_second` is set,
    they only fill what no better line has.
    """
    return part, re.compile(pattern), is_second


_WORDINGS = (
    _wording("version", r"(?:server|█)  ?version (?P<version>\d[^\s,]*)"),
    _wording("LLM engine (v", r"LLM engine \(v(?P<version>\d[^)]*)\)", is_second=True),
    _wording("max_seq_len=", r"\bmax_seq_len=(?P<max_model_len>\d+)", is_second=True),
    _wording("block_size", r"\bblock_size'?[=:] ?(?P<block_size>\d+)", is_second=True),
    _wording("attention block size", r"attention block size to (?P<block_size>\d+) tokens"),
    _wording("max_num_batched", r"max_num_batched_tokens'?[=:] ?(?P<max_num_batched_tokens>\d+)"),
    # weights
    _wording("odel loading took", rf"Model loading took (?P<weights_gib>{_N}){_G}"),
    _wording("weights took", rf"Loading model weights took (?P<weights_gib>{_N}){_G}"),
    # the KV cache
    _wording("KV cache memory", rf"Available KV cache memory: (?P<available_kv_gib>{_N}){_G}"),
    _wording(
        "KV cache size",
        r"(?P<device_kind>\w+)(?: \+ host)? KV cache size: (?P<kv_cache_tokens>[\d,]+) tokens",
    ),
    _wording(
        "Maximum concurrency",
        rf"Maximum concurrency for (?P<max_model_len>[\d,]+) tokens per request:"
        rf" (?P<max_concurrency>{_N})x",
    ),
    _wording(
        " blocks: ",
        r"# (?P<device_kind>GPU|cuda|rocm|cpu|xpu|hpu|npu|neuron) blocks: (?P<gpu_blocks>\d+)",
    ),
    _wording("num_gpu_blocks is", r"num_gpu_blocks is: (?P<gpu_blocks>\d+)"),
    _wording(
        "reserved",
        rf"Initial free memory (?P<free_at_start_gib>{_N}){_G}, reserved"
        rf" (?P<available_kv_gib>{_N}){_G} memory for KV Cache (?P<kv_is_explicit>as specified)",
    ),
    # graphs
    _wording("Graph capturing", rf"Graph capturing finished .*?took (?P<graph_gib>{_N}){_G}"),
    _wording("raph memory: ", rf"Estimated \w+ graph memory: (?P<graph_estimate_gib>{_N}){_G}"),
    _wording(
        "graph pool memory",
        rf"graph pool memory: (?P<graph_gib>{_N}){_G} \(actual\),"
        rf" (?P<graph_estimate_gib>{_N}){_G} \(estimated\)",
        is_second=True,
    ),
    # sums, V1
    _wording(
        "on startup. Desired",
        rf"Free memory on device.*?\((?P<free_at_start_gib>{_N})/(?P<device_total_gib>{_N}){_G}\)"
        rf" on startup\. Desired GPU memory utilization is \((?P<utilization>{_N}),"
        rf" (?P<requested_gib>{_N}){_G}\)",
    ),
    _wording("for weight,", rf"usage is (?P<weights_gib>{_N}){_G} for weight,", is_second=True),
    _wording("peak activation", rf"(?P<activation_gib>{_N}){_G} for peak activation"),
    _wording("non-torch memory", rf"(?P<non_torch_gib>{_N}){_G} for non-torch memory"),
    _wording("CUDAGraph memory", rf"(?P<graph_gib>{_N}){_G} for CUDAGraph", is_second=True),
    _wording(
        "kv cache memory in use",
        rf"Current kv cache memory in use is (?P<available_kv_gib>{_N}){_G}",
        is_second=True,
    ),
    _wording("Requested memory", rf"Requested memory: {_N} \(util\), (?P<requested_gib>{_N}){_G}"),
    # sums, V0
    _wording(
        "can use total_gpu_memory",
        rf"total_gpu_memory \((?P<device_total_gib>{_N}){_G}\) x gpu_memory_utilization"
        rf" \((?P<utilization>{_N})\) = (?P<requested_gib>{_N}){_G}",
    ),
    _wording(
        "model weights take",
        rf"model weights take (?P<weights_gib>{_N}){_G}; non_torch_memory takes"
        rf" (?P<non_torch_gib>{_N}){_G}; PyTorch activation peak memory takes"
        rf" (?P<activation_gib>{_N}){_G}; the rest of the memory reserved for KV Cache is"
        rf" (?P<available_kv_gib>{_N}){_G}",
        is_second=True,
    ),
    _wording(
        "Memory profiling results",
        rf"total_gpu_memory=(?P<device_total_gib>{_N}){_G} initial_memory_usage={_N}{_G}"
        rf" .*?non_torch_memory=(?P<non_torch_gib>{_N}){_G}"
        rf" kv_cache_size=(?P<available_kv_gib>{_N}){_G}"
        rf" gpu_memory_utilization=(?P<utilization>{_N})",
    ),
    # the CPU backend
    _wording(
        "for KV cache on node",
        rf"Auto set \((?P<available_kv_gib>{_N})/(?P<device_total_gib>{_N})\) GiB for KV cache on"
        rf" node \S+, with (?P<requested_gib>{_N}) GiB requested memory for the worker\."
        rf" (?P<cpu_consumed_gib>{_N}) GiB",
    ),
    _wording(
        "for KV cache on node",
        rf"(?P<kv_is_explicit>Explicitly set) \((?P<available_kv_gib>{_N})"
        rf"/(?P<device_total_gib>{_N})\) GiB for KV cache",
    ),
)
_OF_RANKS: dict[str, Callable[[Any, Any], Any]] = {
    "available_kv_bytes": min,
    "weights_bytes": max,
    "graph_bytes": max,
    "graph_estimate_bytes": max,
}
"""Several ranks print these; which of their figures counts."""

_READ: dict[str, Callable[[str], object]] = {
    "device_kind": lambda name: "cpu" if name.lower() == "cpu" else "cuda",
    "kv_is_explicit": bool,
    "version": str,
    "max_concurrency": float,
    "utilization": float,
}
"""How a group that is no count is read."""


def read_startup(lines: Iterable[str]) -> StartupFacts:
    """Read the figures of the last start in a log.

    Args:
        lines: The log, with whatever prefixes; read once.
    """
    found: dict[str, Any] = {}
    for raw in lines:
        line = raw[:_LONGEST]
        if "\x1b" in line and "ersion" in line:  # the banner is painted in the middle of a line
            line = read_line(line).text
        if starts_run(line) and (is_banner(line) or "kv_cache_tokens" in found):
            found = {}
        for part, pattern, is_second in _WORDINGS:
            if part in line and (match := pattern.search(line)) is not None:
                _take(found, match, is_second=is_second)
    _complete(found)
    return StartupFacts(**found)


def _take(found: dict[str, Any], match: re.Match[str], *, is_second: bool) -> None:
    for group, text in match.groupdict().items():
        name, value = _figure(group, text)
        if name not in found:
            found[name] = value
        elif not is_second:
            of_ranks = _OF_RANKS.get(name)
            found[name] = of_ranks(found[name], value) if of_ranks else value


def _figure(group: str, text: str) -> tuple[str, object]:
    """Name and value of a field, from a group's."""
    if group.endswith("_gib"):
        return f"{group.removesuffix('_gib')}_bytes", round(float(text) * GIB)
    return group, _READ[group](text) if group in _READ else int(text.replace(",", ""))


def _complete(found: dict[str, Any]) -> None:
    """V0 prints blocks, and no tokens: the concurrency tells how many a block has."""
    blocks, length = found.get("gpu_blocks"), found.get("max_model_len")
    concurrency = found.get("max_concurrency")
    if not blocks or "kv_cache_tokens" in found:
        return
    if "block_size" not in found and length is not None and concurrency is not None:
        near = concurrency * length / blocks
        sizes = (1 << power for power in range(_LONGEST_BLOCK.bit_length()))
        fits = (size for size in sizes if abs(near - size) <= _DERIVED_WITHIN * size)
        found["block_size"] = next(fits, None)
    if (size := found.get("block_size")) is not None:
        found["kv_cache_tokens"] = blocks * size
