"""From bytes to tokens: how vLLM's paged KV cache divides what it is given.

Memory is handed out in blocks of some tokens, and what is left over serves no request. Layers
that keep only a window of tokens are grouped with as many full layers, and every group draws its
blocks from one pool; so a block's bytes are those of one group's layers.

Source: vLLM `v1/kv_cache_interface.py` (`page_size_bytes`, `max_memory_usage_bytes`) and
`v1/core/kv_cache_utils.py` (`_get_kv_cache_groups_uniform_page_size`,
`get_max_concurrency_for_kv_cache_config`, `_check_enough_kv_cache_memory`).
"""

from __future__ import annotations

from dataclasses import dataclass

from objectives.models import ModelShape
from objectives.vllm import VllmRules


@dataclass(frozen=True, kw_only=True)
class KVCacheShape:
    """How a model's KV cache is laid out in one engine.

    Attributes:
        block_bytes: Bytes of a block on one device, over the layers of one group.
        full_groups: Groups whose layers keep every token.
        window_groups: Groups whose layers keep a window.
        window_tokens: Its length; None without such groups.
        chunked: The window is a chunk of fixed place, not one that slides.
        null_blocks: Blocks that never serve a request, and that the start counts.
        tokens_from_concurrency: How the engine words the size; see `KVCacheShape.capacity`.
    """

    block_tokens: int
    block_bytes: int
    full_groups: int = 1
    window_groups: int = 0
    window_tokens: int | None = None
    chunked: bool = False
    null_blocks: int = 0
    tokens_from_concurrency: bool = True

    @classmethod
    def of(
        cls,
        shape: ModelShape,
        rules: VllmRules,
        *,
        kv_dtype: str = "auto",
        block_tokens: int | None = None,
        tp: int = 1,
    ) -> KVCacheShape:
        """The layout that a version of vLLM gives a model's cache.

        A `block_tokens` of None is the version's default, `tp` the devices of the group.

        Raises:
            UnsupportedShapeError: for a cache type whose packing is not known.
        """
        tokens = block_tokens or rules.default_block_tokens
        if rules.device_kind == "cpu" and shape.latent is not None:
            tokens = 16  # the only size its kernel is built for
        page_bytes = tokens * shape.kv_bytes_per_layer(kv_dtype, tp)
        full, window = _layers(shape, rules)
        group = _group_layers(full, window)
        return cls(
            block_tokens=tokens,
            block_bytes=group * page_bytes,
            full_groups=-(-full // group),
            window_groups=-(-window // group),
            window_tokens=shape.attention.window_tokens if window else None,
            chunked=shape.attention.chunked,
            null_blocks=1 if rules.holds_null_block else 0,
            tokens_from_concurrency=rules.tokens_from_concurrency,
        )

    def blocks_per_request(self, max_model_len: int, in_flight_tokens: int) -> int:
        """Blocks that one request of the longest allowed length takes.

        `in_flight_tokens` may be scheduled before windowed ones are given back.
        """
        full = -(-max_model_len // self.block_tokens) * self.full_groups
        if self.window_tokens is None:
            return full
        slide = 0 if self.chunked else 1
        held = min(self.window_tokens - slide + in_flight_tokens, max_model_len)
        return full + (-(-held // self.block_tokens) + slide) * self.window_groups

    def needed_bytes(self, max_model_len: int, in_flight_tokens: int) -> int:
        """Bytes below which the engine refuses to start."""
        blocks = self.blocks_per_request(max_model_len, in_flight_tokens) + self.null_blocks
        return blocks * self.block_bytes

    def capacity(
        self, available_bytes: int, max_model_len: int, in_flight_tokens: int
    ) -> KVCacheCapacity:
        """What fits into `available_bytes`, in the engine's own words."""
        blocks = max(0, available_bytes // self.block_bytes)
        concurrency = blocks / self.blocks_per_request(max_model_len, in_flight_tokens)
        groups = self.full_groups + self.window_groups
        tokens = (
            int(concurrency * max_model_len)
            if self.tokens_from_concurrency
            else blocks // groups * self.block_tokens
        )
        return KVCacheCapacity(blocks=blocks, tokens=tokens, max_concurrency=concurrency)

    def blocks_of(self, tokens: int, max_model_len: int, in_flight_tokens: int) -> int:
        """Blocks behind a size that an engine's log prints in tokens."""
        if not self.tokens_from_concurrency:
            return tokens // self.block_tokens * (self.full_groups + self.window_groups)
        blocks = self.blocks_per_request(max_model_len, in_flight_tokens)
        return round(tokens * blocks / max_model_len)


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


def _layers(shape: ModelShape, rules: VllmRules) -> tuple[int, int]:
    """Layers with every token, and layers with a window of them, as the version allocates."""
    full, window = shape.attention.full, shape.attention.window
    mixed = full and window and not rules.windows_save_memory
    return (full + window, 0) if mixed else (full, window)


def _group_layers(full: int, window: int) -> int:
    """Layers of one group: the rarer kind's number, or the commoner's if they are about alike."""
    fewest, most = sorted((full, window))
    return most if fewest == 0 or most < fewest * 1.5 else fewest
