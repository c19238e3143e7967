"""From bytes to tokens: how vLLM's paged KV cache divides what it is given.

Memory is handed out in blocks, and what is left over serves no request. Layers that keep different
things (every token, a window of them, a recurrent state, the encoded sound) are put into groups of
as many layers each, and every group draws its blocks from one pool; so a block's bytes are those of
one group's layers. A recurrent state is a block of its own, whatever the length of its sequence:
the attention layers' blocks are made as large as it is.

Source: vLLM `v1/kv_cache_interface.py` (`page_size_bytes`, `max_memory_usage_bytes`),
`v1/core/kv_cache_utils.py` (`_get_kv_cache_groups_uniform_page_size`,
`unify_kv_cache_spec_page_size`, `get_max_concurrency_for_kv_cache_config`,
`_check_enough_kv_cache_memory`) and `platforms/interface.py` (`_align_hybrid_block_size`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from objectives.models import ModelShape
from objectives.vllm import VllmRules, VllmSettings

Keeps = Literal["all", "window", "chunk", "state", "sound"]

_LATENT_ALIGNMENT = 128
"""Tokens that a block is a multiple of, where latent attention stands beside recurrent layers."""


@dataclass(frozen=True, kw_only=True)
class CacheGroups:
    """The groups of layers that keep the same.

    Attributes:
        keeps: Every token, a sliding window or a fixed chunk of them, a recurrent state, or what
            the encoder made of the sound.
        layers: Of all groups together.
        page_bytes: Of one layer in one block, on one device.
        block_tokens: Tokens of a block; of no meaning for a state.
        limit: Tokens of the window, the chunk or the sound; states of a sequence.
        count: Groups.
    """

    keeps: Keeps
    layers: int
    page_bytes: int
    block_tokens: int
    limit: int = 0
    count: int = 1

    def blocks(self, max_model_len: int, in_flight_tokens: int) -> int:
        """Blocks that one request of the longest allowed length takes from all groups."""
        return self.count * self._of_one(max_model_len, in_flight_tokens)

    def _of_one(self, max_model_len: int, in_flight_tokens: int) -> int:
        if self.keeps == "state":
            return self.limit
        if self.keeps == "all":
            return -(-max_model_len // self.block_tokens)
        if self.keeps == "sound":
            return -(-self.limit // self.block_tokens)
        slide = 1 if self.keeps == "window" else 0
        held = min(self.limit - slide + in_flight_tokens, max_model_len)
        return -(-held // self.block_tokens) + slide


@dataclass(frozen=True, kw_only=True)
class KVCacheShape:
    """How a model's KV cache is laid out in one engine.

    Attributes:
        block_bytes: Bytes of a block on one device, over the layers of one group; 0 without any.
        groups: Groups of layers by what they keep; none where nothing is kept.
        null_blocks: Blocks that never serve a request, and that the start counts.
        tokens_from_concurrency: How the engine words the size; see `KVCacheShape.capacity`.
    """

    block_bytes: int
    groups: tuple[CacheGroups, ...]
    null_blocks: int = 0
    tokens_from_concurrency: bool = True

    @classmethod
    def of(cls, shape: ModelShape, settings: VllmSettings, rules: VllmRules) -> KVCacheShape:
        """The layout that a version of vLLM gives a model's cache.

        Raises:
            UnsupportedShapeError: for a cache type whose packing is not known.
        """
        kinds = _same_pages(list(_kinds(shape, settings, rules)))
        layers = _group_layers([kind.layers for kind in kinds])
        tokens = min((kind.block_tokens for kind in kinds), default=0)
        page = max((kind.page_bytes for kind in kinds), default=0)
        return cls(
            block_bytes=layers * page + shape.index_bytes_per_token * tokens,
            groups=tuple(replace(kind, count=-(-kind.layers // layers)) for kind in kinds),
            null_blocks=1 if rules.holds_null_block and kinds else 0,
            tokens_from_concurrency=rules.tokens_from_concurrency,
        )

    @property
    def block_tokens(self) -> int:
        """Tokens of a block, of the layers with the smallest ones; 1 where none holds tokens."""
        held = [group.block_tokens for group in self.groups if group.keeps != "state"]
        return min(held, default=1)

    @property
    def holds_states(self) -> bool:
        """Whether every running sequence takes at least a block for its recurrent state."""
        return any(group.keeps == "state" for group in self.groups)

    def blocks_per_request(self, max_model_len: int, in_flight_tokens: int) -> int:
        """Blocks that one request of the longest allowed length takes.

        `in_flight_tokens` may be scheduled before windowed ones are given back.
        """
        return sum(group.blocks(max_model_len, in_flight_tokens) for group in self.groups)

    def needed_bytes(self, max_model_len: int, in_flight_tokens: int) -> int:
        """Bytes below which the engine refuses to start."""
        blocks = self.blocks_per_request(max_model_len, in_flight_tokens) + self.null_blocks
        return blocks * self.block_bytes

    def capacity(
        self, available_bytes: int, max_model_len: int, in_flight_tokens: int
    ) -> KVCacheCapacity:
        """What fits into `available_bytes`, in the engine's own words."""
        if not self.groups:
            return KVCacheCapacity(blocks=0, tokens=0, max_concurrency=0.0)
        blocks = max(0, available_bytes // self.block_bytes)
        concurrency = blocks / self.blocks_per_request(max_model_len, in_flight_tokens)
        tokens = (
            int(concurrency * max_model_len)
            if self.tokens_from_concurrency
            else blocks // self._group_count * self.block_tokens
        )
        return KVCacheCapacity(blocks=blocks, tokens=tokens, max_concurrency=concurrency)

    def blocks_of(self, tokens: int, max_model_len: int, in_flight_tokens: int) -> int:
        """Blocks behind a size that an engine's log prints in tokens."""
        if not self.tokens_from_concurrency:
            return tokens // self.block_tokens * self._group_count
        blocks = self.blocks_per_request(max_model_len, in_flight_tokens)
        return round(tokens * blocks / max_model_len)

    @property
    def _group_count(self) -> int:
        return sum(group.count for group in self.groups)


@dataclass(frozen=True, kw_only=True)
class KVCacheCapacity:
    """What a KV cache holds.

    Attributes:
        tokens: Tokens, as the engine's log counts them.
        max_concurrency: Requests of the longest allowed length at once.
    """

    blocks: int
    tokens: int
    max_concurrency: float


def _kinds(shape: ModelShape, settings: VllmSettings, rules: VllmRules) -> Iterator[CacheGroups]:
    """Layers by what they keep, each with the page that it would have by itself."""
    dtype, tp = settings.kv_cache_dtype, settings.tensor_parallel_size
    full, window = _attending(shape, settings, rules)
    each = shape.kv_bytes_per_layer(dtype, tp)
    state = _state(shape, settings, rules)
    tokens = _block_tokens(shape, settings, rules, each if full else 0, state)
    if full:
        yield CacheGroups(keeps="all", layers=full, page_bytes=tokens * each, block_tokens=tokens)
    if window:
        narrow = shape.kv_bytes_per_layer(dtype, tp, window=True)
        yield CacheGroups(
            keeps="chunk" if shape.attention.chunked else "window",
            layers=window,
            page_bytes=tokens * narrow,
            block_tokens=tokens,
            limit=shape.attention.window_tokens or 0,
        )
    if state is not None:
        yield replace(state, block_tokens=tokens)
    if shape.speech is not None:
        yield CacheGroups(
            keeps="sound",
            layers=full,
            page_bytes=tokens * each,
            block_tokens=tokens,
            limit=max(shape.speech.tokens, settings.max_num_batched_tokens),
        )


def _attending(shape: ModelShape, settings: VllmSettings, rules: VllmRules) -> tuple[int, int]:
    """Layers with every token, and layers with a window of them, as the version allocates."""
    full, window = shape.attention.full, shape.attention.window
    drafting = shape.draft_layers if settings.drafts_by_model else 0
    if full and window and not rules.windows_save_memory:
        return full + window + drafting, 0
    return (full + drafting, window) if full else (full, window + drafting)


def _state(shape: ModelShape, settings: VllmSettings, rules: VllmRules) -> CacheGroups | None:
    """The recurrent layers: one state for a sequence, and another where prefixes are cached."""
    if shape.recurrent is None:
        return None
    caches = settings.prefix_caching
    if caches is None:
        caches = rules.caches_hybrid_prefixes and shape.attending > 0
    size = shape.state_bytes(
        settings.tensor_parallel_size,
        settings.conv_state_dtype,
        settings.recurrent_state_dtype,
        settings.drafts,
    )
    return CacheGroups(
        keeps="state",
        layers=shape.recurrent.count,
        page_bytes=size,
        block_tokens=0,
        limit=(2 if caches else 1) + settings.drafts,
    )


def _block_tokens(
    shape: ModelShape,
    settings: VllmSettings,
    rules: VllmRules,
    token_bytes: int,
    state: CacheGroups | None,
) -> int:
    """Tokens of a block: beside recurrent layers, as many as are as large as a state."""
    tokens = settings.block_tokens or rules.default_block_tokens
    if rules.device_kind == "cpu" and shape.latent is not None:
        tokens = 16  # the only size its kernel is built for
    if state is None or token_bytes == 0:
        return tokens
    step = max(tokens, _LATENT_ALIGNMENT) if shape.latent is not None else tokens
    return step * -(-state.page_bytes // (step * token_bytes))


def _same_pages(kinds: list[CacheGroups]) -> list[CacheGroups]:
    """All pages as large as the largest: smaller ones get more tokens, or are filled up."""
    page = max((kind.page_bytes for kind in kinds), default=0)
    return [
        replace(
            kind,
            page_bytes=page,
            block_tokens=kind.block_tokens
            * (page // kind.page_bytes if page % kind.page_bytes == 0 else 1),
        )
        for kind in kinds
    ]


def _group_layers(layers: Iterable[int]) -> int:
    """Layers of one group: the rarest kind's number, or the commonest's if all are about alike."""
    counts = sorted(layers)
    if not counts:
        return 0
    return counts[-1] if counts[-1] < counts[0] * 1.5 else counts[0]
