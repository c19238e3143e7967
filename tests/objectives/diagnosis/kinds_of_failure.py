"""Logs by the kind of their failure, made up for tests: name, cause, what the answer names, text.

The sentences are those of the programs (PyTorch, CTranslate2, Triton, FlashInfer, NCCL, glibc, the
container toolkit, the hub's client); everything around them is invented. What the answer names
stands in the line that is shown, or in the remedy.
"""

from __future__ import annotations

from tests.objectives.diagnosis.failing_logs import (
    LOADED,
    READY,
    SIZED,
    engine_died,
    failed,
    lines,
    traceback,
)

BANNER = "INFO 03-01 10:00:00 [api_server.py:1395] vLLM API server version 0.11.0"
LOADING = "Loading safetensors checkpoint shards:  50% Completed | 2/4 [00:09<00:09,  4.60s/it]"
INSPECTED = "ERROR 03-01 10:00:05 [registry.py:9] "
UUID = "invalid literal for int() with base 10: '{}-0a1b2c3d-1111-2222-3333-444444444444'"


def faster(error: str, frame: str = "__init__") -> str:
    """A faster-whisper that dies of `error`."""
    return lines(
        "Traceback (most recent call last):",
        '  File "/srv/asr/main.py", line 9, in <module>',
        f'  File "/srv/asr/lib/python3.11/site-packages/faster_whisper/transcribe.py", line 7, in'
        f" {frame}",
        error,
    )


def whisper(error: str, frame: str = "load_model") -> str:
    """An openai-whisper that dies of `error`."""
    return lines(
        "Traceback (most recent call last):",
        f'  File "/srv/asr/lib/python3.11/site-packages/whisper/__init__.py", line 7, in {frame}',
        error,
    )


def uninspected(error: str) -> str:
    """An error in the process that looks at a model, as its caller wraps it."""
    return lines(
        f"{INSPECTED}Error in inspecting model architecture 'ZebraForCausalLM'",
        traceback("_run_in_subprocess", error=error, tag=INSPECTED),
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
        "  Value error, Model architectures ['ZebraForCausalLM'] failed to be inspected. Please"
        " check the logs for more details. [type=value_error, input_value=ArgsKwargs((), {})]",
    )


CTRANSLATE2 = (
    ("no memory to load", "cuda_oom_load", "smaller Whisper",
     faster("RuntimeError: CUDA failed with error out of memory")),
    ("no memory to transcribe", "cuda_oom_serving", "smaller Whisper", lines(
        READY, faster("RuntimeError: CUDA failed with error out of memory", "transcribe"))),
    ("no memory for cuBLAS", "cuda_oom_load", "",
     faster("RuntimeError: cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED")),
    ("libcublas is not there", "cuda_init", "LD_LIBRARY_PATH",
     faster("RuntimeError: Library libcublas.so.12 is not found or cannot be loaded", "encode")),
    ("libcublas is not there, of a server that is up", "cuda_init", "LD_LIBRARY_PATH", lines(
        READY, faster("RuntimeError: Library libcublas.so.12 is not found or cannot be loaded"))),
    ("cuBLAS of Windows", "cuda_init", "cublas64_12",
     faster("RuntimeError: Library cublas64_12.dll is not found or cannot be loaded")),
    ("cuDNN 8", "cuda_init", "cudnn", lines(
        READY, "Could not load library libcudnn_ops_infer.so.8. Error: libcudnn_ops_infer.so.8:"
        " cannot open shared object file: No such file or directory", "Aborted (core dumped)")),
    ("cuDNN 9", "cuda_init", "LD_LIBRARY_PATH", lines(
        READY, "Unable to load any of {libcudnn_ops.so.9.1.0, libcudnn_ops.so.9, libcudnn_ops.so}",
        "Invalid handle. Cannot load symbol cudnnCreateTensorDescriptor",
        "Aborted (core dumped)")),
    ("cuDNN of Windows", "cuda_init", "LD_LIBRARY_PATH",
     "Could not locate cudnn_ops64_9.dll. Please make sure it is in your library path!"),
    ("a type that the device lacks", "unsupported_gpu", "compute_type",
     faster("ValueError: Requested int8_float16 compute type, but the target device or backend do"
            " not support efficient int8_float16 computation.")),
    ("built without CUDA", "cuda_init", 'device="cpu"',
     faster("ValueError: This CTranslate2 package was not compiled with CUDA support")),
    ("a driver that is too old", "cuda_init", "driver",
     faster("RuntimeError: CUDA failed with error CUDA driver version is insufficient for CUDA"
            " runtime version")),
    ("a device with no memory pools", "cuda_init", "CT2_CUDA_ALLOCATOR", lines(
        READY, faster("RuntimeError: CUDA failed with error operation not supported"))),
    ("no kernel for the card", "unsupported_gpu", "",
     faster("RuntimeError: CUDA failed with error no kernel image is available for execution on"
            " the device")),
    ("a kernel that reads elsewhere", "cuda_illegal_access", "",
     faster("RuntimeError: CUDA failed with error an illegal memory access was encountered")),
    ("a folder without a model", "model_not_found_or_auth", "ct2-transformers-converter",
     faster("RuntimeError: Unable to open file 'model.bin' in model '/srv/asr/large-v3'")),
    ("half a model", "model_not_found_or_auth", "download",
     faster("RuntimeError: File model.bin is incomplete: failed to read a buffer of size 6 at")),
    ("a size nobody has", "model_not_found_or_auth", "names",
     faster("ValueError: Invalid model size 'huge', expected one of: tiny.en, tiny, base.en")),
    ("a model that is too new", "unsupported_quantization_or_arch", "ctranslate2",
     faster("RuntimeError: Unsupported model binary version. This executable supports models with"
            " binary version v5 or below, but the model has binary version v6.")),
    ("an image without a GPU", "cuda_init", "--gpus",
     faster("RuntimeError: CUDA failed with error no CUDA-capable device is detected")),
)  # fmt: skip

