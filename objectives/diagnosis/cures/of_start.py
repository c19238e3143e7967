"""Cures of what a start needs: tools, an installation, a model, settings that agree."""

from __future__ import annotations

from objectives.diagnosis.cures.cure import cures

_TOOLKIT = (
    "Install a CUDA toolkit{at_least} with nvcc and set CUDA_HOME to it; where only "
    "FlashInfer's sampler is compiled, VLLM_USE_FLASHINFER_SAMPLER=0 does without."
)
_REBUILT = (
    "The compiled extension and the installed torch do not fit one another: reinstall the "
    "package together with the torch that it pins in a fresh environment, or build it again."
)
_TENSOR_PARALLEL = "Lower --tensor-parallel-size: the parts of a weight get too small or uneven."

OF_START = {
    "build_tools": cures(
        (
            r"Python\.h",
            "Install the headers of the Python that runs the server (`apt install "
            "python3-dev`, or python3.12-dev for its version).",
        ),
        (r"(?:cu\w+|nv/\w+|cublas\w*|crt/\S+)\.?h\w*: No such|\.cuh", _TOOLKIT),
        (
            r"fatal error: \S+",
            "Install the package that has the header {header}, and a complete compiler.",
        ),
        (
            r"mismatches the version",
            "Install the CUDA toolkit of torch's own CUDA version, or set CUDA_HOME to it.",
        ),
        (
            r"gpu-\w+'|gpu architecture|Unsupported \.version|ptxas",
            "The toolkit is older than the card: install a newer CUDA toolkit, set CUDA_HOME "
            "to it, and for Triton TRITON_PTXAS_PATH to its ptxas.",
        ),
        (
            r"unsupported (?:GNU|clang)",
            "nvcc takes no compiler as new as this: set CC and CXX to an older one (gcc-12, "
            "g++-12), or install a newer CUDA toolkit.",
        ),
        (r"nvcc|CUDA_HOME|CUDAToolkit|\bCUDA\b.{0,20}\d", _TOOLKIT),
        (
            r"ninja",
            "Install ninja into the server's environment (`pip install ninja`), with its bin "
            "folder on PATH.",
        ),
        (
            r"-lcuda\b",
            "The linker finds no libcuda.so: link it to the driver's libcuda.so.1, or put the "
            "toolkit's lib64/stubs into LIBRARY_PATH.",
        ),
        (
            r"-lpython",
            "Install the development files of the server's Python (`apt install python3-dev`).",
        ),
        (
            r"compiler|gcc|g\+\+|c\+\+|clang|'cc'|cc1plus",
            "Install a C and C++ compiler (`apt install build-essential`), or name yours in CC "
            "and CXX.",
        ),
    ),
    "environment": cures(
        (
            r"No space|quota|disk",
            "A disk is full or its quota is used up (`df -h`, `quota`): free space, or move "
            "the caches (HF_HOME, VLLM_CACHE_ROOT, TORCHINDUCTOR_CACHE_DIR, TMPDIR) to another "
            "disk.",
            "A disk is full or its quota is used up (`df -h`, `quota`): free space, or move "
            "the caches (HF_HOME, XDG_CACHE_HOME, TMPDIR) to another disk.",
        ),
        (r"Read-only file", "Mount a writable folder, and set HOME, HF_HOME and TMPDIR to it."),
        (
            r"attempting to bind",
            "Ports below 1024 are the administrator's: take a higher one (--port).",
        ),
        (
            r"/\.\w+|cache|/root\b|/home\b|downloading",
            "The process may not write its cache: set HOME (or HF_HOME and XDG_CACHE_HOME) to "
            "a folder that its user owns, or `chown` that folder; remove locks left by another "
            "user.",
        ),
        (
            r"permission|writ\w*able|not permitted|access",
            "Give the server's user the right to what the line names, or another path.",
        ),
        (
            r"getpw|user exists|user ID",
            "The user id has no name in this container: set USER, HOME and "
            "TORCHINDUCTOR_CACHE_DIR, or add it to /etc/passwd.",
        ),
        (
            r"open files",
            "Raise the limit of open files (`ulimit -n 65536`, docker's --ulimit nofile).",
        ),
        (
            r"thread|temporarily",
            "Raise the limit of threads (`ulimit -u`, docker's --pids-limit), or set "
            "OMP_NUM_THREADS lower.",
        ),
        (r"ffmpeg", "Install ffmpeg (`apt install ffmpeg`), on the PATH of the server."),
        (
            r"GLIBC|CXXABI",
            "The system's C or C++ library is older than the build's: take a newer system or "
            "image, or put a newer libstdc++ into LD_LIBRARY_PATH.",
        ),
        (
            r"torchvision|torchaudio",
            "Reinstall torchvision and torchaudio of the versions that belong to the installed "
            "torch.",
        ),
        (
            r"vllm\._\w*C\b",
            "vLLM's compiled part is missing: reinstall vLLM, and do not start it from its "
            "source folder.",
        ),
        (r"undefined symbol|_OpNamespace|ops|ABI", _REBUILT),
        (
            r"numpy",
            "Install the NumPy that the others were built for (`pip install 'numpy<2'`), or "
            "newer builds of them.",
        ),
        (
            r"module 'whisper' has no",
            "The package `whisper` is another one: `pip uninstall whisper && pip install "
            "openai-whisper`.",
        ),
        (
            r"No module named",
            "Install what is missing into the server's environment: `pip install {module}`.",
        ),
        (
            r"shared object",
            "Install the package that has {library}, or put its folder into LD_LIBRARY_PATH.",
        ),
        (
            r"import name|has no attribute|Version|Package",
            "Versions of packages do not fit one another: install those that the server pins, "
            "in a fresh environment.",
        ),
    ),
    "model_not_found_or_auth": cures(
        (
            r"\b429\b|Too Many Requests",
            "The hub limits your requests: set HF_TOKEN, wait some minutes, and with the model "
            "in the cache set HF_HUB_OFFLINE=1.",
        ),
        (
            r"\b50\d (?:Client|Server)|CAS|xet",
            "The hub has trouble: try again, set HF_HUB_DISABLE_XET=1, or with the model in "
            "the cache HF_HUB_OFFLINE=1.",
        ),
        (
            r"gated|\b40[13]\b|restricted|password|credentials",
            "Accept the model's licence on its page, and set HF_TOKEN to a token that may read "
            "it; check the name, too.",
        ),
        (
            r"checksum|zip archive|load key|incomplete|SafetensorError|missing: ",
            "The file is damaged or half downloaded: delete it from the cache, and download it "
            "again.",
        ),
        (
            r"size mismatch|available models|model size",
            "Take one of the names that the line lists, or the path of a model.",
        ),
        (
            r"in model '",
            "That folder holds no CTranslate2 model: download it again, or convert it "
            "(`ct2-transformers-converter --model NAME --output_dir DIR`).",
        ),
        (
            r"offline|outgoing|couldn't connect|ConnectionPool|LocalEntry|urlopen|cached "
            r"snapshot",
            "The hub cannot be reached, and the cache lacks the model: check network and "
            "proxy, or download it where there is one (`hf download NAME`) and bring the cache "
            "along.",
        ),
    ),
    "bad_argument": cures(
        (
            r"trust[_-]remote[_-]code|requires you to execute|custom code",
            "The model brings code of its own: read it, then allow it with --trust-remote-code.",
        ),
        (
            r"number of available GPUs",
            "Lower --tensor-parallel-size to at most {gpus}: so many GPUs are visible.",
        ),
        (
            r"must be divisible by tensor",
            "Take a --tensor-parallel-size that divides the number of attention heads.",
        ),
        (
            r"derived max_model_len",
            "Lower --max-model-len{to_derived}: the model knows no more positions.",
        ),
        (
            r"max_num_batched_tokens \(\d+\) is smaller",
            "Raise --max-num-batched-tokens to at least {max_model_len}, or lower --max-model-len.",
        ),
        (r"LoRA rank", "Set --max-lora-rank {lora_rank}."),
        (
            r"--tool-call-parser",
            "Name a parser with --tool-call-parser, or leave out --enable-auto-tool-choice.",
        ),
    ),
    "unsupported_quantization_or_arch": cures(
        (
            r"recognize this architecture|import name|no attribute",
            "Install the transformers that knows this model (`pip install -U transformers`), "
            "or the one that this vLLM pins.",
        ),
        (
            r"bitsandbytes",
            "Install bitsandbytes into the server's environment (`pip install bitsandbytes`).",
        ),
        (
            r"binary version",
            "Update CTranslate2 (`pip install -U ctranslate2`), or convert the model again "
            "with the installed one.",
        ),
        (r"quantized weight shape|quantization block|min_thread", _TENSOR_PARALLEL),
        (
            r"to be inspected",
            "An error above this line says why: repeat with VLLM_LOGGING_LEVEL=DEBUG if it is "
            "not there.",
        ),
    ),
    "kv_cache_too_small": cures(
        (
            r"Mamba cache blocks",
            "Lower --max-num-seqs to at most {mamba_blocks}: each sequence holds one block of "
            "state; or raise --gpu-memory-utilization.",
        ),
    ),
    "timeout_hang": cures(
        (
            r"core processes to start",
            "Give the start longer (VLLM_ENGINE_READY_TIMEOUT_S), or find what it waits for: "
            "slow weights, a compilation, a rank.",
        ),
        (
            r"iteration timed out",
            "Give a step longer (VLLM_ENGINE_ITERATION_TIMEOUT_S), and look at what the "
            "workers did last.",
        ),
    ),
}
"""Cause to what its lines name, the more special first."""
