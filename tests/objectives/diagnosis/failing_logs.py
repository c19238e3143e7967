"""Logs as vLLM, CUDA, shells and clusters write them, made up for tests: cause and text.

The sentences are those of the programs, for they must be recognised; everything around them is
invented.
"""

from __future__ import annotations

SITE = "/srv/llm/lib/python3.12/site-packages"
OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total"
    " capacity of 11.63 GiB of which 700.25 MiB is free. Including non-PyTorch memory, this process"
    " has 10.90 GiB memory in use."
)
READY = "INFO:     Application startup complete."
LOADED = "INFO 03-01 10:00:09 [gpu_model_runner.py:1801] Model loading took 5.2 GiB and 4.0 seconds"
SIZED = "INFO 03-01 10:00:20 [kv_cache_utils.py:716] GPU KV cache size: 6,976 tokens"


def traceback(*frames: str, error: str, tag: str = "") -> str:
    """A traceback through functions of vLLM, each line behind `tag`."""
    lines = ["Traceback (most recent call last):"]
    for frame in frames:
        lines += [f'  File "{SITE}/vllm/v1/x.py", line 7, in {frame}', f"    self.{frame}(1)"]
    return "\n".join(tag + line for line in [*lines, error])


def engine_died(*frames: str, error: str, serving: bool = False) -> str:
    """A V1 engine that dies of `error`, and what its API server says about it."""
    tag = "(EngineCore_DP0 pid=41) ERROR 03-01 10:00:30 [core.py:708] "
    what = "encountered a fatal error." if serving else "failed to start."
    end = (
        "EngineDeadError: EngineCore encountered an issue. See stack trace (above)."
        if serving
        else "RuntimeError: Engine core initialization failed. See root cause above."
    )
    return "\n".join(
        (
            f"{tag}EngineCore {what}",
            traceback("run_engine_core", *frames, error=error, tag=tag),
            traceback("wait", error=f"(APIServer pid=3) {end}", tag="(APIServer pid=3) "),
        )
    )


def failed(error: str) -> str:
    """An engine that fails to start with `error`, through frames that tell nothing."""
    return engine_died("__init__", error=error)


def lines(*parts: str) -> str:
    """Parts of a log, one below the other."""
    return "\n".join(parts)


TOO_SMALL = (
    "ValueError: To serve at least one request with the model's max seq len (32768), (1.75 GiB KV"
    " cache is needed, which is larger than the available KV cache memory (0.37 GiB). Based on the"
    " available memory, the estimated maximum model length is 6976. Try increasing"
    " `gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine."
)
START = (
    "ValueError: Free memory on device cuda:0 (4.1/11.63 GiB) on startup is less than desired GPU"
    " memory utilization (0.9, 10.47 GiB). Decrease GPU memory utilization or reduce GPU memory"
    " used by other processes."
)
RACE = (
    "AssertionError: Error in memory profiling. Initial free memory 8.1 GiB, current free memory"
    " 9.2 GiB. This happens when other processes sharing the same container release GPU memory."
)
CPU_KV = (
    "ValueError: Available memory on node 0 ({}/15.6 GiB) on kv cache allocation is less than"
    " requested memory for kv ({} GiB). Reduce CPU memory used by other processes."
)
V0_KV = "ValueError: The model's max seq len (8192) is larger than the maximum number of tokens"

