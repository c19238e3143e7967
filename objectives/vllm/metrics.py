"""What vLLM says of itself on its `/metrics` page: pure, text in and figures out.

The page is Prometheus' text format. Names moved over the years; both spellings are read:
`vllm:kv_cache_usage_perc` (since 0.9.2) and `vllm:gpu_cache_usage_perc` (until 0.12), counters
with and without `_total`, and the cache's size: `kv_cache_size_tokens` among the labels of
`vllm:cache_config_info` (0.32), or else `num_gpu_blocks` times `block_size`. Where several
engines answer on one page, their counts are added and the fullest cache counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

_KV_USAGE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
_TOTALS = {
    "running": ("vllm:num_requests_running",),
    "waiting": ("vllm:num_requests_waiting",),
    "preemptions": ("vllm:num_preemptions_total", "vllm:num_preemptions"),
    "prompt_tokens": ("vllm:prompt_tokens_total", "vllm:prompt_tokens"),
    "output_tokens": ("vllm:generation_tokens_total", "vllm:generation_tokens"),
    "prefix_hit_tokens": ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
}
"""Figures that are added over all engines of a page, by the names of their series."""


@dataclass(frozen=True, kw_only=True)
class KvCache:
    """The KV cache as the engine laid it out; None where its version does not say.

    Attributes:
        block_tokens: Tokens that one block holds. For models whose layers differ this is the
            smallest unit and not to be multiplied: trust `tokens`.
        tokens: Tokens that fit, over all engines.
        labels: Everything the first engine said, verbatim.
    """

    block_tokens: int | None
    tokens: int | None
    labels: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class MetricsPage:
    """One reading of the page; a figure that is not on it is None.

    Attributes:
        running, waiting: Requests being computed, and those that wait for room.
        kv_usage: Fullest KV cache, 0 .. 1.
        preemptions: Requests thrown out of the cache since the engine started.
        prompt_tokens, output_tokens: Tokens computed and generated since the start.
        prefix_hit_tokens: Prompt tokens found in the prefix cache since the start.
        ttft, e2e: Sum of the server's own times to first token, and of its request times
            (seconds), and how many.
    """

    running: float | None
    waiting: float | None
    kv_usage: float | None
    preemptions: float | None
    prompt_tokens: float | None
    output_tokens: float | None
    prefix_hit_tokens: float | None
    ttft: tuple[float, float] | None
    e2e: tuple[float, float] | None
    kv_cache: KvCache | None


@dataclass(frozen=True, kw_only=True)
class Pages:
    """What a run of readings says, from before the load until after it; None: never on a page.

    The most is that of any page; counts and means are of the time between first and last.

    Attributes:
        taken, missed: Readings that succeeded, and that did not.
        kv_cache: Its layout.
    """

    taken: int
    missed: int
    kv_cache: KvCache | None
    most_running: float | None
    most_waiting: float | None
    most_kv_usage: float | None
    preemptions: float | None
    prompt_tokens: float | None
    output_tokens: float | None
    prefix_hit_tokens: float | None
    mean_ttft_s: float | None
    mean_e2e_s: float | None

    @property
    def block_tokens(self) -> int | None:
        """Tokens of a block of the KV cache."""
        return None if self.kv_cache is None else self.kv_cache.block_tokens

    @property
    def kv_cache_tokens(self) -> int | None:
        """Tokens that the KV cache holds."""
        return None if self.kv_cache is None else self.kv_cache.tokens

    def to_dict(self) -> dict[str, float]:
        """The figures that were on the pages, as JSON can hold them."""
        found = vars(self).items()
        return {name: value for name, value in found if name != "kv_cache" and value is not None}


def read_page(text: str) -> MetricsPage:
    """The figures that the study needs; a text without them gives a page of Nones."""
    series = list(_series(text))
    return MetricsPage(
        **{field: _total(series, names) for field, names in _TOTALS.items()},
        kv_usage=_most(one.value for one in _named(series, _KV_USAGE)),
        ttft=_sum_and_count(series, "vllm:time_to_first_token_seconds"),
        e2e=_sum_and_count(series, "vllm:e2e_request_latency_seconds"),
        kv_cache=_kv_cache(series),
    )


def compare_pages(texts: Sequence[str], *, missed: int = 0) -> Pages | None:
    """What readings say together, in order of time; None if there are fewer than two."""
    if len(texts) < 2:
        return None
    pages = [read_page(text) for text in texts]
    first, last = pages[0], pages[-1]
    return Pages(
        taken=len(pages),
        missed=missed,
        kv_cache=first.kv_cache,
        most_running=_most(page.running for page in pages),
        most_waiting=_most(page.waiting for page in pages),
        most_kv_usage=_most(page.kv_usage for page in pages),
        preemptions=_grown(first.preemptions, last.preemptions),
        prompt_tokens=_grown(first.prompt_tokens, last.prompt_tokens),
        output_tokens=_grown(first.output_tokens, last.output_tokens),
        prefix_hit_tokens=_grown(first.prefix_hit_tokens, last.prefix_hit_tokens),
        mean_ttft_s=_mean_between(first.ttft, last.ttft),
        mean_e2e_s=_mean_between(first.e2e, last.e2e),
    )


def _kv_cache(series: Sequence[Sample]) -> KvCache | None:
    """Layout of the cache; 0.8's V1 engine wrote num_gpu_blocks="None".

    Source: vLLM v1/engine/core_client.py, where the front end takes over each engine's answer.
    """
    said = [one.labels for one in series if one.name == "vllm:cache_config_info"]
    if not said:
        return None
    labels = said[0]  # one line an engine; blocks are their sum on each line, tokens one engine's
    blocks, block_tokens = _whole(labels, "num_gpu_blocks"), _whole(labels, "block_size")
    one_engine = _whole(labels, "kv_cache_size_tokens")
    tokens = None if one_engine is None else one_engine * len(said)
    if tokens is None and blocks is not None and block_tokens is not None:
        tokens = blocks * block_tokens
    return KvCache(block_tokens=block_tokens, tokens=tokens, labels=labels)


def _series(text: str) -> Iterator[Sample]:
    """Series of vLLM itself; what is no such line is passed over.

    Line by line, so that one that is broken costs no other, and without the buckets of histograms,
    most of a page: with them a page takes four times as long to read.
    """
    # Here, for its import costs 0.08 s, and who only predicts reads no page.
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415

    for line in text.split("\n"):  # splitlines() would also split at rarer characters
        if line.startswith("vllm:") and "_bucket{" not in line:
            try:
                for family in text_string_to_metric_families(line):
                    yield from family.samples
            except ValueError:
                continue


def _named(series: Sequence[Sample], names: Sequence[str]) -> list[Sample]:
    """The series of the first name that is on the page."""
    for name in names:
        found = [one for one in series if one.name == name and math.isfinite(one.value)]
        if found:
            return found
    return []


def _total(series: Sequence[Sample], names: Sequence[str]) -> float | None:
    found = _named(series, names)
    return math.fsum(one.value for one in found) if found else None


def _sum_and_count(series: Sequence[Sample], name: str) -> tuple[float, float] | None:
    total, count = _total(series, (f"{name}_sum",)), _total(series, (f"{name}_count",))
    return None if total is None or count is None else (total, count)


def _whole(labels: Mapping[str, str], key: str) -> int | None:
    """A label as a whole number; None where it is absent, "None", or no number."""
    try:
        return int(float(labels[key]))
    except (KeyError, ValueError, OverflowError):
        return None


def _most(numbers: Iterable[float | None]) -> float | None:
    return max((number for number in numbers if number is not None), default=None)


def _grown(before: float | None, after: float | None) -> float | None:
    """How much a counter grew; None if it is not known or went back (another engine answered)."""
    return None if before is None or after is None or after < before else after - before


def _mean_between(
    before: tuple[float, float] | None, after: tuple[float, float] | None
) -> float | None:
    if before is None or after is None or after[1] <= before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])
