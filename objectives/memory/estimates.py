"""How each part of a server's memory is estimated before anything ran.

For engines that were never started here; one real start replaces the estimates
(`objectives.memory.calibration`).

Where they come from: activation peaks and overheads that public start-up logs and documents
print, for full-attention models on single GPUs. They were fitted on those and not held out; the
margins are wider than the errors seen.
"""

from __future__ import annotations

from objectives.memory.footprint import MIB, NOTHING, Estimate, Parts, add
from objectives.models import ModelShape, UnsupportedShapeError
from objectives.vllm import GIB, VllmRules, VllmSettings

WORKER_BYTES = 640 * MIB
"""Resident size of a CPU worker without weights: interpreter, libraries, buffers."""

CPU_SERVER_BYTES = 900 * MIB
"""What vLLM's other two processes hold on a CPU, shared pages counted once."""

GRAPHS = "CUDA graphs"
_WIDEST_GRAPH_MARGIN = 320 * MIB

CONTEXT = Estimate(
    value_bytes=460 * MIB, source="estimated", margin_bytes=240 * MIB, note="CUDA context"
)
"""0.35 to 0.61 GiB on the cards whose logs were read; large chips take more."""


def weights_on_device(
    shape: ModelShape, settings: VllmSettings, stated: int | Estimate | None
) -> Estimate:
    """Weights that one device holds.

    Args:
        shape: The model.
        settings: Its server's; tensor parallelism divides, offloading subtracts.
        stated: Bytes of the model's files; or a figure that is of one device already; or None
            for the shape's own estimate.

    Raises:
        UnsupportedShapeError: if nothing is stated and the shape does not tell.
    """
    if isinstance(stated, Estimate):
        return stated
    whole = shape.weight_bytes if stated is None else stated
    if whole is None:
        raise UnsupportedShapeError("the configuration does not tell the weights' size: give it")
    one = max(0, whole // settings.tensor_parallel_size - settings.cpu_offload_bytes)
    if stated is not None:
        twice = shape.head_bytes if shape.tied_embeddings else 0  # a head that is not loaded
        margin = one // 50 + 128 * MIB + twice
        return Estimate(value_bytes=one, source="read", margin_bytes=margin, note="files")
    return Estimate(
        value_bytes=one,
        source="estimated",
        margin_bytes=_weights_margin(shape, one),
        note="shape x type",
    )


def _weights_margin(shape: ModelShape, one: int) -> int:
    share = 0.04
    if shape.quantization is not None:
        share = 0.12 if shape.quantization.known else 0.75
    return int(one * share) + (1536 if shape.multimodal else 128) * MIB


def estimate_parts(
    shape: ModelShape,
    settings: VllmSettings,
    rules: VllmRules,
    weights: Estimate,
    *,
    total_bytes: int,
    context_known: bool = False,
) -> Parts:
    """All parts of an engine that never started here.

    Args:
        shape: The model.
        settings: Its server's.
        rules: The version's.
        weights: On one device.
        total_bytes: Of the device.
        context_known: Free memory is known as it is once the context is there.
    """
    if rules.device_kind == "cpu":
        return _cpu_parts(shape, weights)
    graphs = estimate_graphs(settings, rules)
    budgeted = graphs_in_budget(settings, rules)
    context = NOTHING if context_known else CONTEXT
    non_torch = estimate_non_torch(settings.tensor_parallel_size, total_bytes)
    if rules.charges_neighbours:  # the whole device is the share: the context is inside
        non_torch, context = add(non_torch, CONTEXT), NOTHING
    return Parts(
        weights=weights,
        activation=estimate_activation(shape, settings, rules),
        non_torch=non_torch,
        graphs=graphs if budgeted else NOTHING,
        context=context,
        late=NOTHING if budgeted else graphs,
    )


def _cpu_parts(shape: ModelShape, weights: Estimate) -> Parts:
    """Loading leaves the heap larger than the weights: by the embedding in 32 bits, as seen."""
    left = 4 * (shape.vocab or 0) * (shape.hidden or 0)
    return Parts(
        weights=weights,
        activation=NOTHING,
        non_torch=Estimate(
            value_bytes=WORKER_BYTES + left,
            source="estimated",
            margin_bytes=256 * MIB + left,
            note="the worker process",
        ),
        late=Estimate(
            value_bytes=CPU_SERVER_BYTES,
            source="estimated",
            margin_bytes=512 * MIB,
            note="vLLM's other processes",
        ),
    )


def forward_bytes(shape: ModelShape, settings: VllmSettings, rules: VllmRules) -> int | None:
    """Peak of one layer's pass over a full step; None if the shape does not tell its widths."""
    if shape.hidden is None:
        return None
    wide = shape.intermediate or 0
    if shape.experts is not None:
        mix = shape.experts
        wide = max(
            wide if mix.dense_layers else 0,
            mix.per_token * mix.intermediate + mix.shared_intermediate,
        )
    width = 3 * wide // settings.tensor_parallel_size + 4 * shape.hidden
    return settings.step_tokens(shape, rules) * width * shape.dtype_bytes


def sampler_bytes(shape: ModelShape, settings: VllmSettings, rules: VllmRules) -> int:
    """Peak of the sampler's warm-up over a full batch, on every device of the group."""
    if settings.pooling or shape.vocab is None:
        return 0
    rows = min(settings.max_num_seqs, settings.step_tokens(shape, rules))
    return int(rules.sampler_copies * rows * shape.vocab * 4)


def estimate_activation(shape: ModelShape, settings: VllmSettings, rules: VllmRules) -> Estimate:
    """The higher of the two peaks of the profiling pass.

    The margin reaches down to half of the forward pass: other samplers than the one that the
    formula describes need next to nothing.
    """
    forward = forward_bytes(shape, settings, rules)
    sampler = sampler_bytes(shape, settings, rules)
    value = max(forward or 0, sampler)
    margin = max(160 * MIB, value // 4, value - (forward or 0) // 2)
    if shape.experts is not None or shape.multimodal:
        margin += 640 * MIB  # the experts' workspace, or an encoder's pass
    return Estimate(
        value_bytes=value,
        source="estimated",
        margin_bytes=margin,
        note="sampler" if sampler > (forward or 0) else "forward pass",
    )


def estimate_non_torch(tp: int, total_bytes: int) -> Estimate:
    """Libraries and communication buffers: small alone, about 0.3 GiB for each further device."""
    alone = 0.13 if total_bytes >= 70 * GIB else 0.05
    value = alone if tp == 1 else 0.3 * tp - 0.05
    margin = 0.3 if tp == 1 else 0.25 * tp
    return Estimate(
        value_bytes=int(value * GIB), source="estimated", margin_bytes=int(margin * GIB)
    )


def graphs_in_budget(settings: VllmSettings, rules: VllmRules) -> bool:
    """Whether this server takes its CUDA graphs from the KV cache's share."""
    chosen = settings.graphs_in_budget
    return rules.graphs_in_budget if chosen is None else chosen and rules.since(0, 18)


def estimate_graphs(settings: VllmSettings, rules: VllmRules) -> Estimate:
    """CUDA graphs: about a MiB each since they are estimated, half a GiB in all before.

    Two sets are captured, for whole steps up to `max_num_seqs` and for pieces up to twice as many
    tokens.
    """
    if settings.enforce_eager or rules.device_kind == "cpu":
        return NOTHING
    if not rules.since(0, 17):
        return Estimate(
            value_bytes=512 * MIB, source="estimated", margin_bytes=512 * MIB, note=GRAPHS
        )
    sizes = 3 + min(settings.max_num_seqs, 256) // 8 + max(0, settings.max_num_seqs - 256) // 16
    value = (2 * min(sizes, 51) + 48) * settings.tensor_parallel_size * MIB
    return Estimate(
        value_bytes=value,
        source="estimated",
        margin_bytes=max(value, _WIDEST_GRAPH_MARGIN),
        note=GRAPHS,
    )
