"""What a server holds beside its KV cache, and how each part is estimated before anything ran.

For engines that were never started here; one real start replaces the estimates
(`objectives.memory.calibration`).

Where they come from: activation peaks and overheads that public start-up logs and documents
print, for full-attention models on single GPUs. They were fitted on those and not held out; the
margins are wider than the errors seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from objectives.memory.estimate import NOTHING, Estimate, add
from objectives.memory.server_model import DeviceMemory, ServerModel
from objectives.models import ModelShape, cannot_tell
from objectives.units import GIB, MIB

WORKER_BYTES = 640 * MIB
"""Resident size of a CPU worker without weights: interpreter, libraries, buffers."""

CPU_SERVER_BYTES = 900 * MIB
"""What vLLM's other two processes hold on a CPU, shared pages counted once."""

GRAPHS = "CUDA graphs"
_WIDEST_GRAPH_MARGIN = 448 * MIB

CONTEXT = Estimate(value_bytes=460 * MIB, margin_bytes=240 * MIB, note="CUDA context")
"""0.35 to 0.61 GiB on the cards whose logs were read; large chips take more."""


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
    non_torch: Estimate = NOTHING
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


def estimate_parts(server: ServerModel, memory: DeviceMemory) -> Parts:
    """All parts of an engine that never started here.

    Raises:
        UnsupportedShapeError: if nothing tells the size of the weights.
    """
    weights = estimate_weights(server)
    if server.overhead is not None:
        context = _context(server, memory)
        return Parts(weights=weights, activation=server.overhead, context=context)
    if server.on_cpu:
        return _cpu_parts(server.shape, weights)
    graphs = estimate_graphs(server)
    non_torch = estimate_non_torch(server.settings.tensor_parallel_size, memory.total_bytes)
    if server.rules.charges_neighbours:  # the whole device is the share: the context is inside
        non_torch = add(non_torch, CONTEXT)
    return Parts(
        weights=weights,
        activation=estimate_activation(server),
        non_torch=non_torch,
        graphs=graphs if server.graphs_in_budget else NOTHING,
        context=_context(server, memory),
        late=add(NOTHING if server.graphs_in_budget else graphs, _at_work(server)),
    )


def _at_work(server: ServerModel) -> Estimate:
    """What a Whisper's encoder takes beyond the profiled pass, once requests come: seen, not known.

    Such servers were reported to run out of memory after a start that went well.
    """
    if server.shape.speech is None:
        return NOTHING
    return Estimate(value_bytes=512 * MIB, margin_bytes=512 * MIB, note="the encoder at work")


def _context(server: ServerModel, memory: DeviceMemory) -> Estimate:
    """The CUDA context, where it is neither inside the share nor in what is free already."""
    known = memory.free_after_context or server.rules.charges_neighbours
    return NOTHING if known or server.on_cpu else CONTEXT


