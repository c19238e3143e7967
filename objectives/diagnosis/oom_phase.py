"""In which phase of a server's life a device ran out of memory.

The frames of the traceback decide, for they are the process's own account of what it was doing;
where a log holds none, how far the start had come decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType

LOAD = "cuda_oom_load"
PROFILE = "cuda_oom_profile"
CUDAGRAPH = "cuda_oom_cudagraph"
SERVING = "cuda_oom_serving"


class Stage(IntEnum):
    """How far a start has come, by what its log said last."""

    NOTHING = 0
    STARTED = 1
    LOADING = 2
    LOADED = 3
    PROFILING_GRAPHS = 4
    PROFILED_GRAPHS = 5
    SIZED = 6  # the KV cache
    CAPTURING = 7
    CAPTURED = 8
    ENGINE_UP = 9
    SERVING = 10


_PHASE_OF_STAGE = {
    Stage.LOADED: PROFILE,
    Stage.PROFILING_GRAPHS: CUDAGRAPH,
    Stage.PROFILED_GRAPHS: PROFILE,
    Stage.SIZED: CUDAGRAPH,
    Stage.CAPTURING: CUDAGRAPH,
    Stage.CAPTURED: PROFILE,
    Stage.ENGINE_UP: SERVING,
    Stage.SERVING: SERVING,
}


def _by_name(functions: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(
        {name: cause for cause, names in functions.items() for name in names.split()}
    )


PHASE_OF_FRAME = _by_name(
    {
        CUDAGRAPH: "capture_model _capture_cudagraphs profile_cudagraph_memory capture_graphs"
        " _capture_model capture_full_cudagraphs _capture_full_cudagraph",
        # What follows the KV cache's allocation is cured by the same flag, and has no name here.
        PROFILE: "_dummy_sampler_run _dummy_pooler_run profile_run determine_available_memory"
        " determine_num_available_blocks profile_num_available_blocks warming_up_model"
        " kernel_warmup warmup_kernels flashinfer_autotune initialize_kv_cache"
        " initialize_kv_cache_tensors _allocate_kv_cache_tensors _allocate_kv_cache"
        " allocate_gpu_cache initialize_cache _init_cache_engine init_cache_engine"
        " initialize_from_config warm_up_model compile_or_warm_up_model"
        " _initialize_kv_caches _init_cache",
        LOAD: "load_model create_weights process_weights_after_loading make_layers"
        " initialize_model _initialize_model load_weights init_device get_model init_model",
        SERVING: "execute_model run_busy_loop sample_tokens _process_engine_step engine_step"
        " run_engine_loop start_worker_execution_loop step_with_batch_queue wake_up add_lora"
        " _run_engine transcribe detect_language step_async",
    }
)
"""Functions of vLLM 0.4 to 0.33 and of Whisper, and what an out-of-memory below them means."""

_PRECEDENCE = (CUDAGRAPH, PROFILE, LOAD, SERVING)
_METHOD = re.compile(r"(?:processing|executing) method '?(\w+)")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?) ?([KMG])i?B")


def earlier_of(first: str | None, second: str | None) -> str | None:
    """Which of two phases, both found in one traceback, names what the process was doing."""
    return next((phase for phase in _PRECEDENCE if phase in {first, second}), None)


def phase_in_message(text: str) -> str | None:
    """The phase that vLLM names beside the error.

    V0's executors name the method, "... method load_model: ..."; V1's model runner says that it
    was loading, or warming up the sampler.
    """
    if "occurred when warming up" in text:
        return PROFILE
    if "Failed to load model" in text:
        return LOAD
    method = _METHOD.search(text)
    return PHASE_OF_FRAME.get(method.group(1)) if method else None


def phase_of_stage(stage: Stage, *, eager: bool) -> str:
    """The phase by how far the start had come, for a log without frames.

    Args:
        stage: What the log said last.
        eager: Whether no graphs are captured.
    """
    phase = _PHASE_OF_STAGE.get(stage, LOAD)
    return PROFILE if phase == CUDAGRAPH and eager else phase


def figures_of_refusal(match: re.Match[str]) -> dict[str, float | int | str]:
    """What an allocator printed as it refused, in bytes: asked for, there, free, its own."""
    figures: dict[str, float | int | str] = {}
    for name, text in match.groupdict().items():
        if text and (amount := _AMOUNT.match(text)) is not None:
            figures[f"{name}_bytes"] = round(float(amount.group(1)) * _UNITS[amount.group(2)])
    return figures
