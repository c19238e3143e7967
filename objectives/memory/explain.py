"""A prediction in sentences: what the arithmetic says."""

from __future__ import annotations

from dataclasses import dataclass

from objectives.memory.footprint import Footprint
from objectives.vllm import GIB


@dataclass(frozen=True, kw_only=True)
class Story:
    """What the sentences are made of.

    Attributes:
        footprint: The server's memory.
        utilization: The fraction it was given.
        share_bytes: What that is of the device.
        free_bytes: What is free once Whisper is there.
        needed_bytes: Of KV cache, for one request of the longest length.
        max_model_len: That length, in tokens.
        sized_outright: The cache's size was given, and the fraction does not count.
        missing_bytes: Of the constraint that is violated.
    """

    footprint: Footprint
    utilization: float
    share_bytes: int
    free_bytes: int
    needed_bytes: int
    max_model_len: int
    sized_outright: bool
    missing_bytes: int


def gib(value_bytes: float) -> str:
    """Bytes as people read them: "5.82 GiB"."""
    return f"{value_bytes / GIB:.2f} GiB"


def evidence(cause: str | None, story: Story) -> str:
    """The arithmetic behind a cause, in one sentence."""
    return {
        None: _fits,
        "gpu_memory_insufficient_at_start": _start,
        "kv_cache_no_blocks": _no_blocks,
        "kv_cache_too_small": _too_small,
        "device_memory": _device,
    }[cause](story)


def _share(story: Story) -> str:
    total = story.share_bytes / story.utilization
    return f"{gib(story.share_bytes)} ({story.utilization:g} of {gib(total)})"


def _parts(story: Story) -> str:
    names = {
        "weights": "weights",
        "activation": "activation",
        "non_torch": "other memory",
        "graphs": "CUDA graphs",
    }
    held = [
        f"{label} {gib(story.footprint.parts[name].value_bytes)}"
        for name, label in names.items()
        if story.footprint.parts[name].value_bytes
    ]
    return " + ".join(held) or "nothing else"


def _fits(story: Story) -> str:
    footprint = story.footprint
    return (
        f"{gib(footprint.kv_cache_bytes)} of KV cache holds {footprint.kv_cache_tokens:,} tokens:"
        f" {footprint.max_concurrency:.2f} requests of {story.max_model_len:,} tokens"
    )


def _start(story: Story) -> str:
    return (
        f"{_share(story)} is asked for when vLLM starts and {gib(story.free_bytes)} will be free:"
        f" {gib(story.missing_bytes)} short"
    )


def _no_blocks(story: Story) -> str:
    return (
        f"of {_share(story)}, {_parts(story)} leave {gib(story.footprint.available_bytes)} for the"
        " KV cache: not one block"
    )


def _too_small(story: Story) -> str:
    return (
        f"one request of {story.max_model_len:,} tokens needs {gib(story.needed_bytes)} of KV"
        f" cache and {gib(story.footprint.available_bytes)} is left:"
        f" {story.footprint.kv_cache_tokens:,} tokens"
    )


def _device(story: Story) -> str:
    footprint = story.footprint
    own = sum(footprint.parts[name].value_bytes for name in ("weights", "activation", "non_torch"))
    own += footprint.graphs.value_bytes + footprint.kv_cache_bytes
    beside = footprint.outside.value_bytes
    return (
        f"vLLM's {gib(own)} and {gib(beside)} that come on top of its share are"
        f" {gib(story.missing_bytes)} more than the {gib(story.free_bytes)} that will be free"
    )
