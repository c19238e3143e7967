"""What one start's log says of an engine's memory, once the KV cache is taken away.

The log prints gibibytes with two decimals; the number of blocks is finer, and is used where the
log has it and agrees with the size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from objectives.memory.estimates import (
    estimate_graphs,
    forward_bytes,
    graphs_in_budget,
    sampler_bytes,
)
from objectives.memory.kv_cache import KVCacheShape
from objectives.models import ModelShape, UnsupportedShapeError
from objectives.vllm import GIB, StartupFacts, VllmRules, VllmSettings

_PRINTED_BYTES = GIB // 200
"""Half of the last digit of a printed size."""

_AGREES_BYTES = GIB // 50
"""How far a size from the blocks may lie from the printed one, before it is not believed."""


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """What an observed start holds for, and for nothing else.

    Attributes:
        version: The engine's.
        model: The model's name or path, as the study names it.
        device: The device's UUID.
        device_kind: "cuda" or "cpu".
        tensor_parallel_size: Devices of the group.
        dtype: `--dtype`.
        quantization: `--quantization`; "" for none.
        cpu_offload_bytes: Weights that are not on the device.
    """

    version: str
    model: str
    device: str
    device_kind: str
    tensor_parallel_size: int = 1
    dtype: str = "auto"
    quantization: str = ""
    cpu_offload_bytes: int = 0

    @classmethod
    def of(
        cls, settings: VllmSettings, *, version: str, model: str, device: str, kind: str
    ) -> EngineKey:
        """The key of a server that has, or would have, these settings."""
        return cls(
            version=version,
            model=model,
            device=device,
            device_kind=kind,
            tensor_parallel_size=settings.tensor_parallel_size,
            dtype=settings.dtype,
            quantization=settings.quantization or "",
            cpu_offload_bytes=settings.cpu_offload_bytes,
        )


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
        return (self.key, self._peak_settings) == (other.key, other._peak_settings)

    @property
    def _peak_settings(self) -> tuple[int, int, bool]:
        return self.max_num_seqs, self.step_tokens, self.enforce_eager

    def matches(self, settings: VllmSettings) -> bool:
        """Whether a launch with `settings` differs in nothing that is known to matter."""
        return (
            self.max_num_seqs == settings.max_num_seqs
            and self.enforce_eager == settings.enforce_eager
            and self.kv_cache_dtype == settings.kv_cache_dtype
        )

    def change_bytes(self, settings: VllmSettings, shape: ModelShape, rules: VllmRules) -> int:
        """How much more than this start another one would hold, by estimate."""
        graphs = 0
        if graphs_in_budget(settings, rules):
            graphs = estimate_graphs(settings, rules).value_bytes - self.estimated_graph_bytes
        return peak_bytes(shape, settings, rules) - self.peak_bytes + graphs


def peak_bytes(shape: ModelShape, settings: VllmSettings, rules: VllmRules) -> int:
    """The activation peak by estimate; on a CPU only the forward pass leaves anything."""
    forward = forward_bytes(shape, settings, rules) or 0
    if rules.device_kind == "cpu":
        return forward
    return max(forward, sampler_bytes(shape, settings, rules))


def observe_start(
    key: EngineKey,
    settings: VllmSettings,
    facts: StartupFacts,
    shape: ModelShape,
    *,
    total_bytes: int,
    charged_bytes: int,
) -> Start | None:
    """What a start's log teaches; None where it does not tell the KV cache or the share.

    Args:
        key: Engine, model and device.
        settings: What was launched.
        facts: What its log says.
        shape: The model's shape.
        total_bytes: Of the device, read right before the launch.
        charged_bytes: Of its share, what the version charged for memory that others held.
    """
    rules = VllmRules.of(key.version, "cpu" if key.device_kind == "cpu" else "cuda")
    if settings.kv_cache_memory_bytes is not None or not rules.utilization_counts:
        return None
    left = _left_for_cache(settings, facts, shape, rules)
    if left is None:
        return _from_consumed(key, settings, facts, shape, rules)
    available, rounding = left
    share, share_rounding = _share(settings, facts, total_bytes)
    return _start(
        key,
        settings,
        facts,
        shape,
        rules,
        inside=share - charged_bytes - available,
        rounding=rounding + share_rounding,
    )


def _share(settings: VllmSettings, facts: StartupFacts, total_bytes: int) -> tuple[int, int]:
    """The share: from the device, unless the log shows that the engine saw another size."""
    computed = math.ceil(total_bytes * settings.utilization)
    logged = facts.requested_bytes
    if logged is None or abs(logged - computed) <= 2 * _PRINTED_BYTES:
        return computed, 0
    return logged, _PRINTED_BYTES


def _left_for_cache(
    settings: VllmSettings, facts: StartupFacts, shape: ModelShape, rules: VllmRules
) -> tuple[int, int] | None:
    """Bytes left for the KV cache, and how far off they may be."""
    printed = facts.available_kv_bytes
    counted = _from_blocks(settings, facts, shape, rules)
    if counted is not None and (printed is None or abs(counted[0] - printed) <= _AGREES_BYTES):
        return counted
    return None if printed is None else (printed, _PRINTED_BYTES)


def _from_blocks(
    settings: VllmSettings, facts: StartupFacts, shape: ModelShape, rules: VllmRules
) -> tuple[int, int] | None:
    if settings.blocks_override is not None:
        return None
    try:
        kv = KVCacheShape.of(
            shape,
            rules,
            kv_dtype=settings.kv_cache_dtype,
            block_tokens=settings.block_tokens,
            tp=settings.tensor_parallel_size,
        )
    except UnsupportedShapeError:
        return None
    blocks = facts.gpu_blocks
    if blocks is None and facts.kv_cache_tokens is not None:
        length = settings.length(shape)
        flight = settings.step_tokens(shape, rules) * rules.batches_in_flight
        blocks = kv.blocks_of(facts.kv_cache_tokens, length, flight)
    if blocks is None or blocks < 1:
        return None
    return blocks * kv.block_bytes + kv.block_bytes // 2, kv.block_bytes // 2


def _from_consumed(
    key: EngineKey, settings: VllmSettings, facts: StartupFacts, shape: ModelShape, rules: VllmRules
) -> Start | None:
    """A CPU worker that says its own size, though not its cache."""
    if facts.cpu_consumed_bytes is None:
        return None
    inside = facts.cpu_consumed_bytes
    return _start(key, settings, facts, shape, rules, inside=inside, rounding=_PRINTED_BYTES)


def _start(
    key: EngineKey,
    settings: VllmSettings,
    facts: StartupFacts,
    shape: ModelShape,
    rules: VllmRules,
    *,
    inside: int,
    rounding: int,
) -> Start | None:
    if inside <= 0:
        return None
    budgeted = graphs_in_budget(settings, rules) and not settings.enforce_eager
    return Start(
        key=key,
        max_num_seqs=settings.max_num_seqs,
        step_tokens=settings.step_tokens(shape, rules),
        enforce_eager=settings.enforce_eager,
        max_model_len=settings.length(shape),
        kv_cache_dtype=settings.kv_cache_dtype,
        inside_bytes=inside,
        rounding_bytes=rounding,
        weights_bytes=facts.weights_bytes,
        graph_bytes=facts.graph_bytes,
        graph_estimate_bytes=(facts.graph_estimate_bytes or 0) if budgeted else 0,
        estimated_graph_bytes=estimate_graphs(settings, rules).value_bytes,
        peak_bytes=peak_bytes(shape, settings, rules),
    )
