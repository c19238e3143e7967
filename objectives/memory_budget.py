"""What a server's settings ask of a device, and what that leaves for its KV cache."""

from __future__ import annotations

import math
from dataclasses import dataclass

from objectives.footprint import Parts
from objectives.kv_cache import KVCacheCapacity, KVCacheShape
from objectives.model_shape import ModelShape
from objectives.vllm_rules import VllmRules
from objectives.vllm_settings import VllmSettings


@dataclass(frozen=True, kw_only=True)
class Room:
    """What the device has for vLLM, once Whisper is there.

    Attributes:
        free_bytes: Free then.
        margin_bytes: How far that may be wrong.
        headroom_bytes: Of it, what must stay free.
        total_margin_bytes: How far the server's share may be wrong, from the device's size.
    """

    free_bytes: int
    margin_bytes: int
    headroom_bytes: int
    total_margin_bytes: int


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the settings ask of the device, and what that leaves for the KV cache.

    Attributes:
        kv: How the cache is laid out.
        capacity: What fits into what is left.
        length: Tokens of the longest request.
        needed_bytes: Of cache, below which the engine refuses to start.
        share_bytes: The fraction of the device; the start check asks for this.
        own_bytes: What the server will hold inside its share.
        available_bytes: For the cache; negative where the other parts exceed the share.
        sized_outright: A size is given, or the version knows no fraction.
    """

    kv: KVCacheShape
    capacity: KVCacheCapacity
    length: int
    needed_bytes: int
    share_bytes: int
    own_bytes: int
    available_bytes: int
    sized_outright: bool


def budget_of(
    shape: ModelShape,
    settings: VllmSettings,
    rules: VllmRules,
    parts: Parts,
    *,
    total_bytes: int,
    charged: int,
) -> Budget:
    """Lay out a server's cache in what its settings leave of the device.

    Args:
        shape: The model.
        settings: The server's.
        rules: The version's.
        parts: What it holds beside the cache.
        total_bytes: Of the device.
        charged: Held by others, where the version charges for it.

    Raises:
        UnsupportedShapeError: for a cache type whose packing is not known.
    """
    kv = KVCacheShape.of(
        shape,
        rules,
        kv_dtype=settings.kv_cache_dtype,
        block_tokens=settings.block_tokens,
        tp=settings.tensor_parallel_size,
    )
    length = settings.length(shape)
    flight = settings.step_tokens(shape, rules) * rules.batches_in_flight
    share = math.ceil(total_bytes * settings.utilization)
    outright = settings.kv_cache_memory_bytes
    if outright is None and not rules.utilization_counts:
        outright = rules.cpu_cache_bytes(total_bytes)
    available = share - parts.inside_bytes - charged if outright is None else outright
    if settings.blocks_override is not None:
        available = settings.blocks_override * kv.block_bytes
    needed = (1 + kv.null_blocks) * kv.block_bytes
    if not settings.fits_length_to_memory:
        needed = kv.needed_bytes(length, flight)
    return Budget(
        kv=kv,
        capacity=kv.capacity(available, length, flight),
        length=length,
        needed_bytes=needed,
        share_bytes=share,
        own_bytes=parts.inside_bytes + max(0, available),
        available_bytes=available,
        sized_outright=outright is not None or settings.blocks_override is not None,
    )