WHISPER = (
    ("no ffmpeg", "environment", "apt install ffmpeg", lines(READY, whisper(
        "FileNotFoundError: [Errno 2] No such file or directory: 'ffmpeg'", "load_audio"))),
    ("another package of that name", "environment", "openai-whisper",
     whisper("AttributeError: module 'whisper' has no attribute 'load_model'")),
    ("no such model", "model_not_found_or_auth", "names",
     whisper("RuntimeError: Model huge not found; available models = ['tiny.en', 'tiny']")),
    ("a download that was cut off", "model_not_found_or_auth", "delete",
     whisper("RuntimeError: Model has been downloaded but the SHA256 checksum does not match.")),
    ("no way out", "model_not_found_or_auth", "proxy",
     whisper("urllib.error.URLError: <urlopen error [Errno -2] Name or service not known>")),
    ("an environment without CUDA", "cuda_init", "CPU build",
     whisper("AssertionError: Torch not compiled with CUDA enabled")),
    ("the worker sees no device", "cuda_init", "sees no CUDA",
     "cuda was asked for, but torch 2.14.0 sees no CUDA device; there is no silent fallback to"
     " the CPU"),
    ("cuDNN at the first call", "cuda_init", "CUDNN_STATUS_EXECUTION_FAILED",
     whisper("RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "transcribe")),
    ("silently on the CPU", "cpu_fallback", "torch.cuda.is_available", lines(
        READY, "/srv/asr/lib/python3.11/site-packages/whisper/transcribe.py:126: UserWarning: FP16"
        " is not supported on CPU; using FP32 instead")),
    ("on the CPU by mistake", "cpu_fallback", "",
     "/srv/asr/whisper/transcribe.py:114: UserWarning: Performing inference on CPU when CUDA is"
     " available"),
    ("a script says it in its own words", "cpu_fallback", "", lines(
        "2026-03-01 10:00:00 INFO asr: CUDA is not available, falling back to CPU",
        "2026-03-01 10:00:01 INFO asr: loading whisper large-v3", READY)),
    ("the driver is too old, and it goes on", "cuda_init", "driver", lines(
        "/srv/asr/torch/cuda/__init__.py:1: UserWarning: CUDA initialization: The NVIDIA driver on"
        " your system is too old (found version 12040). Please update your GPU driver", READY,
        "/srv/asr/whisper/transcribe.py:126: UserWarning: FP16 is not supported on CPU; using")),
)  # fmt: skip

DEVICE = (
    ("a UUID", "cuda_init", "CUDA_VISIBLE_DEVICES", failed(f"ValueError: {UUID.format('GPU')}")),
    ("a slice", "cuda_init", "slice", uninspected(f"ValueError: {UUID.format('MIG')}")),
    ("an index that is not there", "cuda_init", "",
     engine_died("device_id_to_physical_device_id", error="IndexError: list index out of range")),
    ("no device at all", "cuda_init", "unset", failed(
        "RuntimeError: CUDA_VISIBLE_DEVICES is set to empty string, which means GPU support is")),
    ("an image for a newer driver", "cuda_init", "cuda>=12.9",
     "docker: Error response from daemon: failed to create task for container: nvidia-container-cli"
     ": requirement error: unsatisfied condition: cuda>=12.9, please update your driver"),
    ("a container without a driver", "cuda_init", "nvidia-smi",
     "nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown"),
    ("no container toolkit", "cuda_init", "nvidia-container-toolkit",
     'docker: Error response from daemon: could not select device driver "" with capabilities'),
    ("a runtime that nobody knows", "cuda_init", "nvidia-container-toolkit",
     "docker: Error response from daemon: unknown or invalid runtime name: nvidia"),
    ("devices not described", "cuda_init", "nvidia-ctk cdi",
     "Error: setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all"),
    ("a warning about the driver", "cuda_init", "driver", lines(
        "/a/torch/cuda/__init__.py:1: UserWarning: CUDA initialization: The NVIDIA driver on your"
        " system is too old (found version 12040).",
        failed("RuntimeError: Device is zebra"))),
    ("the driver was updated", "cuda_init", "reboot",
     "Failed to initialize NVML: Driver/library version mismatch"),
    ("the fabric manager", "cuda_init", "nvidia-fabricmanager", failed(
        "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 802: system not yet"
        " initialized")),
    ("a fork", "cuda_init", "VLLM_WORKER_MULTIPROC_METHOD=spawn", failed(
        "RuntimeError: Cannot re-initialize CUDA in forked subprocess. To use CUDA with")),
    ("fp8 on an old card", "unsupported_gpu", "fp8_e5m2", failed(
        "ValueError: type fp8e4nv not supported in this architecture. The supported fp8 dtypes")),
    ("cuBLAS has no handle", "cuda_init", "memory", failed(
        "RuntimeError: CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate`")),
    ("cuBLAS fails at once", "cuda_init", "CUBLAS_STATUS_EXECUTION_FAILED", failed(
        "RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`")),
    ("cuBLAS fails under load", "cuda_illegal_access", "CUDA_LAUNCH_BLOCKING", lines(
        READY, engine_died("execute_model", serving=True, error="RuntimeError: CUDA error:"
                           " CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"))),
    ("cuBLAS has no such kernel", "unsupported_gpu", "", failed(
        "RuntimeError: CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx`")),
    ("cuDNN of two versions", "cuda_init", "cuDNN",
     failed("RuntimeError: cuDNN error: CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH")),
    ("CUDA says it", "cuda_oom_load", "",
     engine_died("load_model", error="torch.AcceleratorError: CUDA error: out of memory")),
    ("HIP says it", "cuda_oom_load", "",
     engine_died("load_model", error="RuntimeError: HIP error: out of memory")),
    ("the driver says it", "cuda_oom_profile", "",
     engine_died("profile_run", error="RuntimeError: CUDA driver error: out of memory")),
    ("Triton says it", "cuda_oom_serving", "", lines(READY, engine_died(
        "execute_model", serving=True, error="RuntimeError: Triton Error [CUDA]: out of memory"))),
    ("vLLM's own allocator", "cuda_oom_load", "", lines(
        "INFO 03-01 10:00:01 [gpu_model_runner.py:1] Starting to load model a/b...",
        "CUDA Error: out of memory at /workspace/csrc/cumem_allocator.cpp:62")),
    ("the driver's name of it", "cuda_oom_load", "",
     engine_died("load_model", error="RuntimeError: cuMemCreate: CUDA_ERROR_OUT_OF_MEMORY")),
    ("MIG", "cuda_oom_load", "", engine_died(
        "load_model", error="RuntimeError: NVML_SUCCESS == DriverAPI::get()->nvmlInit_v2_()"
        ' INTERNAL ASSERT FAILED at "/c10/cuda/CUDACachingAllocator.cpp":963, please report')),
    ("Jetson", "cuda_oom_load", "", lines(
        "NvMapMemAllocInternalTagged: 1075072515 error 12", "NvMapMemHandleAlloc: error 0")),
    ("the shell of a cluster", "host_oom", "", "srun: error: node7: task 0: Out Of Memory"),
)  # fmt: skip

TOOLS = (
    ("nvcc", "build_tools", "CUDA_HOME", failed(
        "RuntimeError: Could not find nvcc and default cuda_home='/usr/local/cuda' doesn't exist")),
    ("the compiler's line and not ninja's", "build_tools", "Python.h", lines(
        "FAILED: main.o", "/tmp/x/main.c:5:10: fatal error: Python.h: No such file or directory",
        "compilation terminated.", failed("RuntimeError: Ninja build failed. Ninja output: x"))),
    ("the compiler's error and not ninja's", "build_tools", 'identifier "zebra"', lines(
        '/srv/x/kernel.cu(12): error: identifier "zebra" is undefined',
        "ninja: build stopped: subcommand failed.",
        failed("RuntimeError: Error building extension 'sampling'"))),
    ("only ninja's", "build_tools", "", failed("RuntimeError: Ninja build failed. Ninja output:")),
    ("no compiler for Triton", "build_tools", "build-essential", failed(
        "RuntimeError: Failed to find C compiler. Please specify via CC environment variable")),
    ("no compiler for Inductor", "build_tools", "CXX", failed(
        "torch._inductor.exc.InductorError: InvalidCxxCompiler: No working C++ compiler found in"
        " torch._inductor.config.cpp.cxx: (None, 'g++')")),
    ("what Triton calls", "build_tools", "gcc", failed(
        "subprocess.CalledProcessError: Command '['/usr/bin/gcc', '/tmp/x/main.c', '-O3']' returned"
        " non-zero exit status 1.")),
    ("no ninja", "build_tools", "pip install ninja",
     failed("FileNotFoundError: [Errno 2] No such file or directory: 'ninja'")),
    ("a toolkit that does not know the card", "build_tools", "TRITON_PTXAS_PATH", lines(
        "ptxas fatal   : Value 'sm_121a' is not defined for option 'gpu-name'",
        failed("RuntimeError: Internal Triton PTX codegen error: `ptxas` failed"))),
    ("nvcc does not know the card", "build_tools", "compute_120a",
     "nvcc fatal   : Unsupported gpu architecture 'compute_120a'"),
    ("a toolkit that is too old", "build_tools", "12.9 or newer", lines(
        "Failed to get device capability: SM 12.x requires CUDA >= 12.9.",
        failed("RuntimeError: FlashInfer requires GPUs with sm75 or higher"))),
    ("gcc is too new", "build_tools", "gcc-12",
     "/usr/include/crt/host_config.h:143:2: error: #error -- unsupported GNU version! gcc versions"
     " later than 13 are not supported!"),
    ("no library to link", "build_tools", "libcuda.so", "/usr/bin/ld: cannot find -lcuda: No such"),
    ("torch's CUDA is another", "build_tools", "torch's own", failed(
        "RuntimeError: The detected CUDA version (11.8) mismatches the version that was used to"
        " compile PyTorch (12.8). Please make sure to use the same CUDA versions.")),
)  # fmt: skip

MACHINE = (
    ("no space", "environment", "df -h",
     failed("OSError: [Errno 28] No space left on device: '/root/.cache/vllm/x'")),
    ("no quota", "environment", "quota", failed("OSError: [Errno 122] Disk quota exceeded: '/x'")),
    ("no home", "environment", "HOME", traceback(
        "hf_hub_download", error="PermissionError: [Errno 13] Permission denied: '/.cache'")),
    ("no name", "environment", "/etc/passwd",
     failed("KeyError: 'getpwuid(): uid not found: 1001'")),
    ("another torch", "environment", "reinstall", traceback(
        "<module>", error="ImportError: /x/vllm/_C.abi3.so: undefined symbol: _ZNK3c106SymIntEv")),
    ("an extension that is not loaded", "environment", "reinstall", failed(
        "AttributeError: '_OpNamespace' '_C' object has no attribute 'rms_norm'")),
    ("an old system", "environment", "libstdc++", traceback(
        "<module>", error="ImportError: /lib/x86_64-linux-gnu/libstdc++.so.6: version"
        " `GLIBCXX_3.4.32' not found (required by /x/y.so)")),
    ("a module that is missing", "environment", "pip install zebra",
     traceback("<module>", error="ModuleNotFoundError: No module named 'zebra'")),
    ("a module in the inspecting process", "environment", "vllm._C", uninspected(
        "ModuleNotFoundError: No module named 'vllm._C'")),
    ("another NumPy", "environment", "numpy<2", traceback(
        "<module>", error="ImportError: numpy.core.multiarray failed to import")),
    ("too many requests", "model_not_found_or_auth", "HF_TOKEN", traceback(
        "get_config", error="huggingface_hub.errors.HfHubHTTPError: 429 Client Error: Too Many"
        " Requests for url: https://huggingface.co/a/b/resolve/main/config.json")),
    ("the hub is down", "model_not_found_or_auth", "HF_HUB_OFFLINE", traceback(
        "get_config", error="requests.exceptions.HTTPError: 504 Server Error: Gateway Time-out for"
        " url: https://huggingface.co/api/models/a/b")),
    ("a small /dev/shm", "nccl_or_dist", "--shm-size", lines(
        LOADED, "*** SIGBUS received at time=1 on cpu 1 ***", "Fatal Python error: Bus error")),
    ("a small /dev/shm, as NCCL says it", "nccl_or_dist", "--shm-size", failed(
        "RuntimeError: Error while creating shared memory segment /dev/shm/nccl-AbCd (size 9637888)"
        ", error: No space left on device (28)")),
    ("a small /dev/shm, as PyTorch says it", "nccl_or_dist", "--shm-size", failed(
        "RuntimeError: unable to write to file </torch_812_1>: No space left on device (28)")),
    ("NVLS without a fabric manager", "nccl_or_dist", "nvidia-fabricmanager", lines(
        "box:1:1 [0] transport/nvls.cc:254 NCCL WARN Cuda failure 801 'operation not supported'",
        failed("RuntimeError: NCCL error: unhandled cuda error (run with NCCL_DEBUG=INFO)"))),
    ("more ranks than cards", "bad_argument", "--tensor-parallel-size to at most 2", failed(
        "ValueError: World size (4) is larger than the number of available GPUs (2) in this")),
    ("code that needs trust", "bad_argument", "--trust-remote-code", traceback(
        "x", error="ValueError: Loading a/b requires you to execute the configuration file in that"
        " repo on your local machine. Make sure you have read the code there")),
    ("a hybrid with too many sequences", "kv_cache_too_small", "at most 40", failed(
        "ValueError: max_num_seqs (256) exceeds available Mamba cache blocks (40). Each decode")),
)  # fmt: skip

WORDLESS = (
    ("a bare assertion", "engine_dead_other", "unify_kv_cache",
     engine_died("get_kv_cache_groups", "unify_kv_cache", error="AssertionError")),
    ("a model nobody can look at", "unsupported_quantization_or_arch", "above", lines(
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
        "  Value error, Model architectures ['ZebraForCausalLM'] failed to be inspected. Please")),
    ("what the inspecting process says", "engine_dead_other", "zebra",
     uninspected("RuntimeError: zebra")),
    ("a signal in the inspecting process", "engine_dead_other", "SIGSEGV", uninspected(
        "subprocess.CalledProcessError: Command '['python3', '-m', 'x']' died with"
        " <Signals.SIGSEGV: 11>.")),
    ("a code below what the engine says", "engine_dead_other", "SIGSEGV", lines(
        LOADED, "ERROR 03-01 10:00:00 [x.py:3] Worker proc VllmWorker-0 died unexpectedly,"
        " shutting down executor.", "worker 0: exit code -11",
        "(APIServer pid=3) RuntimeError: Engine core initialization failed. See root cause")),
    ("a heap", "engine_dead_other", "SIGABRT",
     lines(LOADED, SIZED, READY, "realloc(): invalid pointer")),
    ("a fault", "engine_dead_other", "SIGSEGV", lines(
        LOADED, "!!!!!!! Segfault encountered !!!!!!!")),
    ("an old CPU", "engine_dead_other", "AVX", lines(BANNER, "Illegal instruction (core dumped)")),
    ("a worker's code", "engine_dead_other", "SIGSEGV", lines(
        READY, "ERROR 02-02 09:00:00 multiproc_worker_utils.py:120] Worker VllmWorkerProcess pid 9"
        " died, exit code: -11")),
    ("a container's code", "engine_dead_other", "OOMKilled", lines(
        LOADED, "vllm-1 exited with code 137")),
    ("V0's last word", "engine_dead_other", "", lines(
        READY, "CRITICAL 02-02 09:00:00 launcher.py:99] AsyncLLMEngine is already dead, terminating"
        " server process")),
    ("loading, and then nothing", "engine_dead_other", "at loading the weights",
     lines(BANNER, LOADING)),
    ("compiling, and then nothing", "engine_dead_other", "at compiling", lines(
        BANNER, LOADED, "INFO 03-01 10:00:20 [backends.py:459] Using cache directory: /r/.cache for"
        " vLLM's torch.compile")),
    ("capturing, and then nothing", "engine_dead_other", "at capturing CUDA graphs", lines(
        LOADED, SIZED, "Capturing CUDA graph shapes:  40%|####    | 14/35 [00:09<00:12]")),
)  # fmt: skip

KINDS = (*CTRANSLATE2, *WHISPER, *DEVICE, *TOOLS, *MACHINE, *WORDLESS)
