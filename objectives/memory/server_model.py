"""What a prediction is about: a model under a server's settings, and the device at this moment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from objectives.memory.estimate import NOTHING, Estimate
from objectives.memory.kv_cache import KVCacheCapacity, KVCacheShape
from objectives.models import ModelShape
from objectives.vllm import VllmRules, VllmSettings

_LONGEST_WHOLE_PROMPT = 32 << 10


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """What an observed start holds for, and for nothing else.

    Attributes:
        model: The model's name or path, as the study names it.
        device: The device's UUID.
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


@dataclass(frozen=True, kw_only=True)
class ServerModel:
    """A model as one server runs it: all that its memory depends on, but for the device's state.

    Attributes:
        name: The model's name or path, under which a calibration knows it.
        device: The device's UUID, likewise.
        weights_bytes: Bytes of all the model's files; or a figure for one device; None for an
            estimate from the shape.
        overhead: Activation, non-torch and graphs together, where they are known.
    """

    shape: ModelShape
    settings: VllmSettings
    rules: VllmRules
    name: str = ""
    device: str = ""
    weights_bytes: int | Estimate | None = None
    overhead: Estimate | None = None

    def with_settings(self, **changes: Any) -> ServerModel:  # noqa: ANN401 - as the fields are
        """The same with some settings changed."""
        return replace(self, settings=replace(self.settings, **changes))

    @property
    def unmodelled(self) -> tuple[str, ...]:
        """What takes memory and is not in these numbers."""
        sound = ("what the encoder takes while it serves",) if self.shape.speech else ()
        return (*self.settings.unmodelled, *sound)

    @property
    def key(self) -> EngineKey:
        """What a start of this server teaches about."""
        return EngineKey(
            version=self.rules.version,
            model=self.name,
            device=self.device,
            device_kind=self.rules.device_kind,
            tensor_parallel_size=self.settings.tensor_parallel_size,
            dtype=self.settings.dtype,
            quantization=self.settings.quantization or "",
            cpu_offload_bytes=self.settings.cpu_offload_bytes,
        )

    @property
    def on_cpu(self) -> bool:
        """Whether it runs without a GPU."""
        return self.rules.device_kind == "cpu"

    @property
    def encodes(self) -> bool:
        """Whether a prompt cannot be read in pieces: an encoder sees it whole."""
        return self.shape.encoder_only or self.shape.speech is not None

    @property
    def max_model_len(self) -> int:
        """Tokens of the longest request that the server takes."""
        return self.settings.max_model_len or self.shape.max_position

    @cached_property
    def step_tokens(self) -> int:
        """Tokens that the profiling pass runs through the model."""
        settings, length = self.settings, self.max_model_len
        if settings.batched_tokens_given:
            return settings.max_num_batched_tokens
        whole = self.rules.whole_prompts and length <= _LONGEST_WHOLE_PROMPT
        if whole or (self.on_cpu and self.shape.latent is not None):
            return max(length, settings.max_num_batched_tokens)
        item = self.shape.longest_item_tokens if self.rules.raises_steps_to_items else 0
        least = length if self.encodes else item
        return min(settings.max_num_seqs * length, max(settings.max_num_batched_tokens, least))

    @property
    def in_flight_tokens(self) -> int:
        """Tokens that may be scheduled before windowed ones are given back."""
        return self.step_tokens * self.rules.batches_in_flight

    def blocks_for(self, cache_tokens: int, request_tokens: int) -> tuple[int, int] | None:
        """Blocks behind a cache whose size was printed in tokens, and of one such request.

        None where tokens alone decide, because every layer keeps all of them: elsewhere a short
        request takes more of the cache than its share of the tokens, as each kind of layer takes
        blocks of its own.
        """
        if [group.keeps for group in self.kv.groups] in ([], ["all"]):
            return None
        per_request = self.kv.blocks_per_request(request_tokens, self.in_flight_tokens)
        total = self.kv.blocks_of(cache_tokens, self.max_model_len, self.in_flight_tokens)
        return total, per_request

    @property
    def graphs_in_budget(self) -> bool:
        """Whether this server takes its CUDA graphs from the KV cache's share."""
        chosen = self.settings.graphs_in_budget
        return self.rules.graphs_in_budget if chosen is None else chosen and self.rules.since(0, 18)

    @property
    def sized_outright(self) -> bool:
        """Whether the fraction does not size the cache: a size is given, or an older CPU build."""
        settings = self.settings
        return (
            settings.kv_cache_memory_bytes is not None
            or settings.blocks_override is not None
            or not self.rules.utilization_counts
        )

    @cached_property
    def kv(self) -> KVCacheShape:
        """How its KV cache is laid out.

        Raises:
            UnsupportedShapeError: for a cache type whose packing is not known.
        """
        return KVCacheShape.of(self.shape, self.settings, self.rules)

    @property
    def needed_bytes(self) -> int:
        """Of cache, below which the engine refuses to start."""
        return max(self.request_bytes, self.states_bytes)

    @property
    def request_bytes(self) -> int:
        """Of cache, for one request of the longest length."""
        if self.settings.fits_length_to_memory:
            return (1 + self.kv.null_blocks) * self.kv.block_bytes
        return self.kv.needed_bytes(self.max_model_len, self.in_flight_tokens)

    @property
    def states_bytes(self) -> int:
        """Of cache, for a recurrent state of every request that may run at once; 0 without any.

        Source: vLLM `config/compilation.py`, "max_num_seqs exceeds available Mamba cache blocks".
        """
        counted = self.rules.checks_state_blocks and not self.settings.enforce_eager
        if not (counted and self.kv.holds_states):
            return 0
        return self.settings.max_num_seqs * self.kv.block_bytes

    def capacity(self, available_bytes: int) -> KVCacheCapacity:
        """What a cache of so many bytes holds."""
        return self.kv.capacity(available_bytes, self.max_model_len, self.in_flight_tokens)


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """The device's memory right before Whisper and vLLM start.

    Attributes:
        total_bytes: As the engine sees it: a driver's own reserve left out.
        free_bytes: Of it, free before both start.
        whisper: What the speech model will hold; it starts first.
        later: What servers that start after it will hold.
        headroom_bytes: What must stay free.
        total_margin_bytes, free_margin_bytes: How far they may be wrong.
        free_after_context: `free_bytes` is what vLLM's own check sees, as its log prints it.
    """

    total_bytes: int
    free_bytes: int
    whisper: Estimate = NOTHING
    later: Estimate = NOTHING
    headroom_bytes: int = 0
    total_margin_bytes: int = 0
    free_margin_bytes: int = 0
    free_after_context: bool = False

    @property
    def left_bytes(self) -> int:
        """Free for vLLM, once Whisper is there."""
        return self.free_bytes - self.whisper.value_bytes

    @property
    def left_margin_bytes(self) -> int:
        """How far `left_bytes` may be wrong."""
        return self.free_margin_bytes + self.whisper.margin_bytes
