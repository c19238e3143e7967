"""A tool, a package, a file or an option that a line names is what the remedy speaks of."""

import pytest

from objectives.causes import CAUSES
from objectives.diagnosis.cures.of_start import OF_START
from objectives.diagnosis.cures.remedy import remedy_for
from tests.objectives.diagnosis.cures.readings import check_sentences, unmet

CASES = (
    ("build_tools", "fatal error: Python.h: No such", {}, "python3-dev", "python3-dev"),
    ("build_tools", "fatal error: cuda_fp16.h: No such file", {}, "CUDA_HOME", "CUDA_HOME"),
    (
        "build_tools",
        "fatal error: zebra.h: No such file",
        {"header": "zebra.h"},
        "header zebra.h",
        "zebra.h",
    ),
    ("build_tools", "mismatches the version that was used", {}, "torch's own", "torch's own"),
    ("build_tools", "Unsupported gpu architecture 'compute_120'", {}, "older", "TRITON_PTXAS"),
    ("build_tools", "unsupported GNU version!", {}, "gcc-12", "gcc-12"),
    ("build_tools", "requires CUDA >= 12.9", {"needed_cuda": 12.9}, "toolkit 12.9 or", "CUDA_HOME"),
    ("build_tools", "Ninja is required", {}, "pip install ninja", "pip install ninja"),
    ("build_tools", "ld: cannot find -lcuda: No", {}, "lib64/stubs", "LIBRARY_PATH"),
    ("build_tools", "ld: cannot find -lpython3.12", {}, "python3-dev", "python3-dev"),
    ("build_tools", "Failed to find C compiler", {}, "build-essential", "CXX"),
    ("environment", "No space left on device", {}, "VLLM_CACHE_ROOT", "XDG_CACHE_HOME"),
    ("environment", "Read-only file system: '/x'", {}, "writable", "writable"),
    ("environment", "[Errno 13] error while attempting to bind on", {}, "--port", "1024"),
    ("environment", "Permission denied: '/.cache'", {}, "HF_HOME", "HOME"),
    ("environment", "Permission denied: '/srv/x'", {}, "right", "right"),
    ("environment", "getpwuid(): uid not found: 1001", {}, "/etc/passwd", "USER"),
    ("environment", "Too many open files", {}, "ulimit -n", "ulimit -n"),
    ("environment", "can't start new thread", {}, "--pids-limit", "ulimit -u"),
    ("environment", "No such file or directory: 'ffmpeg'", {}, "ffmpeg", "apt install ffmpeg"),
    ("environment", "version `GLIBCXX_3.4.32' not found", {}, "libstdc++", "libstdc++"),
    ("environment", "operator torchvision::nms does not exist", {}, "torchvision", "torchvision"),
    ("environment", "No module named 'vllm._C'", {}, "reinstall vLLM", "source folder"),
    ("environment", "undefined symbol: _Z", {}, "fresh environment", "fresh environment"),
    ("environment", "numpy.core.multiarray failed", {}, "numpy<2", "numpy<2"),
    ("environment", "module 'whisper' has no attribute", {}, "openai-whisper", "openai-whisper"),
    ("environment", "No module named 'zebra'", {"module": "zebra"}, "install zebra", "zebra"),
    (
        "environment",
        "libmpi.so.40: cannot open shared object file",
        {"library": "libmpi.so.40"},
        "has libmpi.so.40",
        "LD_LIBRARY_PATH",
    ),
    ("environment", "cannot import name 'zebra' from 'lion'", {}, "pins", "fresh environment"),
    ("model_not_found_or_auth", "429 Client Error", {}, "HF_TOKEN", "HF_HUB_OFFLINE"),
    ("model_not_found_or_auth", "503 Server Error", {}, "try again", "HF_HUB_DISABLE_XET"),
    ("model_not_found_or_auth", "a gated repo", {}, "licence", "HF_TOKEN"),
    ("model_not_found_or_auth", "checksum does not match", {}, "delete", "download it again"),
    ("model_not_found_or_auth", "Invalid model size 'huge'", {}, "names", "names"),
    ("model_not_found_or_auth", "'model.bin' in model '/m'", {}, "convert", "ct2-transformers"),
    ("model_not_found_or_auth", "couldn't connect to 'x'", {}, "hf download", "proxy"),
    ("bad_argument", "set `trust_remote_code=True`", {}, "--trust-remote-code", "--trust"),
    ("bad_argument", "number of available GPUs (2)", {"gpus": 2}, "at most 2", "at most"),
    ("bad_argument", "must be divisible by tensor parallel", {}, "attention heads", "divides"),
    (
        "bad_argument",
        "greater than the derived max_model_len",
        {"derived_max_model_len": 32_768},
        "to at most 32768:",
        "--max-model-len",
    ),
    (
        "bad_argument",
        "max_num_batched_tokens (2048) is smaller than max_model_len (4096)",
        {"max_model_len": 4_096},
        "at least 4096",
        "at least",
    ),
    ("bad_argument", "LoRA rank 64", {"lora_rank": 64}, "--max-lora-rank 64", "rank"),
    ("bad_argument", "requires --tool-call-parser", {}, "auto-tool-choice", "parser"),
    (
        "unsupported_quantization_or_arch",
        "does not recognize this architecture",
        {},
        "pip install -U transformers",
        "transformers",
    ),
    ("unsupported_quantization_or_arch", "install bitsandbytes", {}, "pip install", "bitsand"),
    ("unsupported_quantization_or_arch", "model binary version", {}, "convert", "ctranslate2"),
    (
        "unsupported_quantization_or_arch",
        "not aligned with the quantized weight shape",
        {},
        "--tensor-parallel-size",
        "parts",
    ),
    ("unsupported_quantization_or_arch", "failed to be inspected", {}, "above", "above"),
    (
        "kv_cache_too_small",
        "exceeds available Mamba cache blocks (40)",
        {"mamba_blocks": 40},
        "--max-num-seqs to at most 40",
        "at most",
    ),
    ("timeout_hang", "engine core processes to start", {}, "READY_TIMEOUT_S", "longer"),
    ("timeout_hang", "Engine iteration timed out", {}, "ITERATION_TIMEOUT_S", "step"),
)
"""Cause, a line, figures of it, what the remedy names for vLLM, and for a Whisper."""


@pytest.mark.parametrize(("cause", "line", "figures", "vllm", "whisper"), CASES)
def test_a_line_has_its_own_cure(cause, line, figures, vllm, whisper):
    assert vllm in remedy_for(cause, line, figures, "vllm")
    assert whisper in remedy_for(cause, line, figures, "faster-whisper", "whisper")


def test_every_cure_has_a_line_that_no_other_takes_first():
    assert unmet(OF_START, CASES) == set()


@pytest.mark.parametrize(("cause", "line", "figures"), [case[:3] for case in CASES])
@pytest.mark.parametrize("known", [False, True])
def test_a_cure_is_whole_sentences_with_and_without_its_figures(cause, line, figures, known):
    check_sentences(cause, line, figures if known else {})


def test_only_causes_that_a_log_names_have_cures():
    assert all("log" in CAUSES[cause].told_by for cause in OF_START)
