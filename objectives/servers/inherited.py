"""What a server takes over from the environment of the person who starts the study: a list.

What a server of production gets from its site, ours needs as well: where the driver's services, the
compiler and the caches are, and how the hub is reached. What a server is to be told beyond that
stands in the configuration.
"""

from __future__ import annotations

import os
from pathlib import Path

ALWAYS = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "CONDA_PREFIX"),
    *("LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "NVIDIA_VISIBLE_DEVICES"),
    *("CUDA_MODULE_LOADING", "CUDA_CACHE_PATH", "CUDA_CACHE_DISABLE", "CUDA_CACHE_MAXSIZE"),
    # Without them a client does not find the Multi-Process Service, or ignores its limits.
    *("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"),
    *("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "CUDA_MPS_CLIENT_PRIORITY"),
    # What compiles kernels at a start: Triton, Inductor, FlashInfer.
    *("CC", "CXX", "CUDAHOSTCXX", "CUDACXX", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"),
    *("TORCH_CUDA_ARCH_LIST", "TRITON_PTXAS_PATH", "TRITON_LIBCUDA_PATH", "MAX_JOBS"),
    *("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE"),
    *("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"),
    *("VLLM_USE_MODELSCOPE", "MODELSCOPE_CACHE"),
)
ONLINE = (
    *("HF_ENDPOINT", "HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN"),
    *("HF_HUB_DISABLE_XET", "HF_HUB_ENABLE_HF_TRANSFER", "HF_XET_HIGH_PERFORMANCE"),
    *("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"),
    *("MODELSCOPE_DOMAIN", "MODELSCOPE_API_TOKEN"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
)
PRIVATE_VARIABLES = frozenset(
    name for name in ONLINE if "proxy" in name.lower() or name.endswith("_TOKEN")
)
"""Names whose values may hold a secret: launched with, never stored on a trial."""


def inherited(interpreter: Path, *, offline: bool = False) -> dict[str, str]:
    """What a process of an engine takes over from ours: only names that are on a list.

    Nothing that changes what Python imports or whether it keeps compiled files gets through.
    """
    names = ALWAYS if offline else (*ALWAYS, *ONLINE)
    environment = {name: os.environ[name] for name in names if name in os.environ}
    path = environment.get("PATH", os.defpath)
    environment["PATH"] = f"{interpreter.parent}{os.pathsep}{path}"
    return environment | {"PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}
