"""What vLLM prints: a healthy start, and each way to refuse one, in the words of a version.

A style is a kind and a version: `cpu-0.32`, `gpu-0.11`, `gpu-0.19.1`. Messages are the version's
own format strings, read in wheels of 0.8.5 to 0.33; figures come from the fake's settings. CPU
builds before 0.20 are not played: they took no share of the memory.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from vllm_version import Release, Rule, release_of

GIB = 1 << 30

_SITE = "/opt/engine/lib/python3.12/site-packages"
_DOCS = "https://docs.vllm.ai/en/latest/configuration/conserving_memory/"
_PROFILE_FRAMES = (
    ("vllm/v1/worker/gpu_worker.py", "determine_available_memory", "self.model_runner.profile_run"),
    ("vllm/v1/worker/gpu_model_runner.py", "profile_run", "output = self._dummy_sampler_run"),
)
_LOAD_FRAMES = (
    ("vllm/v1/worker/gpu_worker.py", "load_model", "self.model_runner.load_model"),
    ("vllm/model_executor/layers/linear.py", "create_weights", "weight = Parameter(torch.empty"),
)
_GRAPH_FRAMES = (
    ("vllm/v1/worker/gpu_worker.py", "compile_or_warm_up_model", "self.model_runner.capture_model"),
    ("vllm/v1/worker/gpu_model_runner.py", "_capture_cudagraphs", "self._dummy_run"),
)
_SERVING_FRAMES = (
    ("vllm/v1/engine/core.py", "run_busy_loop", "self._process_engine_step"),
    ("vllm/v1/worker/gpu_model_runner.py", "execute_model", "model_output = self._model_forward"),
)
_ARCHITECTURE = "Qwen2ForCausalLM"
_INSPECTED = ("vllm/config/model.py", "__post_init__", "self.model_info, arch = ")
_UNINSPECTED = (
    "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
    f"  Value error, Model architectures ['{_ARCHITECTURE}'] failed to be inspected. Please check "
    "the logs for more details. [type=value_error, input_value=ArgsKwargs((), {'model': '...'}), "
    "input_type=ArgsKwargs]"
)
Frames = Sequence[tuple[str, str, str]]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The figures of one start, bytes unless the name says otherwise."""

    total_bytes: int
    free_bytes: int
    utilization: float
    requested_bytes: int
    weights_bytes: int
    non_kv_bytes: int
    graph_bytes: int
    kv_bytes: int
    kv_is_explicit: bool
    bytes_per_token: int
    block_tokens: int
    max_model_len: int

    @property
    def blocks(self) -> int:
        return max(0, self.kv_bytes // (self.bytes_per_token * self.block_tokens))

    @property
    def tokens(self) -> int:
        return self.blocks * self.block_tokens

    @property
    def concurrency(self) -> float:
        return self.tokens / self.max_model_len


def gib(size_bytes: float) -> str:
    return f"{round(size_bytes / GIB, 2)}"


class Words:
    """The log of one fake start."""

    def __init__(self, style: str, model: str, sizes: Sizes, out: TextIO = sys.stdout) -> None:
        kind, _, version = style.partition("-")
        if kind not in ("cpu", "gpu") or not version[:1].isdigit():
            raise ValueError(f"FAKE_VLLM_STYLE is gpu-VERSION or cpu-VERSION, not {style!r}")
        self.is_cpu = kind == "cpu"
        self.version = version if version.count(".") > 1 else f"{version}.0"
        self.release: Release = release_of(version)
        self._model = model
        self._sizes = sizes
        self._out = out
        self._engine = "EngineCore" if self.since(0, 18) else "EngineCore_DP0"

    def since(self, major: int, minor: int, patch: int = 0) -> bool:
        """Whether a wording that came with this release is spoken."""
        return self.release >= (major, minor, patch)

    @property
    def is_old(self) -> bool:
        """Before the CPU backend took a share of memory, and messages spoke of it."""
        return not self.since(0, 20)

    def api(self, where: str, text: str, level: str = "INFO") -> None:
        self._line("APIServer", where, text, level)

    def engine(self, where: str, text: str, level: str = "INFO") -> None:
        self._line(self._engine, where, text, level)

    def worker(self, where: str, text: str, level: str = "INFO") -> None:
        self._line("Worker" if self.is_cpu else self._engine, where, text, level)

    def _line(self, process: str, where: str, text: str, level: str) -> None:
        now = time.strftime("%m-%d %H:%M:%S")
        for line in text.splitlines():
            self._out.write(f"{self._label(process)}{level} {now} [{where}] {line}\n")
        self._out.flush()

    def _label(self, process: str) -> str:
        return f"({process} pid={os.getpid()}) " if self.since(0, 10) else ""

    def bare(self, text: str) -> None:
        for line in text.splitlines():
            self._out.write(f"{self._label('APIServer')}{line}\n")
        self._out.flush()

    def hello(self) -> None:
        if not self.since(0, 15):
            self.api("api_server.py:1839", f"vLLM API server version {self.version}")
        else:
            text = f"vLLM server version {self.version}, serving model {self._model}"
            self.api("api_utils.py:347", text)
        self.engine(
            "core.py:77" if self.is_old else "core.py:133",
            f"Initializing a V1 LLM engine (v{self.version}) with config: model='{self._model}', "
            f"dtype=torch.bfloat16, max_seq_len={self._sizes.max_model_len}, load_format=auto, "
            f"device_config={'cpu' if self.is_cpu else 'cuda'}, seed=0",
        )

    def loaded(self) -> None:
        size = self._sizes.weights_bytes
        if not self.since(0, 14):
            memory = " memory" if self.since(0, 12) else ""
            text = f"Model loading took {size / GIB:.4f} GiB{memory} and 3.214567 seconds"
            self.engine("gpu_model_runner.py:2653", text)
        else:
            text = f"Model loading took {gib(size)} GiB memory and 3.214567 seconds"
            self.worker("gpu_model_runner.py:5149", text)

    def sized(self) -> None:
        """Weights, KV cache, graphs: what a start says once it knows them."""
        sizes = self._sizes
        self.loaded()
        if self.is_cpu:
            self._cpu_sized()
        else:
            if self.since(0, 19) and sizes.graph_bytes:
                text = f"Estimated CUDA graph memory: {sizes.graph_bytes / GIB:.2f} GiB total"
                self.engine("gpu_model_runner.py:6475", text)
            where = "gpu_worker.py:298" if self.is_old else "gpu_worker.py:770"
            self.engine(where, f"Available KV cache memory: {gib(sizes.kv_bytes)} GiB")

    def _cpu_sized(self) -> None:
        sizes, total = self._sizes, gib(self._sizes.total_bytes)
        if sizes.kv_is_explicit:
            text = f"Explicitly set ({gib(sizes.kv_bytes)}/{total}) GiB for KV cache on node 0."
        else:
            text = (
                f"Auto set ({gib(sizes.kv_bytes)}/{total}) GiB for KV cache on node 0, with "
                f"{gib(sizes.requested_bytes)} GiB requested memory for the worker. "
                f"{gib(sizes.non_kv_bytes)} GiB memory was consumed by non-kv usages."
            )
        self.worker("cpu_worker.py:260", text)

    def started(self, url: str) -> None:
        sizes = self._sizes
        device = "CPU" if self.is_cpu else "GPU"
        size = f"{device} KV cache size: {sizes.tokens:,} tokens"
        most = (
            f"Maximum concurrency for {sizes.max_model_len:,} tokens per request: "
            f"{sizes.concurrency:.2f}x"
        )
        if not self.since(0, 28):
            self.engine("kv_cache_utils.py:1087", size)
            self.engine("kv_cache_utils.py:1091", most)
        else:
            self.engine("kv_cache_utils.py:2327", f"{size}, {most}")
        if not self.is_cpu and sizes.graph_bytes:
            took = f"{sizes.graph_bytes / GIB:.2f}"
            text = f"Graph capturing finished in 3 secs, took {took} GiB"
            self.engine("gpu_model_runner.py:6582", text)
        took = "4.21 seconds" if self.is_old else "4.21 s"
        text = f"init engine (profile, create kv cache, warmup model) took {took}"
        self.engine("core.py:210" if self.is_old else "core.py:403", text)
        kind = "server" if self.since(0, 19) else "API server 0"
        self.api("entry.py:140", f"Starting vLLM {kind} on {url}")
        self.bare(f"INFO:     Started server process [{os.getpid()}]")
        self.bare("INFO:     Waiting for application startup.")
        self.bare("INFO:     Application startup complete.")

    def out_of_memory_under_load(self) -> None:
        where = "core.py:710" if self.is_old else "core.py:1512"
        text = "EngineCore encountered a fatal error."
        self.engine(where, trace(text, _SERVING_FRAMES, self._oom(512 << 20)), "ERROR")
        gone = (
            "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. "
            "See stack trace (above) for the root cause."
        )
        text = trace("AsyncLLM output_handler failed.", (), gone)
        self.api("async_llm.py:480", text, "ERROR")

    def port_in_use(self, port: int) -> None:
        error = f"OSError: [Errno 98] Address already in use: ('127.0.0.1', {port})"
        frame = (("vllm/entrypoints/openai/api_server.py", "create_server_socket", "sock.bind"),)
        self.bare(trace("", frame, error))

    def refuse(self, cause: str) -> None:
        """Say why the engine does not start, as vLLM words that cause.

        Raises:
            ValueError: This fake knows no such cause.
        """
        refusals = {**self._memory_refusals(), **self._other_refusals()}
        if cause not in refusals:
            raise ValueError(f"FAKE_REFUSE must be one of {', '.join(sorted(refusals))}")
        frames, error = refusals[cause]
        if cause in ("bad_argument", "port_in_use"):
            self.bare(error)
            return
        where = "core.py:708" if self.is_old else "core.py:1510"
        text = trace("EngineCore failed to start.", frames, error)
        self.engine(where, text, "ERROR")
        self._no_engine()

    def broken(self, rule: Rule, error: str) -> None:
        """Say what a rule of `vllm_version` says, by whom it is said."""
        if rule.where == "hang":
            self.engine("ray_utils.py:351", error, "WARNING")
        elif rule.where == "engine":
            failed = trace("EngineCore failed to start.", (rule.frame,), error)
            self.engine("core.py:708", failed, "ERROR")
            self._no_engine()
        elif rule.where == "config":
            self.bare(trace("", (rule.frame,), error))
        else:
            first = f"Error in inspecting model architecture '{_ARCHITECTURE}'"
            self.api("registry.py:548", trace(first, (rule.frame,), error), "ERROR")
            self.bare(trace("", (_INSPECTED,), _UNINSPECTED))

    def _no_engine(self) -> None:
        wrapped = (
            "RuntimeError: Engine core initialization failed. See root cause above. "
            f"Failed core proc(s): {{'{self._engine}': 1}}"
        )
        frame = (("vllm/v1/engine/utils.py", "wait_for_engine_startup", "raise RuntimeError("),)
        self.bare(trace("", frame, wrapped))

    def _oom(self, wanted_bytes: int) -> str:
        sizes = self._sizes
        used = gib(sizes.total_bytes - (wanted_bytes >> 1))
        return (
            f"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate "
            f"{wanted_bytes / (1 << 20):.2f} MiB. GPU 0 has a total capacity of "
            f"{gib(sizes.total_bytes)} GiB of which {wanted_bytes / (2 << 20):.2f} MiB is free. "
            f"Including non-PyTorch memory, this process has {used} GiB memory in use."
        )

    def _memory_refusals(self) -> dict[str, tuple[Frames, str]]:
        sizes = self._sizes
        check = (("vllm/v1/worker/gpu_worker.py", "init_device", "raise ValueError("),)
        groups = (("vllm/v1/core/kv_cache_utils.py", "_check_enough_kv_cache_memory", "raise"),)
        if self.is_old:
            groups = (("vllm/v1/core/kv_cache_utils.py", "check_enough_kv_cache_memory", "raise"),)
        before, after = gib(sizes.free_bytes), gib(sizes.free_bytes + GIB)
        tail = (
            "This happens when other processes sharing the same container release GPU memory "
            "while vLLM is profiling during initialization. To fix this, ensure consistent GPU "
            "memory allocation or isolate vLLM in its own container."
        )
        race = (
            f"AssertionError: Error in memory profiling. Initial free memory {before} GiB, "
            f"current free memory {after} GiB. {tail}"
        )
        return {
            "gpu_memory_insufficient_at_start": (check, self._insufficient()),
            "kv_cache_no_blocks": (groups, self._no_blocks()),
            "kv_cache_too_small": (groups, self._too_small()),
            "memory_profiling_race": (_PROFILE_FRAMES[:1], race),
            "cuda_oom_load": (_LOAD_FRAMES, self._oom(270 << 20)),
            "cuda_oom_profile": (_PROFILE_FRAMES, self._oom(594 << 20)),
            "cuda_oom_cudagraph": (_GRAPH_FRAMES, self._oom(48 << 20)),
        }

    def _insufficient(self) -> str:
        sizes = self._sizes
        free, total = gib(sizes.free_bytes), gib(sizes.total_bytes)
        wanted = f"({sizes.utilization}, {gib(sizes.requested_bytes)} GiB)"
        if self.is_cpu:
            return (
                f"ValueError: Available memory on node 0 ({free}/{total} GiB) on startup is less "
                f"than desired CPU memory utilization {wanted}. On the CPU backend, the "
                "`--gpu-memory-utilization` flag controls the fraction of CPU memory reserved "
                "(despite its name). To resolve: decrease `--gpu-memory-utilization` (e.g. "
                "`--gpu-memory-utilization 0.5`) or reduce CPU memory used by other processes."
            )
        device = " cuda:0" if self.since(0, 14) else ""
        return (
            f"ValueError: Free memory on device{device} ({free}/{total} GiB) on startup is less "
            f"than desired GPU memory utilization {wanted}. Decrease GPU memory utilization or "
            "reduce GPU memory used by other processes."
        )

    def _no_blocks(self) -> str:
        sizes = self._sizes
        if self.is_cpu:
            return (
                f"ValueError: Available memory on node 0 ({gib(sizes.free_bytes)}/"
                f"{gib(sizes.total_bytes)} GiB) on kv cache allocation is less than requested "
                f"memory for kv ({gib(sizes.kv_bytes)}/{gib(sizes.requested_bytes)} GiB). Reduce "
                "CPU memory used by other processes."
            )
        text = (
            "ValueError: No available memory for the cache blocks. Try increasing "
            "`gpu_memory_utilization` when initializing the engine"
        )
        if self.is_old:
            return f"{text}."
        remark = "this flag also controls CPU memory reservation on the CPU backend"
        return f"{text} ({remark}, despite its name). See {_DOCS} for more details."

    def _too_small(self) -> str:
        sizes = self._sizes
        needed = gib(sizes.max_model_len * sizes.bytes_per_token)
        owner = "model's" if self.since(0, 22) else "models's"
        also = "" if self.is_old else " (which also controls CPU memory on the CPU backend)"
        more = "" if self.is_old else f" See {_DOCS} for more details."
        return (
            f"ValueError: To serve at least one request with the {owner} max seq len "
            f"({sizes.max_model_len}), ({needed} GiB KV cache is needed, which is larger than the "
            f"available KV cache memory ({gib(sizes.kv_bytes)} GiB). Based on the available "
            f"memory, the estimated maximum model length is {sizes.tokens}. Try increasing "
            f"`gpu_memory_utilization`{also} or decreasing `max_model_len` when initializing the "
            f"engine.{more}"
        )

    def _other_refusals(self) -> dict[str, tuple[Frames, str]]:
        boot = (("vllm/v1/worker/gpu_worker.py", "init_device", "torch.cuda.set_device"),)
        model = (("vllm/config/model.py", "__post_init__", "hf_config = get_config("),)
        return {
            "unsupported_gpu": (
                boot,
                "torch.AcceleratorError: CUDA error: no kernel image is available for execution "
                "on the device",
            ),
            "cuda_init": (
                boot,
                "RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda "
                "functions before calling NumCudaDevices() that might have already set an error? "
                "Error 804: forward compatibility was attempted on non supported HW",
            ),
            "model_not_found_or_auth": (
                model,
                f"OSError: {self._model} is not a local folder and is not a valid model "
                "identifier listed on 'https://huggingface.co/models'",
            ),
            "unsupported_quantization_or_arch": (
                model,
                "ValueError: Model architectures ['FooForCausalLM'] are not supported for now.",
            ),
            "nccl_or_dist": (
                boot,
                "torch.distributed.DistBackendError: NCCL error in: NCCLUtils.cpp:94, unhandled "
                "system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.27.3",
            ),
            "bad_argument": (
                (),
                "api_server.py: error: argument --max-num-seqs: invalid int value: 'many'",
            ),
            "port_in_use": ((), "OSError: [Errno 98] Address already in use"),
        }


def trace(first: str, frames: Frames, error: str) -> str:
    lines = [*([first] if first else []), "Traceback (most recent call last):"]
    for number, (file, function, code) in enumerate(frames, 101):
        lines.append(f'  File "{_SITE}/{file}", line {number}, in {function}')
        lines.append(f"    {code}")
    return "\n".join([*lines, error])
