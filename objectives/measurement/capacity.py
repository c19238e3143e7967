"""How many requests of the profile's size the language model holds at once: arithmetic, no I/O.

The promise comes from the engine's own KV cache; the load then confirms or refutes it. A request
that is thrown out of the cache (a preemption) or has to wait although there should be room says
that the promise does not hold.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from objectives.load import LlmLoad
from objectives.vllm import Pages

RESERVED_BLOCKS = 1
"""Blocks that vLLM keeps for itself: padding points to one "null block", which serves no request.

Source: vLLM v1/core/block_pool.py, since the V1 engine (0.8). Seen on 0.32: of 32 blocks, 31
requests of a block each ran at once, and the 32nd waited."""

Verdict = Literal["confirmed", "refuted", "not_reached", "not_seen"]
"""So many were seen at once, none waiting, none preempted / one waited or was preempted below the
capacity / the load never had so many at once, and nothing spoke against it / no readings."""


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Requests that fit at once.

    Attributes:
        limited_by: What would have to grow for more.
        kv_cache_tokens: That the engine's KV cache holds.
        tokens_per_request: Tokens of the profile's longest request, prompt and answer.
        blocks_per_request: The same in whole blocks, as the cache hands them out.
        usable_blocks: Blocks that requests can have.
        max_num_seqs: The engine's limit; None if it is not known.
        verdict: What the load said to it.
        evidence: Why, in words.
    """

    requests: int
    limited_by: Literal["kv_cache", "max_num_seqs"]
    kv_cache_tokens: int
    tokens_per_request: int
    blocks_per_request: int
    block_tokens: int
    usable_blocks: int
    max_num_seqs: int | None = None
    verdict: Verdict = "not_seen"
    evidence: str = "the engine's metrics were not read under load"


def capacity(
    load: LlmLoad,
    *,
    kv_cache_tokens: int,
    block_tokens: int = 16,
    max_num_seqs: int | None = None,
    blocks: tuple[int, int] | None = None,
) -> Capacity:
    """Requests of the profile's longest size that the KV cache holds, capped by `max_num_seqs`.

    A request takes whole blocks, and the tokens of its answer as well as of its prompt. The
    longest size counts, not the average: what fits on average preempts now and then.

    Args:
        load: Whose token counts.
        kv_cache_tokens: Tokens that fit, in the engine's words.
        block_tokens: Tokens of a block, in the engine's words; 16 is vLLM's default on GPUs.
        max_num_seqs: The engine's `--max-num-seqs`.
        blocks: Of the cache, and of such a request, where layers keep unlike things; None: both
            follow from the tokens.

    Raises:
        ValueError: A count is not positive (`kv_cache_tokens` may be 0).
    """
    if kv_cache_tokens < 0 or block_tokens < 1 or (max_num_seqs is not None and max_num_seqs < 1):
        raise ValueError(
            f"{kv_cache_tokens} tokens in blocks of {block_tokens}, max_num_seqs {max_num_seqs}"
        )
    tokens = load.most_tokens_per_request
    total, blocks_per_request = blocks or (
        kv_cache_tokens // block_tokens,
        -(-tokens // block_tokens),
    )
    usable_blocks = max(0, total - RESERVED_BLOCKS)
    fitting = usable_blocks // blocks_per_request
    requests = min(fitting, max_num_seqs or fitting)
    return Capacity(
        requests=requests,
        limited_by="max_num_seqs" if requests < fitting else "kv_cache",
        kv_cache_tokens=kv_cache_tokens,
        tokens_per_request=tokens,
        blocks_per_request=blocks_per_request,
        block_tokens=block_tokens,
        usable_blocks=usable_blocks,
        max_num_seqs=max_num_seqs,
    )


def confirm(promised: Capacity, pages: Pages | None) -> Capacity:
    """The same capacity with what the readings under load say to it.

    Requests that wait while the engine already runs as many as were promised do not speak
    against the promise (the load was larger), nor do those that wait for the processor while
    there is room in the cache.
    """
    verdict, evidence = _judge(promised, pages)
    return replace(promised, verdict=verdict, evidence=evidence)


def _judge(promised: Capacity, pages: Pages | None) -> tuple[Verdict, str]:
    if pages is None or pages.most_running is None or pages.preemptions is None:
        return "not_seen", "the engine's metrics were not read under load"
    running, waiting = int(pages.most_running), int(pages.most_waiting or 0)
    reached = f"at most {running} of {promised.requests} ran at once"
    if pages.preemptions > 0:
        return "refuted", f"{int(pages.preemptions)} preemptions; {reached}"
    if running >= promised.requests:
        return "confirmed", f"{running} ran at once, none was preempted"
    if waiting == 0:
        return "not_reached", f"{reached}, none waited, none was preempted"
    if _had_room(promised, pages):
        return "not_reached", f"{reached}; {waiting} waited for their turn, not for room"
    return "refuted", f"{waiting} waited; {reached}"


def _had_room(promised: Capacity, pages: Pages) -> bool:
    """True if one more request would have fitted at the fullest moment that was seen."""
    if pages.most_kv_usage is None:
        return False
    free_blocks = (1 - pages.most_kv_usage) * promised.usable_blocks
    return free_blocks >= promised.blocks_per_request
