"""Will it fit? One server's memory on a shared device, predicted before it is launched.

Pure arithmetic over a model under a server's settings and what a device has free; it reads nothing
and starts nothing. A candidate is *certainly* too big only where it exceeds what there is by more
than the margin of every number that entered; inside the margin it deserves a launch, which then
teaches the next prediction (`objectives.memory.calibration`).

Constraints are graded and set for every candidate, in GiB: > 0 is missing, <= 0 is to spare.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from objectives.constraints import MEMORY_CONSTRAINTS
from objectives.memory.calibration import Calibration
from objectives.memory.estimate import Estimate, add
from objectives.memory.kv_cache import KVCacheCapacity
from objectives.memory.parts import Parts, estimate_parts
from objectives.memory.remedies import remedy
from objectives.memory.server_model import DeviceMemory, ServerModel
from objectives.units import GIB, gib


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
        if not self.server.kv.groups:
            return 0
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
        if self.server.sized_outright or not self.server.kv.groups:
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


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What will become of a server's memory.

    Attributes:
        footprint: Its memory by part.
        excess: Constraint to what is missing, in GiB; negative is to spare.
        margins: Constraint to how far that may be wrong, in GiB.
        certain: It does not fit, by more than the margin: a launch would be wasted.
        cause: Why it does not fit, of `objectives.causes.CAUSES`; None where it fits.
        evidence: The arithmetic in one sentence.
        remedy: What to change, in one sentence; empty where it fits.
    """

    footprint: Footprint
    excess: Mapping[str, float]
    margins: Mapping[str, float]
    certain: bool
    cause: str | None
    evidence: str
    remedy: str

    @property
    def server(self) -> ServerModel:
        """What was predicted of."""
        return self.footprint.server

    @property
    def fits(self) -> bool:
        """Whether it is expected to start, and to find room beside the others."""
        return self.cause is None

    @property
    def excess_bytes(self) -> int:
        """What is missing of the constraint that is worst off; negative is to spare."""
        return round(max(self.excess.values()) * GIB)


def predict_vllm(
    server: ServerModel, memory: DeviceMemory, calibration: Calibration | None = None
) -> Prediction:
    """Predict one vLLM server beside everything else on its device.

    What earlier starts taught stands before every estimate.

    Raises:
        UnsupportedShapeError: if the arithmetic does not describe this model or setting.
    """
    parts = (calibration or Calibration()).parts(server, estimate_parts(server, memory))
    footprint = Footprint(server=server, memory=memory, parts=parts)
    missing, margins = _missing(footprint)
    # In the order in which the engine meets them: the first that is surely violated is the one
    # whose words its log would have.
    over = [name for name in MEMORY_CONSTRAINTS if missing[name] > 0]
    sure = [name for name in over if missing[name] > margins[name]]
    violated = next(iter(sure or over), None)
    cause = _cause(violated, footprint)
    return Prediction(
        footprint=footprint,
        excess={name: missing[name] / GIB for name in MEMORY_CONSTRAINTS},
        margins={name: margins[name] / GIB for name in MEMORY_CONSTRAINTS},
        certain=bool(sure) and not server.settings.unmodelled,
        cause=cause,
        evidence=evidence(cause, footprint, missing[violated] if violated else 0),
        remedy=remedy(cause, server, memory, parts, footprint.available_bytes),
    )