MEMORY = (
    ("V1 has no room for blocks", "kv_cache_no_blocks",
     engine_died(error="ValueError: No available memory for the cache blocks. Try increasing x.")),
    ("V0 has no room for blocks", "kv_cache_no_blocks", lines(
        "INFO 02-02 09:00:01 gpu_executor.py:76] # GPU blocks: 0, # CPU blocks: 512",
        traceback("raise_if_cache_size_invalid",
                  error="ValueError: No available memory for the cache blocks. Try increasing"))),
    ("only the negative figure is left of it", "kv_cache_no_blocks",
     "INFO 03-01 10:00:20 [gpu_worker.py:298] Available KV cache memory: -0.79 GiB"),
    ("the CPU backend has nothing left", "kv_cache_no_blocks",
     engine_died(error=CPU_KV.format("9.1", "-0.42/1.56"))),
    ("the CPU node is full", "gpu_memory_insufficient_at_start",
     engine_died(error=CPU_KV.format("2.1", "3.4/6.2"))),
    ("the CPU node is smaller than the explicit size", "gpu_memory_insufficient_at_start",
     engine_died(error=CPU_KV.format("2.1", "8.0"))),
    ("the CPU node is full at the start", "gpu_memory_insufficient_at_start",
     engine_died(error="ValueError: Available memory on node 0 (9.1/15.6 GiB) on startup is less"
                 " than desired CPU memory utilization (0.92, 14.36 GiB). On the CPU backend, x")),
    ("weights held outside leave less than is free", "gpu_memory_insufficient_at_start",
     "ValueError: Free memory on device cuda:0 (1.0/24.0 GiB) on startup is less than the engine's"
     " budget after excluding external process's weights (0.5, 3.1 GiB). Decrease GPU memory"),
    ("weights held outside fill the share", "kv_cache_no_blocks",
     "ValueError: Externally held weights on device cuda:0 (14.0/24.0 GiB) exceed the desired GPU"
     " memory utilization (0.5, 12.0 GiB). Increase GPU memory utilization"),
    ("V1 is too small", "kv_cache_too_small", engine_died(error=TOO_SMALL)),
    ("early V1 says GB and estimates nothing", "kv_cache_too_small",
     "ERROR 03-02 08:00:00 core.py:291] ValueError: To serve at least one request with the models's"
     " max seq len (131072), (16.00 GB KV cache is needed, which is larger than the available KV"
     " cache memory (7.20 GB). Try increasing `gpu_memory_utilization` or decreasing"),
    ("V0 is too small", "kv_cache_too_small",
     f"{V0_KV} that can be stored in KV cache (2080). Try increasing `gpu_memory_utilization`"),
    ("states of Mamba do not fit", "kv_cache_too_small",
     failed("ValueError: max_num_seqs (256) exceeds available Mamba cache blocks (40).")),
    ("the start check", "gpu_memory_insufficient_at_start",
     engine_died("init_device", error=START)),
    ("the start check before devices had names", "gpu_memory_insufficient_at_start",
     START.replace(" cuda:0", "")),
    ("a race", "memory_profiling_race", engine_died("determine_available_memory", error=RACE)),
    ("a race in bytes", "memory_profiling_race",
     "AssertionError: Error in memory profiling. Initial free memory 8589934592, current free"
     " memory 9663676416. This happens when the GPU memory was not properly cleaned up"),
    ("out of memory as weights are made", "cuda_oom_load",
     engine_died("load_model", "create_weights", error=OOM)),
    ("the helper's words for it", "cuda_oom_load",
     "ERROR 03-01 10:00:03 [gpu_model_runner.py:9] Failed to load model - not enough GPU memory."
     f" Try lowering x (original error: {OOM})"),
    ("V0 names the method beside the error", "cuda_oom_load",
     "(VllmWorkerProcess pid=9) ERROR 02-02 09:00:00 multiproc_worker_utils.py:229] Exception in"
     f" worker VllmWorkerProcess while processing method load_model: {OOM[24:]}, Traceback (most"
     " recent call last):"),
    ("out of memory in the profiling run", "cuda_oom_profile",
     engine_died("determine_available_memory", "profile_run", "_dummy_run", error=OOM)),
    ("out of memory in V0's profiling run", "cuda_oom_profile",
     traceback("determine_num_available_blocks", "profile_run", "execute_model", error=OOM)),
    ("out of memory as the sampler warms up", "cuda_oom_profile",
     "RuntimeError: CUDA out of memory occurred when warming up sampler with 256 dummy requests."),
    ("out of memory as the KV cache is allocated", "cuda_oom_profile",
     engine_died("initialize_kv_cache", "_allocate_kv_cache_tensors", error=OOM)),
    ("out of memory as kernels warm up", "cuda_oom_profile",
     engine_died("compile_or_warm_up_model", "kernel_warmup", error=OOM)),
    ("out of memory under capture", "cuda_oom_cudagraph",
     engine_died("compile_or_warm_up_model", "capture_model", "_dummy_run", error=OOM)),
    ("out of memory as graphs are estimated", "cuda_oom_cudagraph",
     engine_died("determine_available_memory", "profile_cudagraph_memory", error=OOM)),
    ("no frames, but graphs were being captured", "cuda_oom_cudagraph", lines(
        LOADED, SIZED, "Capturing CUDA graph shapes:  40%|####    | 14/35 [00:09<00:12]", OOM)),
    ("no frames, but weights were loaded", "cuda_oom_profile", lines(LOADED, OOM)),
    ("no frames, and nothing was loaded", "cuda_oom_load",
     lines("INFO 03-01 10:00:01 [gpu_model_runner.py:1] Starting to load model a/b...", OOM)),
    ("out of memory under load", "cuda_oom_serving", lines(
        READY, engine_died("run_busy_loop", "execute_model", error=OOM, serving=True))),
    ("only a shim in C++ says it", "cuda_oom_serving", lines(
        READY, "[rank1]:[E301 10:05:00.123 shim_common.cpp:5] Exception in aoti_torch: "
        f"{OOM.removeprefix('torch.OutOfMemoryError: ')}")),
    ("a GPU of AMD", "cuda_oom_load",
     engine_died("load_model", error=OOM.replace("CUDA", "HIP"))),
    ("an NPU", "cuda_oom_load",
     engine_died("load_model", error="RuntimeError: NPU out of memory.")),
    ("NCCL wraps it", "cuda_oom_load", lines(
        traceback("init_device", error="torch.distributed.DistBackendError: NCCL error in: a.cpp:9,"
                  " unhandled cuda error, NCCL version 2.27.3"),
        "ncclUnhandledCudaError: Call to CUDA function failed.", "Last error:",
        "Cuda failure 2 'out of memory'")),
    ("a library cannot make its handle", "cuda_oom_profile",
     engine_died("profile_run", error="RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when"
                 " calling `cublasCreate(handle)`")),
    ("Whisper loads", "cuda_oom_load", traceback("load_model", error=OOM)),
    ("Whisper transcribes", "cuda_oom_serving", traceback("transcribe", error=OOM)),
    ("the kernel in a journal", "host_oom",
     "Mar 01 10:00:30 box kernel: Out of memory: Killed process 812 (python3) total-vm:9kB,"
     " anon-rss:23068672kB, file-rss:0kB"),
    ("the kernel in dmesg", "host_oom", "[ 8123.456789] oom_reaper: reaped process 812 (python3)"),
    ("a cgroup", "host_oom", "Memory cgroup out of memory: Killed process 7 (VLLM::EngineCor)"),
    ("a pod", "host_oom", "    Last State: Terminated  Reason: OOMKilled  Exit Code: 137"),
    ("slurm", "host_oom", "slurmstepd: error: Detected 1 oom_kill event in StepId=4.0. Some of"),
    ("ray counts", "host_oom",
     "(raylet) [2026-03-01 10:00:30,117 E 13 13] (raylet) node_manager.cc:3069: 1 Workers (tasks /"
     " actors) killed due to memory pressure (OOM), 0 Workers crashed"),
    ("ray raises", "host_oom",
     "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory."),
    ("an allocator on the CPU", "host_oom", engine_died(
        "load_model", error="RuntimeError: [enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator:"
        " can't allocate memory: you tried to allocate 9663676416 bytes.")),
    ("a shell says Killed", "host_oom", lines(
        "Loading safetensors checkpoint shards:  50% Completed | 2/4 [00:09<00:09]",
        "./serve.sh: line 12:  4711 Killed                  vllm serve a/b")),
    ("a compiler is killed", "host_oom",
     "c++: fatal error: Killed signal terminated program cc1plus"),
)  # fmt: skip


