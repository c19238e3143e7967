"""What one start's log says of an engine's memory, once the KV cache is taken away.

The log prints gibibytes with two decimals; the number of blocks is finer, and is used where the
log has it and agrees with the size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import attrgetter

from objectives.memory.parts import estimate_graphs, peak_bytes
from objectives.memory.server_model import EngineKey, ServerModel
from objectives.models import UnsupportedShapeError
from objectives.units import GIB
from objectives.vllm import StartupFacts, VllmSettings

_PRINTED_BYTES = GIB // 200
"""Half of the last digit of a printed size."""

_AGREES_BYTES = GIB // 50
"""How far a size from the blocks may lie from the printed one, before it is not believed."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start that succeeded.

    Attributes:
        key: What it holds for.
        max_num_seqs, step_tokens, enforce_eager: What the peak depends on.
        max_model_len, kv_cache_dtype: What it hardly depends on.
        inside_bytes: What was held of the share beside the KV cache.
        rounding_bytes: How far that may be off, from the log's rounding.
        weights_bytes: What loading the model took; None if the log did not tell.
        graph_bytes: What CUDA graphs took in the end; None if the log did not tell.
        graph_estimate_bytes: Of `inside_bytes`, what was set aside for them.
        estimated_graph_bytes: What would have been estimated for them here.
        peak_bytes: The activation peak by estimate: what a difference is taken from.
    """

    key: EngineKey
    max_num_seqs: int
    step_tokens: int
    enforce_eager: bool
    max_model_len: int
    kv_cache_dtype: str
    inside_bytes: int
    rounding_bytes: int
    weights_bytes: int | None = None
    graph_bytes: int | None = None
    graph_estimate_bytes: int = 0
    estimated_graph_bytes: int = 0
    peak_bytes: int = 0

    def same_settings(self, other: Start) -> bool:
        """Whether both had the same key and settings that matter."""
        of = attrgetter("key", "max_num_seqs", "step_tokens", "enforce_eager")
        return bool(of(self) == of(other))

    def matches(self, settings: VllmSettings) -> bool:
        """Whether a launch with `settings` differs in nothing that is known to matter."""
        of = attrgetter("max_num_seqs", "enforce_eager", "kv_cache_dtype")
        return bool(of(self) == of(settings))

    def change_bytes(self, server: ServerModel) -> int:
        """How much more than this start another one would hold, by estimate."""
        graphs = 0
        if server.graphs_in_budget:
            graphs = estimate_graphs(server).value_bytes - self.estimated_graph_bytes
        return peak_bytes(server) - self.peak_bytes + graphs


def observe_start(
    server: ServerModel, facts: StartupFacts, *, total_bytes: int, charged_bytes: int = 0
) -> Start | None:
    """What a start's log teaches, of what `Calibration.learn` was told.

    None where the log does not tell the KV cache or the share.
    """
    settings = server.settings
    if settings.kv_cache_memory_bytes is not None or not server.rules.utilization_counts:
        return None
    left = _left_for_cache(server, facts)
    if left is not None:
        available, rounding = left
        share, share_rounding = _share(settings, facts, total_bytes)
        inside = share - charged_bytes - available
        return _start(server, facts, inside=inside, rounding=rounding + share_rounding)
    if facts.cpu_consumed_bytes is None:
        return None  # else a CPU worker says its own size, though not its cache
    return _start(server, facts, inside=facts.cpu_consumed_bytes, rounding=_PRINTED_BYTES)


def _share(settings: VllmSettings, facts: StartupFacts, total_bytes: int) -> tuple[int, int]:
    """The share: from the device, unless the log shows that the engine saw another size."""
    computed = math.ceil(total_bytes * settings.utilization)
    logged = facts.requested_bytes
    if logged is None or abs(logged - computed) <= 2 * _PRINTED_BYTES:
        return computed, 0
    return logged, _PRINTED_BYTES


def _left_for_cache(server: ServerModel, facts: StartupFacts) -> tuple[int, int] | None:
    """Bytes left for the KV cache, and how far off they may be."""
    printed = facts.available_kv_bytes
    counted = _from_blocks(server, facts)
    if counted is not None and (printed is None or abs(counted[0] - printed) <= _AGREES_BYTES):
        return counted
    return None if printed is None else (printed, _PRINTED_BYTES)


def _from_blocks(server: ServerModel, facts: StartupFacts) -> tuple[int, int] | None:
    if server.settings.blocks_override is not None:
        return None
    try:
        kv = server.kv
    except UnsupportedShapeError:
        return None
    blocks = facts.gpu_blocks
    if blocks is None and facts.kv_cache_tokens is not None:
        blocks = kv.blocks_of(facts.kv_cache_tokens, server.max_model_len, server.in_flight_tokens)
    if blocks is None or blocks < 1:
        return None
    return blocks * kv.block_bytes + kv.block_bytes // 2, kv.block_bytes // 2


def _start(server: ServerModel, facts: StartupFacts, *, inside: int, rounding: int) -> Start | None:
    if inside <= 0:
        return None
    settings = server.settings
    budgeted = server.graphs_in_budget and not settings.enforce_eager
    return Start(
        key=server.key,
        max_num_seqs=settings.max_num_seqs,
        step_tokens=server.step_tokens,
        enforce_eager=settings.enforce_eager,
        max_model_len=server.max_model_len,
        kv_cache_dtype=settings.kv_cache_dtype,
        inside_bytes=inside,
        rounding_bytes=rounding,
        weights_bytes=facts.weights_bytes,
        graph_bytes=facts.graph_bytes,
        graph_estimate_bytes=(facts.graph_estimate_bytes or 0) if budgeted else 0,
        estimated_graph_bytes=estimate_graphs(server).value_bytes,
        peak_bytes=peak_bytes(server),
    )
