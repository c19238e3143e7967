"""Lines that tell how far a server has come, that it died, or that it was asked to stop.

None of them is a cause. "Engine core initialization failed" and `EngineDeadError` only say that
somewhere above stands one, and an ordered stop prints the latter, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum, IntEnum, auto
from typing import TypeVar

from objectives.units import GIB, MIB

_Kind = TypeVar("_Kind")

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


def parts(text: str) -> tuple[str, ...]:
    """The parts of a line that are looked for, of a text that parts them by "|"."""
    return tuple(text.split("|"))


def _by_part(words: Mapping[_Kind, str]) -> Mapping[str, _Kind]:
    """Part of a line to what it tells, in order: the first that a line has counts."""
    return {part: kind for kind, text in words.items() for part in parts(text)}


PHASE_OF_FRAME = _by_part(
    {
        CUDAGRAPH: "capture_model|_capture_cudagraphs|profile_cudagraph_memory|capture_graphs"
        "|_capture_model|capture_full_cudagraphs|_capture_full_cudagraph",
        # What follows the KV cache's allocation is cured by the same flag, and has no name here.
        PROFILE: "_dummy_sampler_run|_dummy_pooler_run|profile_run|determine_available_memory"
        "|determine_num_available_blocks|profile_num_available_blocks|warming_up_model"
        "|kernel_warmup|warmup_kernels|flashinfer_autotune|initialize_kv_cache"
        "|initialize_kv_cache_tensors|_allocate_kv_cache_tensors|_allocate_kv_cache"
        "|allocate_gpu_cache|initialize_cache|_init_cache_engine|init_cache_engine"
        "|initialize_from_config|warm_up_model|compile_or_warm_up_model"
        "|_initialize_kv_caches|_init_cache",
        LOAD: "load_model|create_weights|process_weights_after_loading|make_layers"
        "|initialize_model|_initialize_model|load_weights|init_device|get_model|init_model",
        SERVING: "execute_model|run_busy_loop|sample_tokens|_process_engine_step|engine_step"
        "|run_engine_loop|start_worker_execution_loop|step_with_batch_queue|wake_up|add_lora"
        "|_run_engine|transcribe|detect_language|step_async",
    }
)
"""Functions of vLLM 0.4 to 0.33 and of Whisper, and what an out-of-memory below them means."""

_PRECEDENCE = (CUDAGRAPH, PROFILE, LOAD, SERVING)
_METHOD = re.compile(r"(?:processing|executing) method '?(\w+)")
_UNITS = {"K": 1 << 10, "M": MIB, "G": GIB}
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
    """The phase by what the log said last, where it has no frames; `eager`: it has no graphs."""
    phase = _PHASE_OF_STAGE.get(stage, LOAD)
    return PROFILE if phase == CUDAGRAPH and eager else phase


def figures_of_refusal(match: re.Match[str]) -> dict[str, float | int | str]:
    """What an allocator printed as it refused, in bytes: asked for, there, free, its own."""
    figures: dict[str, float | int | str] = {}
    for name, text in match.groupdict().items():
        if text and (amount := _AMOUNT.match(text)) is not None:
            figures[f"{name}_bytes"] = round(float(amount.group(1)) * _UNITS[amount.group(2)])
    return figures


class Death(Enum):
    """How a line tells of a death."""

    BEFORE_TRACEBACK = auto()  # the exception that belongs to it follows
    AFTER_TRACEBACK = auto()  # it stands above
    UNEXPECTED = auto()  # a process is gone; an ordered stop may say so, too
    ECHO = auto()  # somebody noticed that the engine is gone


_DEATHS = _by_part(
    {
        Death.BEFORE_TRACEBACK: "enginecore failed to start|enginecore hit an exception"
        "|enginecore encountered a fatal error|workerproc hit an exception"
        "|workerproc failed to start|error executing method"
        "|exception in worker vllmworkerprocess|engine background task failed"
        "|dumping input data|terminate called after throwing|process spawnprocess-",
        Death.AFTER_TRACEBACK: "engine core initialization failed|engine process failed to start"
        "|process failed during engine core initialization|fatal python error"
        "|segmentation fault|core dumped|bus error|sigabrt received|sigsegv received"
        "|died with exit code|worker died or was killed while executing"
        "|the actor died unexpectedly",
        Death.UNEXPECTED: "died unexpectedly| died, exit code|exit code 137|exitcode 137"
        "|exited (137)|(sigkill)",
        Death.ECHO: "enginedeaderror|async_llm output_handler failed"
        "|asyncllm output_handler failed|background loop has errored",
    }
)
_ASKED = parts(
    "signal=sigterm|signal=sigint|received sigterm|received sigint|received signal|caught signal"
    "|keyboardinterrupt|keyboard interrupt|api server: shutdown triggered"
    "|api server: stopping engine client|api server: engine client stopped|]: stopping "
    "|gracefully shutting down"
)
_STOPPING = parts(
    "shutting down|waiting for application shutdown|application shutdown|finished server process"
    "|stopping vllm|stopping server"
)
_SECONDARY = parts(
    "engine dead error|enginedeaderror|root cause|engine core init|engine process failed"
    "|worker failed with error|background process|stack trace|stacktrace|raytaskerror"
    "|actordiederror|actorunavailable|workercrashed|cancellederror|loop has errored"
    "|executor failed|connection closed|connection reset"
)
_SECONDARY_TYPES = parts(
    "keyboardinterrupt|systemexit|eoferror|brokenpipeerror|connectionreseterror"
)
_STAGES = _by_part(
    {
        Stage.STARTED: "vllm api server version|vllm server version|llm engine (v",
        Stage.LOADING: "starting to load model|loading model from scratch|checkpoint shards",
        Stage.LOADED: "model loading took|model weights took|model weights take",
        Stage.PROFILING_GRAPHS: "profiling cuda graph memory",
        Stage.PROFILED_GRAPHS: "estimated cuda graph memory",
        # V0 prints the device's blocks before the host's.
        Stage.SIZED: "available kv cache memory|kv cache size:|# cpu blocks",
        Stage.CAPTURING: "capturing cuda graph|capturing cudagraph"
        "|capturing the model for cuda graphs",
        Stage.CAPTURED: "graph capturing finished",
        Stage.ENGINE_UP: "init engine (profile",
        Stage.SERVING: "application startup complete|uvicorn running on|avg prompt throughput"
        '|processed prompts: 100%|" 200',
    }
)

_AVAILABLE = re.compile(r"Available KV cache memory: (-?\d+(?:\.\d+)?) ?GiB")
_RUNNING = re.compile(r"Running: (\d+) reqs")
_EAGER = re.compile(r"enforce_eager'?[=:] ?True|disabled under eager mode|Enforce eager set")
_PREEMPTED = re.compile(r"is preempted by PreemptionMode|Preempting request |Preemptions: [1-9]")


def _first(words: Mapping[str, _Kind], lowered: str) -> _Kind | None:
    for part, kind in words.items():
        if part in lowered:
            return kind
    return None


def death_of(lowered: str) -> Death | None:
    """How this line (in lower case) tells that an engine died, if it does."""
    return _first(_DEATHS, lowered)


def is_asked(lowered: str) -> bool:
    """Whether this line (in lower case) says for certain that somebody ended the server."""
    if not ("sig" in lowered or "interrupt" in lowered or "shut" in lowered or "stop" in lowered):
        return False
    return any(part in lowered for part in _ASKED)


def is_stopping(lowered: str) -> bool:
    """Whether this line (in lower case) says that the server stops; maybe because it must."""
    return lowered.startswith(_STOPPING) or "shutting down fastapi" in lowered


def is_secondary(lowered: str) -> bool:
    """Whether an exception (its line in lower case) only reports another one."""
    return lowered.startswith(_SECONDARY_TYPES) or (
        lowered.endswith("cancelled") or any(part in lowered for part in _SECONDARY)
    )


def is_stall(lowered: str) -> bool:
    """Whether processes wait for one another: some minutes of it are healthy, endless are not."""
    return "broadcast block found in" in lowered or (
        "no available block found in" in lowered or "waiting for baton" in lowered
    )


def stage_of(lowered: str) -> Stage | None:
    """How far the start has come, if this line (in lower case) tells it."""
    return _first(_STAGES, lowered)


def is_eager(text: str) -> bool:
    """Whether the engine says that it captures no graphs."""
    return _EAGER.search(text) is not None


def available_bytes(text: str) -> int | None:
    """The KV cache memory that this line prints; negative if there is none."""
    match = _AVAILABLE.search(text) if "KV cache memory" in text else None
    return round(float(match.group(1)) * GIB) if match else None


def running_requests(text: str) -> int | None:
    """How many requests are in progress, if this line tells it."""
    match = _RUNNING.search(text) if "Running: " in text else None
    return int(match.group(1)) if match else None


def is_preemption(text: str) -> bool:
    """Whether requests were pushed out of the KV cache, to be computed again."""
    return "reempt" in text and _PREEMPTED.search(text) is not None


def is_alive(text: str) -> bool:
    """Whether a serving engine still produces something."""
    return '" 200' in text or (
        "generation throughput" in text and "generation throughput: 0.0" not in text
    )
