"""The /metrics page of the fake vLLM, in Prometheus' text format."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from vllm_words import Sizes

_BUCKETS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


@dataclass
class Histogram:
    """Counts of seconds; threads may add at once."""

    values_s: list[float] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, value_s: float) -> None:
        with self._lock:
            self.values_s.append(value_s)

    def lines(self, name: str, labels: str) -> list[str]:
        with self._lock:
            values = list(self.values_s)
        lines = [f"# HELP {name} Histogram in seconds.", f"# TYPE {name} histogram"]
        for edge in (*_BUCKETS_S, float("inf")):
            count = sum(value <= edge for value in values)
            shown = "+Inf" if edge == float("inf") else str(edge)
            lines.append(f'{name}_bucket{{{labels},le="{shown}"}} {float(count)}')
        lines.append(f"{name}_count{{{labels}}} {float(len(values))}")
        lines.append(f"{name}_sum{{{labels}}} {sum(values)}")
        return lines


@dataclass
class Counts:
    """What the page tells."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    preemptions: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    ttft: Histogram = field(default_factory=Histogram)
    e2e: Histogram = field(default_factory=Histogram)


def page(
    model: str, counts: Counts, sizes: Sizes, utilization: float, cache_dtype: str, *, old: bool
) -> str:
    """The whole page."""
    labels = f'engine="0",model_name="{model}"'
    usage = "vllm:kv_cache_usage_perc"
    lines = [
        *_one("vllm:num_requests_running", "gauge", labels, counts.running),
        *_one("vllm:num_requests_waiting", "gauge", labels, counts.waiting),
        *_one(usage, "gauge", labels, counts.kv_usage),
        *(_one("vllm:gpu_cache_usage_perc", "gauge", labels, counts.kv_usage) if old else ()),
        *_one("vllm:prefix_cache_hits_total", "counter", labels, 0),
        *_one("vllm:num_preemptions_total", "counter", labels, counts.preemptions),
        *_one("vllm:prompt_tokens_total", "counter", labels, counts.prompt_tokens),
        *_one("vllm:generation_tokens_total", "counter", labels, counts.output_tokens),
        *counts.ttft.lines("vllm:time_to_first_token_seconds", labels),
        *counts.e2e.lines("vllm:e2e_request_latency_seconds", labels),
    ]
    config = {
        "block_size": sizes.block_tokens,
        "cache_dtype": cache_dtype,
        "engine": 0,
        "gpu_memory_utilization": utilization,
        "num_gpu_blocks": sizes.blocks,
    }
    if not old:
        config |= {
            "kv_cache_size_tokens": sizes.tokens,
            "kv_cache_max_concurrency": sizes.concurrency,
        }
    said = ",".join(f'{key}="{value}"' for key, value in config.items())
    lines += _one("vllm:cache_config_info", "gauge", said, 1)
    return "\n".join(lines) + "\n"


def _one(name: str, kind: str, labels: str, value: float) -> list[str]:
    bare = name.removesuffix("_total") if kind == "counter" else name
    return [
        f"# HELP {bare} {bare.partition(':')[2]}.",
        f"# TYPE {bare} {kind}",
        f"{name}{{{labels}}} {float(value)}",
    ]
