"""A device, a driver, a rank or a signal that a line names is what the remedy speaks of."""

import pytest

from objectives.causes import CAUSES
from objectives.diagnosis.cures.of_device import OF_DEVICE
from objectives.diagnosis.cures.remedy import remedy_for
from tests.objectives.diagnosis.cures.readings import check_sentences, unmet

CASES = (
    ("cuda_init", "invalid literal for int() with base 10: 'MIG-0a'", {}, "slice", "slice"),
    ("cuda_init", "invalid literal for int() with base 10: 'GPU-0a'", {}, "PCI_BUS_ID", "index"),
    ("cuda_init", "CUDA_VISIBLE_DEVICES is set to empty string", {}, "unset", "unset"),
    ("cuda_init", "Cannot re-initialize CUDA in forked subprocess", {}, "METHOD=spawn", "preload"),
    ("cuda_init", "Error 802: system not yet initialized", {}, "fabricmanager", "fabricmanager"),
    ("cuda_init", "Driver/library version mismatch", {}, "modprobe nvidia", "reboot"),
    ("cuda_init", "Error 804: forward compatibility was attempted", {}, "compat", "compat"),
    (
        "cuda_init",
        "unsatisfied condition: cuda>=12.8",
        {"condition": "cuda>=12.8"},
        "for cuda>=12.8: update",
        "NVIDIA_DISABLE_REQUIRE",
    ),
    ("cuda_init", "driver on your system is too old", {}, "vLLM up to 0.19", "a torch built"),
    ("cuda_init", "unresolvable CDI devices", {}, "nvidia-ctk cdi", "nvidia-ctk cdi"),
    ("cuda_init", "nvml error: driver not loaded", {}, "nvidia-smi", "nvidia-smi"),
    ("cuda_init", "could not select device driver", {}, "container-toolkit", "--gpus all"),
    ("cuda_init", "No CUDA GPUs are available", {}, "--gpus all", "--gpus all"),
    ("cuda_init", "libcuda.so.1: cannot open", {}, "install it", "install it"),
    (
        "cuda_init",
        "CUDNN_STATUS_NOT_INITIALIZED",
        {"status": "CUDNN_STATUS_NOT_INITIALIZED"},
        "CUDNN_STATUS_NOT_INITIALIZED at the first call",
        "memory",
    ),
    ("cuda_init", "Library libcublas.so.12 is not found", {}, "LD_LIBRARY_PATH", "nvidia-cublas"),
    ("cuda_init", "libcufft.so.11: cannot open", {}, "LD_LIBRARY_PATH", "LD_LIBRARY_PATH"),
    ("cuda_init", "Torch not compiled with CUDA enabled", {}, "CPU build", "CPU build"),
    ("cuda_init", "not compiled with CUDA support", {}, "-DWITH_CUDA", 'device="cpu"'),
    ("cuda_init", "invalid device ordinal", {}, "--tensor-parallel-size", "device index"),
    ("cuda_init", "device(s) is/are busy or unavailable", {}, "nvidia-smi -c 0", "MPS"),
    (
        "cuda_init",
        "CUDA failed with error operation not supported",
        {},
        "CT2_CUDA_ALLOCATOR",
        "CT2_CUDA_ALLOCATOR",
    ),
    (
        "unsupported_gpu",
        "Requested float16 compute type, but",
        {"dtype": "float16"},
        "compute in float16",
        'compute_type="float32"',
    ),
    ("unsupported_gpu", "type fp8e4nv not supported", {}, "fp8_e5m2", "fp8_e5m2"),
    ("unsupported_gpu", "Bfloat16 is only supported on", {}, "--dtype half", "float16"),
    ("unsupported_gpu", "no kernel image is available", {}, "TORCH_CUDA_ARCH_LIST", "Pascal"),
    ("nccl_or_dist", "Fatal Python error: Bus error", {}, "--shm-size", "--shm-size"),
    ("nccl_or_dist", "Cuda failure 'operation not supported'", {}, "NVLS_ENABLE=0", "fabric"),
    ("nccl_or_dist", "peer access is not supported", {}, "NCCL_P2P_DISABLE=1", "P2P"),
    ("nccl_or_dist", "Duplicate GPU detected", {}, "each its own", "each its own"),
    ("nccl_or_dist", "Cannot provide a placement group", {}, "ray status", "ray status"),
    ("nccl_or_dist", "Gloo connectFullMesh failed", {}, "VLLM_HOST_IP", "GLOO_SOCKET_IFNAME"),
    ("nccl_or_dist", "unhandled system error", {}, "NCCL WARN", "NCCL_DEBUG=INFO"),
    ("engine_dead_other", "exited with code 137", {}, "OOMKilled", "oom"),
    (
        "engine_dead_other",
        "the process was ended by SIGKILL",
        {"phase": "loading the weights"},
        "at loading the weights: mostly",
        "at loading the weights: mostly",
    ),
    ("engine_dead_other", "died, exit code: -11", {}, "SIGSEGV", "SIGSEGV"),
    ("engine_dead_other", "free(): invalid pointer", {}, "SIGABRT", "heap"),
    ("engine_dead_other", "Illegal instruction (core dumped)", {}, "AVX2", "AVX2"),
    ("engine_dead_other", "the process was ended by SIGTERM", {}, "health check", "time limit"),
)
"""Cause, a line, figures of it, what the remedy names for vLLM, and for a Whisper."""


@pytest.mark.parametrize(("cause", "line", "figures", "vllm", "whisper"), CASES)
def test_a_line_has_its_own_cure(cause, line, figures, vllm, whisper):
    assert vllm in remedy_for(cause, line, figures, "vllm")
    assert whisper in remedy_for(cause, line, figures, "faster-whisper", "whisper")


def test_every_cure_has_a_line_that_no_other_takes_first():
    assert unmet(OF_DEVICE, CASES) == set()


@pytest.mark.parametrize(("cause", "line", "figures"), [case[:3] for case in CASES])
@pytest.mark.parametrize("known", [False, True])
def test_a_cure_is_whole_sentences_with_and_without_its_figures(cause, line, figures, known):
    check_sentences(cause, line, figures if known else {})


def test_only_causes_that_a_log_names_have_cures():
    assert all("log" in CAUSES[cause].told_by for cause in OF_DEVICE)
