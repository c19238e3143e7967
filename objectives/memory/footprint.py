"""A server's device memory by part.

Every number is a `Estimate`: it says where it came from, and how far the truth may lie from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from objectives.memory.kv_cache import KVCacheCapacity, KVCacheShape
from objectives.models import ModelShape
from objectives.vllm import VllmRules, VllmSettings

Source = Literal["given", "read", "estimated", "calibrated"]
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number of bytes, with its origin.

    Attributes:
        value_bytes: The best guess.
        source: "given" by a person; "read" from a file or a device; "estimated" from the shape;
            "calibrated" by a real start.
        margin_bytes: How far the truth may lie from it, either way.
        note: What it covers or rests on, for people.
    """

    value_bytes: int
    source: Source
    margin_bytes: int = 0
    note: str = ""

    def to_dict(self) -> dict[str, object]:
        """The same as JSON."""
        plain: dict[str, object] = {
            "value_bytes": self.value_bytes,
            "source": self.source,
            "margin_bytes": self.margin_bytes,
        }
        return {**plain, "note": self.note} if self.note else plain


def given(value_bytes: int, note: str = "") -> Estimate:
    """A figure that somebody vouches for: its margin is 0."""
    return Estimate(value_bytes=value_bytes, source="given", note=note)


NOTHING = given(0)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What an engine holds beside its KV cache.

    Attributes:
        weights: On one device.
        activation: The highest peak of the profiling pass.
        non_torch: Libraries, communication buffers; on a CPU the worker itself.
        graphs: CUDA graphs, where they are taken from the cache's share.
        context: What is there before the server measures its share: the CUDA context.
        late: What comes on top of the share afterwards: graphs of older versions; on a CPU the
            server's other processes.
    """

    weights: Estimate
    activation: Estimate
    non_torch: Estimate
    graphs: Estimate = NOTHING
    context: Estimate = NOTHING
    late: Estimate = NOTHING

    @property
    def outside(self) -> Estimate:
        """All that comes on top of the share."""
        return add(self.context, self.late)

    @property
    def inside_bytes(self) -> int:
        """What is subtracted from the share before the KV cache gets the rest."""
        return sum(part.value_bytes for part in self.inside)

    @property
    def margin_bytes(self) -> int:
        """How far `inside_bytes` may be wrong, either way."""
        return sum(part.margin_bytes for part in self.inside)

    @property
    def inside(self) -> tuple[Estimate, ...]:
        """The parts that are subtracted from the share."""
        return self.weights, self.activation, self.non_torch, self.graphs


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """A server's memory on one device, by part, as predicted.

    Attributes:
        weights, activation, non_torch, graphs: As in `Parts`.
        outside: What comes on top of the share.
        whisper: What the speech model holds beside it; nothing if there is none.
        requested_bytes: The server's share: what the fraction or the given sizes add up to.
        available_bytes: What is left of it for the KV cache; negative where parts exceed it.
        kv_cache_bytes: The same, 0 where negative: the engine hands it out in whole blocks.
        kv_cache_tokens: Tokens, as the engine's log counts them.
        max_concurrency: Requests of the longest allowed length at once.
        margin_bytes: How far `available_bytes` may be wrong, either way.
    """

    weights: Estimate
    activation: Estimate
    non_torch: Estimate
    graphs: Estimate
    outside: Estimate
    whisper: Estimate = NOTHING
    requested_bytes: int
    available_bytes: int
    kv_cache_bytes: int
    kv_cache_tokens: int
    max_concurrency: float
    margin_bytes: int

    @property
    def parts(self) -> dict[str, Estimate]:
        """The figures by name, in the order people read them."""
        names = ("weights", "activation", "non_torch", "graphs", "outside", "whisper")
        return {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, object]:
        """Bytes by part, as a trial keeps them beside what the log says."""
        return {
            "weights_bytes": self.weights.value_bytes,
            "activation_bytes": self.activation.value_bytes,
            "non_torch_bytes": self.non_torch.value_bytes,
            "graph_bytes": self.graphs.value_bytes,
            "outside_bytes": self.outside.value_bytes,
            "whisper_bytes": self.whisper.value_bytes,
            "kv_cache_bytes": self.kv_cache_bytes,
            "kv_cache_tokens": self.kv_cache_tokens,
            "requested_bytes": self.requested_bytes,
            "margin_bytes": self.margin_bytes,
            "sources": {name: part.source for name, part in self.parts.items()},
        }


def add(*figures: Estimate) -> Estimate:
    """A sum whose margin is the sum of margins, and whose source is the weakest of them."""
    return Estimate(
        value_bytes=sum(figure.value_bytes for figure in figures),
        source=weakest(figures),
        margin_bytes=sum(figure.margin_bytes for figure in figures),
        note=" and ".join(figure.note for figure in figures if figure.note),
    )


def weakest(figures: Iterable[Estimate]) -> Source:
    """The least certain origin among figures that are not zero."""
    order: tuple[Source, ...] = ("given", "read", "calibrated", "estimated")
    return max(
        (figure.source for figure in figures if figure.value_bytes or figure.margin_bytes),
        key=order.index,
        default="given",
    )


@dataclass(frozen=True, kw_only=True)
class Available:
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
        charged_bytes: Of the share, what the version charges for memory that others hold.
    """

    kv: KVCacheShape
    capacity: KVCacheCapacity
    length: int
    needed_bytes: int
    share_bytes: int
    own_bytes: int
    available_bytes: int
    sized_outright: bool
    charged_bytes: int


def budget_of(
    shape: ModelShape,
    settings: VllmSettings,
    rules: VllmRules,
    parts: Parts,
    *,
    total_bytes: int,
    charged_bytes: int,
) -> Budget:
    """Lay out a server's cache in what its settings leave of the device.

    Args:
        shape: The model.
        settings: The server's.
        rules: The version's.
        parts: What it holds beside the cache.
        total_bytes: Of the device.
        charged_bytes: Held by others, where the version charges for it.

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
    available = share - parts.inside_bytes - charged_bytes if outright is None else outright
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
        charged_bytes=charged_bytes,
    )
