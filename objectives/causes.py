"""Why a server or a trial ended: every cause, its remedy, its constraint, and what kind it is."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_ROOM = "raise --gpu-memory-utilization, lower --max-num-seqs or --max-num-batched-tokens"

REMEDIES: Mapping[str, str] = MappingProxyType(
    {
        "ok": "Nothing to do.",
        "kv_cache_no_blocks": "Weights and activations already fill vLLM's share: "
        f"{_ROOM}, or take a smaller or more strongly quantised model.",
        "kv_cache_too_small": "Lower --max-model-len{to_length}, or give the KV cache more room: "
        f"{_ROOM}, or use --kv-cache-dtype fp8.",
        "gpu_memory_insufficient_at_start": "Free memory held by other processes, or lower "
        "--gpu-memory-utilization{to_utilization}.",
        "cuda_oom_load": "The weights do not fit into what is free: use a smaller or more strongly "
        "quantised model, more GPUs (--tensor-parallel-size), or free what other processes hold.",
        "cuda_oom_profile": "The start needs more than was left beside the weights: lower "
        "--max-num-seqs and --max-num-batched-tokens, or lower --gpu-memory-utilization.",
        "cuda_oom_cudagraph": "Capturing CUDA graphs needs memory beside the KV cache: lower "
        "--gpu-memory-utilization or --max-num-seqs, capture fewer sizes, or use --enforce-eager.",
        "cuda_oom_serving": "Leave more memory beside the KV cache: lower --gpu-memory-utilization "
        "or --max-num-batched-tokens, and look for neighbours that grew.",
        "memory_profiling_race": "Another process released memory while vLLM measured it: start "
        "the servers one after another, and vLLM last.",
        "host_oom": "The host ran out of memory, not the GPU: give the machine or the container "
        "more, lower --swap-space and parallel builds (MAX_JOBS), or stop other processes.",
        "unsupported_gpu": "This GPU, or this build for it, cannot run what was asked: use "
        "--dtype half on cards before Ampere, another quantisation or attention backend, or a "
        "build for this card.",
        "cuda_init": "CUDA does not start: check `nvidia-smi`, the driver's version against the "
        "build's CUDA, the container's GPU option and CUDA_VISIBLE_DEVICES.",
        "nccl_or_dist": "The ranks cannot reach each other: check the number of GPUs, /dev/shm, "
        "the network interface (NCCL_SOCKET_IFNAME, VLLM_HOST_IP), and run with NCCL_DEBUG=INFO.",
        "model_not_found_or_auth": "Check the model's name or path, that all its files are there, "
        "and HF_TOKEN and the access to a gated repository.",
        "bad_argument": "Correct the argument that the line names; `vllm serve --help` lists what "
        "this version takes.",
        "unsupported_quantization_or_arch": "This version of vLLM cannot read this checkpoint: "
        "take a newer vLLM and transformers, or another quantisation or model.",
        "port_in_use": "Stop what listens on the port{port}, or take another one (--port).",
        "cuda_illegal_access": "A kernel read or wrote where it must not: repeat with "
        "CUDA_LAUNCH_BLOCKING=1 and --enforce-eager, try another attention backend or version.",
        "timeout_hang": "A process waits for another that does not answer: look at what the "
        "workers did last (a lock, a compilation, a stuck collective), and repeat.",
        "preemption_warning": "Requests were computed twice because the KV cache was full: "
        f"{_ROOM}.",
        "engine_dead_other": "The engine died of something that is not in this list: read the "
        "traceback that the line belongs to.",
        "unknown": "Nothing here names a cause: look for the engine's own output above, or repeat "
        "with VLLM_LOGGING_LEVEL=DEBUG.",
    }
)
"""Cause to remedy; braces are filled from the figures where those are known."""


def remedy_of(cause: str, figures: Mapping[str, float | int | str]) -> str:
    """The remedy for a cause, with the log's own figures where they help."""
    length = figures.get("estimated_max_model_len")
    tokens = figures.get("kv_cache_tokens")
    port = figures.get("port")
    return REMEDIES[cause].format_map(
        {
            "to_length": f" to {length or tokens}" if length or tokens else "",
            "to_utilization": _utilization_that_fits(figures),
            "port": f" {port}" if port else "",
        }
    )


def _utilization_that_fits(figures: Mapping[str, float | int | str]) -> str:
    """The share of the device that is free, rounded down to a hundredth."""
    free, total = figures.get("free_bytes"), figures.get("total_bytes")
    if not isinstance(free, int) or not isinstance(total, int) or total <= 0:
        return ""
    share = int(free / total * 100) / 100
    return f" to at most {share:.2f}" if share > 0 else ""


CONSTRAINT_OF = {
    "out_of_bounds": "bounds",
    "kv_cache_no_blocks": "kv_cache_gib",
    "kv_cache_too_small": "kv_cache_gib",
    "gpu_memory_insufficient_at_start": "start_memory_gib",
    "device_memory": "device_memory_gib",
    "cuda_oom_load": "device_memory_gib",
    "cuda_oom_profile": "device_memory_gib",
    "cuda_oom_cudagraph": "device_memory_gib",
    "cuda_oom_serving": "device_memory_gib",
    "host_oom": "device_memory_gib",
    "cpu_fallback": "placement_gib",
    "over_time_budget": "time_budget_s",
    "requests_failed": "failed_share",
}
"""Which constraint a cause violates."""


CAUSES: tuple[str, ...] = tuple(REMEDIES)
"""Every cause that a diagnosis may name; `ok` and `preemption_warning` are no failures."""


MEMORY_CAUSES = frozenset(
    {
        "kv_cache_no_blocks",
        "kv_cache_too_small",
        "gpu_memory_insufficient_at_start",
        "cuda_oom_load",
        "cuda_oom_profile",
        "cuda_oom_cudagraph",
        "cuda_oom_serving",
        "host_oom",
    }
)
"""Causes that make a candidate infeasible: it asks for more memory than there is."""


APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})
"""XIDs that a faulty program raises on a sound device.

Source: NVIDIA's k8s-device-plugin, the XIDs that it ignores when it judges a device's health.
"""
