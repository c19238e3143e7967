"""Logs of servers that were well, with lines that frighten: made up for tests."""

from __future__ import annotations

from tests.objectives.diagnosis.failing_logs import (
    LOADED,
    OOM,
    READY,
    SIZED,
    engine_died,
    lines,
    traceback,
)

BANNER = "INFO 03-01 10:00:00 [api_server.py:1395] vLLM API server version 0.11.0"
API = "(APIServer pid=3) "
STALL = (
    "(EngineCore_DP0 pid=4) INFO 03-01 10:02:00 [shm_broadcast.py:466] No available shared memory"
    " broadcast block found in 60 seconds. This typically happens when some processes are hanging"
)
DEAD = (
    "(APIServer pid=3) ERROR 03-01 11:00:00 [async_llm.py:704]"
    " vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue."
)

HEALTHY = (
    ("a start", lines(BANNER, LOADED, SIZED, READY)),
    ("a start of which only the engine's half is left", lines(LOADED, SIZED)),
    ("a kernel that is not used", lines(
        "ERROR 03-01 10:00:01 [fa_utils.py:57] Cannot use FA version 2 is not supported due to FA2"
        " is only supported on devices with compute capability >= 8", LOADED, SIZED, READY)),
    ("a local model asked for at the hub", lines(
        "ERROR 03-01 10:00:01 [repo_utils.py:47] Error retrieving safetensors: Repo id must be in"
        " the form 'repo_name' or 'namespace/repo_name': '/m/a'., retrying 1 of 2", LOADED, READY)),
    ("a file that the hub does not have", lines(
        traceback("hf_raise", error="huggingface_hub.errors.EntryNotFoundError: 404 Client Error."),
        "Entry Not Found for url: https://huggingface.co/a/b/resolve/main/x.json.", LOADED, READY)),
    ("an import that is tried", lines(
        API + "WARNING 03-01 10:00:01 [interface.py:225] Failed to import from vllm._C:"
        " ImportError('libcuda.so.1: cannot open shared object file')", LOADED, READY)),
    ("a warning of torch", lines(
        "/a/torch/cuda/__init__.py:1: UserWarning: CUDA initialization: Found no NVIDIA driver on"
        " your system. Please check that you have an NVIDIA GPU", LOADED, SIZED, READY)),
    ("a platform that is not there", lines(
        "DEBUG 03-01 10:00:00 [__init__.py:72] Exception happens when checking CUDA platform: NVML"
        " Shared Library Not Found", LOADED, SIZED, READY)),
    ("the summary of memory", lines(
        "INFO 03-01 10:00:30 [gpu_worker.py:391] Free memory on device (11.2/11.63 GiB) on startup."
        " Desired GPU memory utilization is (0.5, 5.82 GiB). Actual usage is 5.2 GiB for weight",
        READY)),
    ("V0's hint about graphs", lines(
        "INFO 02-02 09:00:00 model_runner.py:1442] Capturing cudagraphs for decoding. If"
        " out-of-memory error occurs during cudagraph capture, consider decreasing it.", READY)),
    ("an autotuner that tries too much", lines(
        "WARNING 03-01 10:00:10 [autotune.py:3] torch.OutOfMemoryError: CUDA out of memory. Tried"
        " to allocate 2.00 GiB: this choice is left out", LOADED, SIZED, READY)),
    ("an autotuner that cries", lines(LOADED, OOM, SIZED, READY)),
    ("a slow compilation", lines(LOADED, STALL, STALL, STALL, SIZED, READY)),
    ("rendezvous by IPv4", lines(
        "[W301 10:00:00.5 socket.cpp:764] [c10d] The client socket cannot be initialized to connect"
        " to [localhost]:4 (errno: 97 - Address family not supported by protocol).", READY)),
    ("another port is free", lines(
        "INFO 03-01 10:00:00 [network_utils.py:248] Port 8000 is already in use, trying port 8001",
        LOADED, READY)),
    ("one request too long", lines(
        READY,
        API + "ERROR 03-01 10:05:00 [serving_chat.py:251] Error in preprocessing prompt inputs",
        traceback("_validate_input", error="ValueError: This model's maximum context length is 4096"
                  " tokens. However, your request has 5000 input tokens."),
        'INFO:     10.0.0.1:5 - "POST /v1/chat/completions HTTP/1.1" 400 Bad Request')),
    ("a request with a wrong key", lines(
        READY, 'INFO:     10.0.0.1:5 - "POST /v1/chat/completions HTTP/1.1" 401 Unauthorized')),
    ("an adapter that nobody has", lines(
        READY, API + "ERROR 03-01 10:05:00 [models.py:9] huggingface_hub.errors."
        "RepositoryNotFoundError: 404 Client Error.")),
    ("a client who leaves", lines(
        READY, "ERROR:    Exception in ASGI application",
        traceback("listen", error="asyncio.exceptions.CancelledError: Cancelled by cancel scope"))),
    ("a prompt about memory", lines(
        READY, "INFO 03-01 10:05:00 [logger.py:41] Received request cmpl-1: prompt: 'why do I read"
        " CUDA out of memory and Out of memory: Killed process 1 (x)?', params: SamplingParams()")),
    ("an ordered stop", lines(
        READY, "(EngineCore pid=4) INFO 03-01 11:00:00 [core.py:9] [shutdown] EngineCore: trigger"
        " received signal=SIGTERM", DEAD, "(APIServer pid=3) INFO:     Shutting down")),
    ("an ordered stop, its order left out", lines(
        READY, DEAD, API + "INFO 03-01 11:00:00 [launcher.py:125] [shutdown] API server:"
        " engine client stopped")),
    ("an ordered stop of a version that does not say so", lines(
        READY, DEAD, "(APIServer pid=3) INFO:     Shutting down",
        "(APIServer pid=3) INFO:     Application shutdown complete.")),
    ("an ordered stop that hits a step", lines(
        READY, "(EngineCore_DP0 pid=4) INFO 03-01 11:00:00 [core.py:9] Received signal 15",
        engine_died("run_busy_loop", error="RuntimeError: cancelled", serving=True))),
    ("a stop by hand", lines(
        READY, "^CINFO 03-01 11:00:00 [launcher.py:79] Shutting down FastAPI HTTP server.",
        "INFO:     Shutting down", "ERROR 03-01 11:00:00 [core_client.py:562] Engine core proc"
        " EngineCore_0 died unexpectedly, shutting down client.")),
    ("a stop by hand in V0", lines(
        READY, traceback("signal_handler", error="KeyboardInterrupt: MQLLMEngine terminated"))),
    ("a group that is not destroyed", lines(
        READY, "[rank0]:[W301 11:00:00.5 ProcessGroupNCCL.cpp:1476] Warning: WARNING:"
        " destroy_process_group() was not called before program exit, which can leak resources.")),
    ("a script that is done", lines(
        LOADED, SIZED, "Processed prompts: 100%|####| 8/8 [00:02<00:00,  3.9it/s]",
        "[rank0]:[W301 10:00:00.5 TCPStore.cpp:125] recvValue failed: Broken pipe")),
    ("a second try", lines(
        BANNER, engine_died("load_model", error=OOM), BANNER, LOADED, SIZED, READY)),
    ("a second try without a word", lines(
        engine_died("init", error="KeyError: 'zebra'"), LOADED, SIZED, READY)),
    ("settings that sound like an end", lines(
        "INFO 03-01 10:00:01 [core.py:69] Initializing a V1 LLM engine (v0.11.0) with config:"
        " model='a/b', shutdown_timeout=0, on_error='kill', oom_kill=False", LOADED, SIZED, READY)),
    ("a compiler that is not needed", lines(
        "WARNING 03-01 10:00:01 [x.py:1] nvcc not found, FlashInfer is not compiled", LOADED,
        SIZED, READY)),
    ("a tool that is missed and not needed", lines(
        "OSError: CUDA_HOME environment variable is not set.", LOADED, SIZED, READY)),
    ("a request that may not write", lines(
        READY, "ERROR 03-01 10:05:00 [x.py:3] PermissionError: [Errno 13] Permission denied: '/x'",
        'INFO:     10.0.0.1:5 - "POST /v1/completions HTTP/1.1" 500 Internal Server Error')),
    ("vLLM that keeps something on the CPU", lines(
        LOADED, SIZED, READY, API + "INFO 03-01 10:00:00 [x.py:1] no GPU for the lookup, using the"
        " CPU")),
    ("a container without its right to NUMA", lines(
        "get_mempolicy: Operation not permitted", LOADED, SIZED, READY)),
    ("a Whisper on its GPU", lines(
        "INFO 03-01 10:00:00 loading whisper large-v3 on cuda:0", READY,
        'INFO:     10.0.0.1:5 - "POST /v1/audio/transcriptions HTTP/1.1" 200 OK')),
    ("a disabled estimate", lines(
        "WARNING 03-01 10:00:20 [gpu_worker.py:791] CUDA graph memory profiling is disabled. It may"
        " require lowering --gpu-memory-utilization to avoid OOM.", SIZED, READY)),
)  # fmt: skip