OTHERS = (
    ("an address that is not there", "cuda_illegal_access",
     failed("torch.AcceleratorError: CUDA error: an illegal memory access was encountered")),
    ("an assertion in a kernel", "cuda_illegal_access", lines(READY, engine_died(
        "execute_model", error="RuntimeError: CUDA error: device-side assert triggered"))),
    ("a fault of AMD", "cuda_illegal_access", lines(
        READY, "Memory access fault by GPU node-3 (Agent handle: 0x1) on address 0x2. Reason:")),
    ("an application's XID", "cuda_illegal_access",
     "[ 99.123456] NVRM: Xid (PCI:0000:01:00): 31, pid=812, name=python3, Ch 00000008"),
    ("a device's XID", "engine_dead_other",
     "[ 99.123456] NVRM: Xid (PCI:0000:01:00): 79, pid=812, GPU has fallen off the bus."),
    ("NCCL wraps a fault", "cuda_illegal_access", lines(
        "RuntimeError: NCCL error: unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
        "Cuda failure 700 'an illegal memory access was encountered'")),
    ("no kernel for the card", "unsupported_gpu",
     failed("RuntimeError: CUDA error: no kernel image is available for execution on the device")),
    ("bfloat16 on an old card", "unsupported_gpu",
     failed("ValueError: Bfloat16 is only supported on GPUs with compute capability of at least"
            " 8.0. Your Tesla T4 GPU has compute capability 7.5. You can use float16 instead by"
            " explicitly setting the `dtype` flag in CLI, for example: --dtype=half.")),
    ("a quantisation that needs a newer card", "unsupported_gpu",
     failed("ValueError: The quantization method awq_marlin is not supported for the current GPU."
            " Minimum capability: 80. Current capability: 75.")),
    ("fp8 in Triton", "unsupported_gpu",
     failed("ValueError: type fp8e4nv not supported in this architecture. The supported fp8 dtypes"
            " are ('fp8e4b15', 'fp8e5')")),
    ("an assembler that does not know the card", "build_tools",
     "ptxas fatal   : Value 'sm_121a' is not defined for option 'gpu-name'"),
    ("too little shared memory on the card", "unsupported_gpu",
     failed("triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 98304,"
            " Hardware limit: 65536. Reducing block sizes or `num_stages` may help.")),
    ("no attention backend for the card", "unsupported_gpu",
     failed("ValueError: No valid attention backend found for cuda with AttentionSelectorConfig(x)."
            " Reasons: {FLASH_ATTN: [compute capability not supported]}.")),
    ("no device", "cuda_init", failed("RuntimeError: No CUDA GPUs are available")),
    ("a driver too old for the container", "cuda_init", traceback(
        "init_device", error="RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run"
        " some cuda functions before? Error 803: system has unsupported display driver")),
    ("no device type", "cuda_init", lines(
        "INFO 03-01 10:00:00 [__init__.py:1] No platform detected, vLLM is running on Unspecified",
        traceback("create_engine_config", error="RuntimeError: Failed to infer device type"))),
    ("no device type, as pydantic says it", "cuda_init", lines(
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for DeviceConfig",
        "  Value error, Failed to infer device type, please set the environment variable")),
    ("the driver and its library differ", "cuda_init",
     traceback("init", error="pynvml.NVMLError_LibRmVersionMismatch: RM has detected an NVML/RM")),
    ("a fork after CUDA", "cuda_init",
     failed("RuntimeError: Cannot re-initialize CUDA in forked subprocess. To use CUDA with x")),
    ("NCCL", "nccl_or_dist",
     failed("RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO)")),
    ("a collective that never ends", "nccl_or_dist", lines(
        READY, "[rank2]:[E301 10:09:00.1 ProcessGroupNCCL.cpp:6] [Rank 2] Watchdog caught"
        " collective operation timeout: WorkNCCL(SeqNum=9, OpType=ALLREDUCE)")),
    ("a rank that never comes", "nccl_or_dist",
     failed("torch.distributed.DistStoreError: Timed out after 601 seconds waiting for clients.")),
    ("ray has too few", "nccl_or_dist",
     failed("ValueError: Cannot provide a placement group requiring 8 GPUs"
            " (placement_group_specs=[x]) within 1800 seconds.")),
    ("a model that nobody has", "model_not_found_or_auth", lines(
        traceback("create_model_config", error="huggingface_hub.errors.RepositoryNotFoundError: 401"
                  " Client Error. (Request ID: Root=1-a)"),
        "OSError: a/b is not a local folder and is not a valid model identifier listed on x")),
    ("a model behind a gate", "model_not_found_or_auth",
     traceback("get_config", error="OSError: You are trying to access a gated repo.")),
    ("a folder without weights", "model_not_found_or_auth",
     engine_died("load_model", error="RuntimeError: Cannot find any model weights with `/m/a`")),
    ("a mistyped path", "model_not_found_or_auth",
     traceback("get_config", error="huggingface_hub.errors.HFValidationError: Repo id must be in"
               " the form 'repo_name' or 'namespace/repo_name': '/m/x/y'.")),
    ("a machine without a way out", "model_not_found_or_auth",
     traceback("get_config", error="OSError: We couldn't connect to 'https://huggingface.co' to")),
    ("pydantic around a path", "model_not_found_or_auth", lines(
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
        "  Value error, Invalid repository ID or local directory specified: '/m/none'.")),
    ("an argument nobody knows", "bad_argument", lines(
        "usage: vllm serve [model_tag] [options]",
        "vllm serve: error: unrecognized arguments: --gpu-memory-utilisation 0.9")),
    ("an argument of the wrong type", "bad_argument",
     "api_server.py: error: argument --max-model-len: invalid human_readable_int value: 'many'"),
    ("longer than the model", "bad_argument",
     failed("ValueError: User-specified max_model_len (65536) is greater than the derived"
            " max_model_len (max_position_embeddings=32768 or model_max_length=None in model's"
            " config.json). To allow overriding this, set VLLM_ALLOW_LONG_MAX_MODEL_LEN=1")),
    ("fewer batched tokens than length", "bad_argument", lines(
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for SchedulerConfig",
        "  Value error, max_num_batched_tokens (2048) is smaller than max_model_len (4096). This")),
    ("heads that do not divide", "bad_argument",
     failed("ValueError: Total number of attention heads (28) must be divisible by tensor parallel"
            " size (3).")),
    ("more ranks than cards", "bad_argument",
     failed("ValueError: World size (4) is larger than the number of available GPUs (1) in this")),
    ("code that needs trust", "bad_argument",
     traceback("x", error="ValueError: The repository for a/b contains custom code which must be"
               " executed to correctly load the model. Please pass the argument"
               " `trust_remote_code=True` to allow custom code to be run.")),
    ("a contradiction no rule knows", "bad_argument",
     traceback("create_engine_config", "__post_init__", error="ValueError: dog_size must be < 3.")),
    ("an error that names its flag", "bad_argument",
     failed("RuntimeError: Sleep is not possible here. Leave --enable-sleep-mode unset.")),
    ("an architecture too new for transformers", "unsupported_quantization_or_arch", lines(
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
        "  Value error, The checkpoint you are trying to load has model type `zebra9` but"
        " Transformers does not recognize this architecture. This could be because of an issue")),
    ("an architecture vLLM does not have", "unsupported_quantization_or_arch",
     failed("ValueError: Model architectures ['ZebraForCausalLM'] are not supported for now."
            " Supported architectures: dict_keys(['AquilaModel'])")),
    ("a quantisation nobody knows", "unsupported_quantization_or_arch",
     failed("ValueError: Unknown quantization method: zip. Must be one of ['awq', 'fp8'].")),
    ("bitsandbytes is missing", "unsupported_quantization_or_arch",
     engine_died("load_model", error="ImportError: Please install bitsandbytes>=0.46.1 via `pip`")),
    ("a weight without a place", "unsupported_quantization_or_arch",
     engine_died("load_weights", error="ValueError: There is no module or parameter named"
                 " 'lm_head.scales' in ZebraForCausalLM")),
    ("a weight that is missing", "unsupported_quantization_or_arch",
     engine_died("load_weights", error="KeyError: 'model.layers.0.mlp.gate_up_proj.qweight'")),
    ("the address is taken", "port_in_use",
     traceback("create_server_socket", error="OSError: [Errno 98] Address already in use")),
    ("the address is taken after all else went well", "port_in_use", lines(
        READY, "ERROR:    [Errno 98] error while attempting to bind on address ('0.0.0.0', 8000):"
        " address already in use", "INFO:     Waiting for application shutdown.")),
    ("a worker does not answer", "timeout_hang", lines(READY, engine_died(
        "run_busy_loop", error="TimeoutError: RPC call to sample_tokens timed out."))),
    ("the engine takes too long", "timeout_hang", traceback(
        "wait", error="TimeoutError: Timed out waiting for engine core processes to start. This is"
        " often caused by slow weight loading for large models. Waited 600s (configured by x)")),
    ("processes wait and the log ends", "timeout_hang", lines(
        LOADED, *["(EngineCore_DP0 pid=4) INFO 03-01 10:0{}:00 [shm_broadcast.py:5] No available"
                  f" shared memory broadcast block found in 60 seconds. #{n}" for n in range(4)])),
    ("a script stops waiting", "timeout_hang", lines(
        LOADED,
        "2026-03-01 10:10:00,1 - bench - ERROR - server did not become ready within 600 s")),
    ("requests are computed twice", "preemption_warning", lines(
        READY, "WARNING 03-01 10:09:00 scheduler.py:1057] Sequence group 7 is preempted by"
        " PreemptionMode.RECOMPUTE mode because there is not enough KV cache space.")),
    ("an error nobody has seen", "engine_dead_other", failed("KeyError: 'zebra'")),
    ("a segmentation fault", "engine_dead_other", lines(
        LOADED, "Fatal Python error: Segmentation fault", "./serve.sh: line 3: 8 Segmentation fault"
        "      (core dumped) vllm serve a/b")),
    ("only the wrapper speaks", "engine_dead_other", traceback(
        "wait", error="RuntimeError: Engine process failed to start. See stack trace for the root"
        " cause.")),
    ("a process is gone", "engine_dead_other", lines(
        READY, "ERROR 03-01 10:09:00 [core_client.py:562] Engine core proc EngineCore_0 died"
        " unexpectedly, shutting down client.")),
    ("requests find the engine gone", "engine_dead_other", lines(
        READY, "(APIServer pid=3) ERROR 03-01 11:00:00 [async_llm.py:704]"
        " vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.",
        '(APIServer pid=3) INFO:     10.0.0.1:5 - "POST /v1/completions HTTP/1.1" 500 Internal'
        " Server Error", "(APIServer pid=3) INFO:     Shutting down")),
    ("nothing speaks", "unknown", "hello\nworld"),
    ("an empty log", "unknown", ""),
)  # fmt: skip

