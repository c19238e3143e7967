"""A server's memory by part, and what its settings leave of the device for the KV cache."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from objectives.memory.estimate import Estimate
from objectives.memory.kv_cache import KVCacheCapacity
from objectives.memory.parts import Parts
from objectives.memory.server_model import DeviceMemory, ServerModel


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """A server's memory on one device, as predicted.

    Attributes:
        server: The model and its settings.
        memory: The device before it starts.
        parts: What the server holds beside its KV cache.
    """

    server: ServerModel
    memory: DeviceMemory
    parts: Parts

    @property
    def share_bytes(self) -> int:
        """The fraction of the device; the start check asks for this."""
        return math.ceil(self.memory.total_bytes * self.server.settings.utilization)

    @property
    def charged_bytes(self) -> int:
        """Of the share, what the version charges for memory that others hold."""
        charges = self.server.rules.charges_neighbours
        return self.memory.total_bytes - self.memory.left_bytes if charges else 0

    @cached_property
    def available_bytes(self) -> int:
        """For the KV cache; negative where the other parts exceed the share."""
        settings, rules = self.server.settings, self.server.rules
        if settings.blocks_override is not None:
            return settings.blocks_override * self.server.kv.block_bytes
        if settings.kv_cache_memory_bytes is not None:
            return settings.kv_cache_memory_bytes
        if not rules.utilization_counts:
            return rules.cpu_cache_bytes(self.memory.total_bytes)
        return self.share_bytes - self.parts.inside_bytes - self.charged_bytes

    @property
    def margin_bytes(self) -> int:
        """How far `available_bytes` may be wrong, either way."""
        if self.server.sized_outright:
            return 0
        inside = self.parts.margin_bytes + self.share_margin_bytes
        charged = self.memory.left_margin_bytes if self.server.rules.charges_neighbours else 0
        return inside + self.server.kv.block_bytes + charged

    @property
    def share_margin_bytes(self) -> int:
        """How far the share may be wrong, from the device's size."""
        return int(self.memory.total_margin_bytes * self.server.settings.utilization)

    @property
    def kv_cache_bytes(self) -> int:
        """What is available, 0 where negative: the engine hands it out in whole blocks."""
        return max(0, self.available_bytes)

    @property
    def own_bytes(self) -> int:
        """What the server will hold inside its share."""
        return self.parts.inside_bytes + self.kv_cache_bytes

    @property
    def requested_bytes(self) -> int:
        """The server's share: what the fraction or the given sizes add up to."""
        return self.own_bytes if self.server.sized_outright else self.share_bytes

    @cached_property
    def capacity(self) -> KVCacheCapacity:
        """What fits into the KV cache."""
        return self.server.capacity(self.available_bytes)

    @property
    def figures(self) -> dict[str, Estimate]:
        """All but the KV cache by name, in the order people read them."""
        names = ("weights", "activation", "non_torch", "graphs", "outside")
        return {name: getattr(self.parts, name) for name in names} | {
            "whisper": self.memory.whisper
        }

    @property
    def bytes_by_part(self) -> dict[str, int]:
        """The same as bytes, under the names that are stored."""
        held = {name: figure.value_bytes for name, figure in self.figures.items()}
        return {f"{name.replace('graphs', 'graph')}_bytes": size for name, size in held.items()}
