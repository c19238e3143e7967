"""A prediction in sentences: what the arithmetic says, and what to change."""

from __future__ import annotations

from objectives.memory.footprint import Footprint
from objectives.units import DeviceKind, gib

REMEDIES = {
    "gpu_memory_insufficient_at_start": (
        "Lower --gpu-memory-utilization, or free memory that other processes hold."
    ),
    "kv_cache_no_blocks": (
        "Raise --gpu-memory-utilization, or lower --max-num-seqs: its sampler's peak is taken "
        "from the cache."
    ),
    "kv_cache_too_small": (
        "Lower --max-model-len, raise --gpu-memory-utilization, or keep the cache in fp8."
    ),
    "device_memory": "Lower --gpu-memory-utilization, or choose a smaller Whisper model.",
}
_CPU_NO_BLOCKS = "Raise --gpu-memory-utilization: here it is the fraction of the memory node."


def evidence(cause: str | None, footprint: Footprint, missing_bytes: int = 0) -> str:
    """The arithmetic behind a cause, in one sentence.

    Args:
        cause: Why it does not fit; None where it does.
        footprint: The server's memory.
        missing_bytes: Of the constraint that is violated.
    """
    if cause is None:
        return _fits(footprint)
    if cause == "gpu_memory_insufficient_at_start":
        return _start(footprint, missing_bytes)
    if cause == "device_memory":
        return _device(footprint, missing_bytes)
    return _no_blocks(footprint) if cause == "kv_cache_no_blocks" else _too_small(footprint)


def remedy(cause: str | None, device_kind: DeviceKind) -> str:
    """What to change, in one sentence; empty where nothing is wrong."""
    if cause is None:
        return ""
    if cause == "kv_cache_no_blocks" and device_kind == "cpu":
        return _CPU_NO_BLOCKS
    return REMEDIES[cause]


def _share(footprint: Footprint) -> str:
    utilization = footprint.server.settings.utilization
    total = footprint.share_bytes / utilization
    return f"{gib(footprint.share_bytes)} ({utilization:g} of {gib(total)})"


def _parts(footprint: Footprint) -> str:
    labels = ("weights", "activation", "other memory", "CUDA graphs")
    held = [
        f"{label} {gib(part.value_bytes)}"
        for label, part in zip(labels, footprint.parts.inside, strict=True)
        if part.value_bytes
    ]
    return " + ".join(held) or "nothing else"


def _fits(footprint: Footprint) -> str:
    capacity, length = footprint.capacity, footprint.server.max_model_len
    return (
        f"{gib(footprint.kv_cache_bytes)} of KV cache holds {capacity.tokens:,} tokens:"
        f" {capacity.max_concurrency:.2f} requests of {length:,} tokens"
    )


def _start(footprint: Footprint, missing_bytes: int) -> str:
    return (
        f"{_share(footprint)} is asked for when vLLM starts and"
        f" {gib(footprint.memory.left_bytes)} will be free: {gib(missing_bytes)} short"
    )


def _no_blocks(footprint: Footprint) -> str:
    return (
        f"of {_share(footprint)}, {_parts(footprint)} leave {gib(footprint.available_bytes)} for"
        " the KV cache: not one block"
    )


def _too_small(footprint: Footprint) -> str:
    server = footprint.server
    return (
        f"one request of {server.max_model_len:,} tokens needs {gib(server.needed_bytes)} of KV"
        f" cache and {gib(footprint.available_bytes)} is left: {footprint.capacity.tokens:,} tokens"
    )


def _device(footprint: Footprint, missing_bytes: int) -> str:
    beside = footprint.parts.outside.value_bytes
    return (
        f"vLLM's {gib(footprint.own_bytes)} and {gib(beside)} that come on top of its share are"
        f" {gib(missing_bytes)} more than the {gib(footprint.memory.left_bytes)} that will be free"
    )