PREFIXES = (
    ("docker compose", "vllm-1  | {}"),
    ("a container runtime", "2026-03-01T10:00:00.123456789Z stderr F {}"),
    ("kubectl --timestamps", "2026-03-01T10:00:00.123456789Z {}"),
    ("a journal", "Mar 01 10:00:00 box vllm[812]: {}"),
    ("a journal in ISO", "2026-03-01T10:00:00+0100 box docker[812]: {}"),
    ("ray", "\x1b[36m(RayWorkerWrapper pid=1, ip=10.0.0.2)\x1b[0m {}"),
    ("ray, deduplicated", "{}\x1b[32m [repeated 3x across cluster]\x1b[0m"),
    ("an actor in an actor", "(MapWorker(MapBatches(Engine)) pid=12, ip=10.0.0.2) {}"),
    ("two processes of vLLM", "(APIServer pid=1) (EngineCore_DP0 pid=68) {}"),
    ("colours without their escape", "[1;36m(EngineCore_DP0 pid=41)[0;0m {}"),
    ("torchrun", "[rank0]: {}"),
    ("srun --label", "0: {}"),
    ("a script's logging", "2026-03-01 10:00:00,123 - srv.run - INFO - {}"),
    ("loguru", "2026-03-01 10:00:00.123 | INFO     | srv.run:pump:71 - {}"),
    ("a build machine", "[2026-03-01T10:00:00Z] {}"),
    ("somebody's label", "[worker-0] {}"),
    ("a quotation", "> {}"),
    ("Windows", "{}\r"),
)
"""What may stand before, or behind, every line."""
