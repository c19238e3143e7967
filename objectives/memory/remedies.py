"""What to change where a prediction does not fit: never what the same arithmetic says cannot help.

The table of causes knows one sentence for each; a prediction knows more: whether any fraction of
the device would do, whether what is free allows it, and how many requests the blocks are for.
"""

from __future__ import annotations

from objectives.causes import remedy_of
from objectives.memory.parts import Parts
from objectives.memory.server_model import DeviceMemory, ServerModel
from objectives.units import gib

_SMALLER = (
    "take a smaller or more strongly quantised model, or share it among more devices"
    " (--tensor-parallel-size)"
)


def remedy(
    cause: str | None,
    server: ServerModel,
    memory: DeviceMemory,
    parts: Parts,
    available_bytes: int,
) -> str:
    """What to do about a cause, in one or two sentences; empty for none.

    `available_bytes` is what the KV cache gets.
    """
    if cause is None:
        return ""
    if cause in ("kv_cache_no_blocks", "kv_cache_too_small"):
        told = _for_cache(server, memory, parts, available_bytes)
        if told is not None:
            return told
    return remedy_of(cause, {}, server.rules.device_kind)


def allowed_bytes(server: ServerModel, memory: DeviceMemory, parts: Parts) -> int:
    """The largest share that the start check allows; the whole device where there is none."""
    if not server.rules.checks_start:
        return memory.total_bytes
    return max(0, min(memory.total_bytes, memory.left_bytes - parts.context.value_bytes))


def _for_cache(
    server: ServerModel, memory: DeviceMemory, parts: Parts, available_bytes: int
) -> str | None:
    """A remedy for too little KV cache; None where the table's own sentence holds."""
    if server.request_bytes <= available_bytes < server.states_bytes:
        return f"Lower --max-num-seqs to {available_bytes // server.kv.block_bytes}."
    less = ", or lower --max-model-len" if available_bytes >= server.kv.block_bytes else ""
    missing = server.needed_bytes - available_bytes
    if server.sized_outright:
        return f"Give the KV cache {gib(missing)} more than that size{less}."
    total, allowed = memory.total_bytes, allowed_bytes(server, memory, parts)
    enough = round(total * server.settings.utilization) + missing
    if parts.activation.value_bytes >= enough - allowed:
        less += ", or lower --max-num-seqs or --max-num-batched-tokens"
    if enough > total:
        return f"No --gpu-memory-utilization is enough on this device: {_SMALLER}{less}."
    if enough > allowed:
        return (
            f"--gpu-memory-utilization {enough / total:.4f} would be enough, but what is free"
            f" allows {allowed / total:.4f}: free memory that other processes hold, or"
            f" {_SMALLER}{less}."
        )
    return None