def estimate_weights(server: ServerModel) -> Estimate:
    """Weights that one device holds: tensor parallelism divides, offloading subtracts.

    Raises:
        UnsupportedShapeError: if nothing is stated and the shape does not tell.
    """
    shape, settings, stated = server.shape, server.settings, server.weights_bytes
    if isinstance(stated, Estimate):
        return stated
    whole = shape.weight_bytes if stated is None else stated
    if whole is None:
        raise cannot_tell("the configuration does not give the weights' size: their files would")
    one = max(0, whole // settings.tensor_parallel_size - settings.cpu_offload_bytes)
    if stated is None:
        margin = _weights_margin(shape, one)
        return Estimate(value_bytes=one, margin_bytes=margin, note="shape x type")
    twice = shape.head_bytes if shape.tied_embeddings else 0  # a head that is not loaded
    margin = one // 50 + 128 * MIB + twice
    return Estimate(value_bytes=one, source="read", margin_bytes=margin, note="files")


def _weights_margin(shape: ModelShape, one: int) -> int:
    share = 0.04
    if shape.quantization is not None:
        share = 0.12 if shape.quantization.known else 0.75
        if shape.quantization.known and shape.recurrent is not None:
            share = 0.3  # checkpoints differ in whether they quantise the recurrent layers
    return int(one * share) + (1536 if shape.multimodal else 128) * MIB


def _cpu_parts(shape: ModelShape, weights: Estimate) -> Parts:
    """Loading leaves the heap larger than the weights: by the embedding in 32 bits, as seen."""
    left = 4 * (shape.vocab or 0) * (shape.hidden or 0)
    return Parts(
        weights=weights,
        activation=NOTHING,
        non_torch=Estimate(
            value_bytes=WORKER_BYTES + left,
            margin_bytes=256 * MIB + left,
            note="the worker process",
        ),
        late=Estimate(
            value_bytes=CPU_SERVER_BYTES,
            margin_bytes=512 * MIB,
            note="vLLM's other processes",
        ),
    )


def forward_bytes(server: ServerModel) -> int:
    """Peak of one layer's pass over a full step; 0 if the shape does not tell its widths."""
    shape = server.shape
    if shape.hidden is None:
        return 0
    wide = shape.intermediate or 0
    if shape.experts is not None:
        mix = shape.experts
        wide = max(
            wide if mix.dense_layers else 0,
            mix.per_token * mix.intermediate + mix.shared_intermediate,
        )
    if shape.speech is not None:  # the encoder reads one window of sound in a step
        wide, tokens = shape.speech.intermediate, shape.speech.tokens
        return max(tokens, server.step_tokens) * (3 * wide + 4 * shape.hidden) * shape.dtype_bytes
    width = 3 * wide // server.settings.tensor_parallel_size + 4 * shape.hidden
    return server.step_tokens * width * shape.dtype_bytes


def sampler_bytes(server: ServerModel) -> int:
    """Peak of the sampler's warm-up over a full batch, on every device of the group."""
    vocab = server.shape.vocab
    if server.settings.pooling or server.shape.encoder_only or vocab is None:
        return 0
    rows = min(server.settings.max_num_seqs, server.step_tokens)
    return int(server.rules.sampler_copies * rows * vocab * 4)


def peak_bytes(server: ServerModel) -> int:
    """The activation peak by estimate; on a CPU only the forward pass leaves anything."""
    forward = forward_bytes(server)
    return forward if server.on_cpu else max(forward, sampler_bytes(server))


def estimate_activation(server: ServerModel) -> Estimate:
    """The higher of the two peaks of the profiling pass.

    The margin reaches down to half of the forward pass: other samplers than the one that the
    formula describes need next to nothing.
    """
    forward, sampler = forward_bytes(server), sampler_bytes(server)
    value = max(forward, sampler)
    margin = max(160 * MIB, value // 4, value - forward // 2)
    if server.shape.experts is not None or server.shape.multimodal:
        margin += 640 * MIB  # the experts' workspace, or an encoder's pass
    note = "sampler" if sampler > forward else "forward pass"
    return Estimate(value_bytes=value, margin_bytes=margin, note=note)


def estimate_non_torch(tp: int, total_bytes: int) -> Estimate:
    """Libraries and communication buffers: small alone, about 0.3 GiB for each further device."""
    alone = 0.13 if total_bytes >= 70 * GIB else 0.05
    value = alone if tp == 1 else 0.3 * tp - 0.05
    margin = 0.3 if tp == 1 else 0.25 * tp
    return Estimate(value_bytes=int(value * GIB), margin_bytes=int(margin * GIB))


def estimate_graphs(server: ServerModel) -> Estimate:
    """CUDA graphs: a MiB or two each since they are estimated, half a GiB in all before.

    Two sets are captured, for whole steps up to `max_num_seqs` and for pieces up to twice as many
    tokens. Published estimates of like models lie between 0.1 and 0.5 GiB on one device, and about
    1 GiB on two.
    """
    seqs = server.settings.max_num_seqs
    if server.settings.enforce_eager or server.on_cpu:
        return NOTHING
    if not server.rules.since(0, 17):
        return Estimate(value_bytes=512 * MIB, margin_bytes=512 * MIB, note=GRAPHS)
    sizes = 3 + min(seqs, 256) // 8 + max(0, seqs - 256) // 16
    value = (3 * min(sizes, 51) + 96) * server.settings.tensor_parallel_size * MIB
    return Estimate(value_bytes=value, margin_bytes=max(value, _WIDEST_GRAPH_MARGIN), note=GRAPHS)