def _missing(footprint: Footprint) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes missing of each constraint, and how far each of them may be wrong."""
    server, memory, parts = footprint.server, footprint.memory, footprint.parts
    left, share_margin = memory.left_margin_bytes, footprint.share_margin_bytes
    start, start_margin = parts.inside_bytes, parts.margin_bytes
    if server.rules.checks_start and not (server.on_cpu and server.sized_outright):
        start = footprint.share_bytes + parts.context.value_bytes
        start_margin = share_margin + parts.context.margin_bytes
    beyond = add(parts.outside, memory.later)
    exact = not server.sized_outright and footprint.available_bytes > 0
    own_margin = share_margin if exact else parts.margin_bytes
    everything = footprint.own_bytes + beyond.value_bytes + memory.headroom_bytes
    missing = {
        "start_memory_gib": start - memory.left_bytes,
        "kv_cache_gib": server.needed_bytes - footprint.available_bytes,
        "device_memory_gib": everything - memory.left_bytes,
    }
    return missing, {
        "start_memory_gib": left + start_margin,
        "kv_cache_gib": footprint.margin_bytes,
        "device_memory_gib": left + beyond.margin_bytes + own_margin,
    }


def _cause(violated: str | None, footprint: Footprint) -> str | None:
    if violated == "start_memory_gib":
        return "gpu_memory_insufficient_at_start"
    if violated == "kv_cache_gib":
        kv = footprint.server.kv
        none = footprint.available_bytes <= kv.null_blocks * kv.block_bytes
        return "kv_cache_no_blocks" if none else "kv_cache_too_small"
    return None if violated is None else "device_memory"


def evidence(cause: str | None, footprint: Footprint, missing_bytes: int = 0) -> str:
    """The arithmetic behind a cause, None where it fits, in one sentence.

    `missing_bytes` is of the constraint that is violated.
    """
    server, left = footprint.server, gib(footprint.available_bytes)
    if cause is None:
        return _fits(footprint)
    if cause == "device_memory":
        return _device(footprint, missing_bytes)
    if cause == "gpu_memory_insufficient_at_start":
        return (
            f"{_share(footprint)} is asked for when vLLM starts and"
            f" {gib(footprint.memory.left_bytes)} will be free: {gib(missing_bytes)} short"
        )
    if cause == "kv_cache_no_blocks":
        share, parts = _share(footprint), _summands(footprint)
        return f"of {share}, {parts} leave {left} for the KV cache: not one block"
    if server.request_bytes <= footprint.available_bytes < server.states_bytes:
        return (
            f"{server.settings.max_num_seqs:,} requests at once (--max-num-seqs) need a recurrent"
            f" state each, {gib(server.states_bytes)}, and {left} of KV cache is left: it holds"
            f" {footprint.capacity.blocks:,}"
        )
    return (
        f"one request of {server.max_model_len:,} tokens needs {gib(server.request_bytes)} of KV"
        f" cache and {left} is left: {footprint.capacity.tokens:,} tokens"
    )


def _share(footprint: Footprint) -> str:
    utilization = footprint.server.settings.utilization
    total = footprint.share_bytes / utilization
    return f"{gib(footprint.share_bytes)} ({utilization:g} of {gib(total)})"


def _summands(footprint: Footprint) -> str:
    labels = ("weights", "activation", "other memory", "CUDA graphs")
    held = [
        f"{label} {gib(part.value_bytes)}"
        for label, part in zip(labels, footprint.parts.inside, strict=True)
        if part.value_bytes
    ]
    return " + ".join(held) or "nothing else"


def _fits(footprint: Footprint) -> str:
    capacity, length = footprint.capacity, footprint.server.max_model_len
    if not footprint.server.kv.groups:
        left = footprint.memory.left_bytes
        return f"no KV cache is kept; {_summands(footprint)}, and {gib(left)} will be free"
    return (
        f"{gib(footprint.kv_cache_bytes)} of KV cache holds {capacity.tokens:,} tokens:"
        f" {capacity.max_concurrency:.2f} requests of {length:,} tokens"
    )


def _device(footprint: Footprint, missing_bytes: int) -> str:
    beside = footprint.parts.outside.value_bytes
    free = footprint.memory.left_bytes - footprint.memory.later.value_bytes
    return (
        f"vLLM's {gib(footprint.own_bytes)} and {gib(beside)} that come on top of its share are"
        f" {gib(missing_bytes)} more than the {gib(free)} that will be free"
    )
