"""Cures of a device, its driver, its ranks, and of a death without words."""

from __future__ import annotations

from objectives.diagnosis.cures.cure import cures

_CONTAINER = (
    "Install nvidia-container-toolkit on the host, run `nvidia-ctk runtime configure "
    "--runtime=docker`, restart docker, and start the container with --gpus all."
)
_NEWER_DRIVER = (
    "Update the GPU driver (CUDA 13 needs 580 or newer, CUDA 12 needs 525), or take a build "
    "for an older CUDA: vLLM up to 0.19 is built for CUDA 12."
)
_OLDER_TORCH = (
    "Update the GPU driver (CUDA 13 needs 580 or newer, CUDA 12 needs 525), or take a torch "
    "built for an older CUDA; until then Whisper computes on the CPU, or not at all."
)
_CUDNN = (
    "The cuDNN and cuBLAS that this build of CTranslate2 asks for are not where the loader "
    "looks: install them (`pip install nvidia-cudnn-cu12 nvidia-cublas-cu12`; CTranslate2 4.5 "
    "and newer take cuDNN 9, 4.0 to 4.4 cuDNN 8, older ones CUDA 11) and put their lib folders "
    "into LD_LIBRARY_PATH before the process starts."
)
_SHM = (
    "Too little shared memory for what the processes share (`df -h /dev/shm`): start the "
    "container with --shm-size=8g or --ipc=host, or in Kubernetes mount an emptyDir of medium "
    "Memory on /dev/shm; without a container see whether a mapped file lost its disk."
)
_FABRIC = (
    "NVSwitch machines need the fabric manager, of the driver's very version: `systemctl start "
    "nvidia-fabricmanager`; inside a container restart it afterwards. "
)

OF_DEVICE = {
    "cuda_init": cures(
        (
            r"'MIG-",
            "vLLM up to 0.23 takes no UUID: let the container see that slice alone (--gpus "
            "device=MIG-...) with CUDA_VISIBLE_DEVICES=0, or take vLLM 0.24 or newer.",
        ),
        (
            r"'GPU-",
            "vLLM up to 0.23 takes no UUID: set CUDA_VISIBLE_DEVICES to the card's index "
            "(`nvidia-smi -L` lists both) with CUDA_DEVICE_ORDER=PCI_BUS_ID, or take vLLM 0.24 "
            "or newer.",
        ),
        (
            r"VISIBLE_DEVICES is set to",
            "CUDA_VISIBLE_DEVICES is empty, which hides every GPU: unset it, or set it to an "
            "index.",
        ),
        (
            r"forked subprocess",
            "Set VLLM_WORKER_MULTIPROC_METHOD=spawn, and touch CUDA in no process that forks "
            "later.",
            'Start worker processes by spawn (`multiprocessing.set_start_method("spawn")`, no '
            "--preload), or load the model in the worker.",
        ),
        (r"not yet initialized|\b802\b", _FABRIC.strip()),
        (
            r"version mismatch|LibRmVersionMismatch",
            "The driver was updated under its loaded kernel module: reboot, or stop what uses "
            "the GPU and reload the driver (`rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia "
            "&& modprobe nvidia`).",
        ),
        (
            r"display driver|\b80[34]\b|forward compatibility",
            "The libcuda that is loaded is not the driver's: take /usr/local/cuda/compat out "
            "of LD_LIBRARY_PATH (forward compatibility is for data-centre cards only), update "
            "the driver, or reboot after an update.",
        ),
        (
            r"unsatisfied condition",
            "The image asks the driver for {condition}: update the host's driver, or take an "
            "image for an older CUDA (NVIDIA_DISABLE_REQUIRE=1 only skips the check).",
        ),
        (r"too old|driver version is insuff|unsupported toolchain", _NEWER_DRIVER, _OLDER_TORCH),
        (
            r"CDI dev",
            "Describe the devices to the container engine: `nvidia-ctk cdi generate "
            "--output=/etc/cdi/nvidia.yaml`.",
        ),
        (
            r"driver not loaded|load library failed|nvml error|Failed to initialize NVML",
            "The driver does not answer: `nvidia-smi` on the host must work first (load the "
            "module, or reboot); a container that had the GPU before is to be restarted.",
        ),
        (r"device driver|nvidia-container|runtime name", _CONTAINER),
        (
            r"No (?:CUDA|HIP) GPUs|CUDA-capable device is detected|is_available\(\) is False"
            r"|sees no CUDA",
            "No GPU is visible to this process: `nvidia-smi` must list it in the same container "
            "(start it with --gpus all), CUDA_VISIBLE_DEVICES must not hide it, and torch must be "
            "built for CUDA.",
        ),
        (
            r"libcuda\.so|libnvidia-ml|Found no NVIDIA driver",
            "No driver is visible here: install it (`nvidia-smi` must work), and start a "
            "container with --gpus all.",
        ),
        (
            r"NOT_INITIALIZED|EXECUTION_FAILED|INTERNAL_ERROR",
            "{status} at the first call: the library found no memory for its handle, or does "
            "not fit driver and card. Free device memory first, then see that cuDNN and cuBLAS "
            "are the versions that the build asks for.",
        ),
        (r"VERSION_MISMATCH|SUBLIBRARY|cudnn|cublas|Library \S+ is not found", _CUDNN),
        (
            r"\blib\w+\.so",
            "Install the CUDA library that the line names, or put its folder into LD_LIBRARY_PATH.",
        ),
        (
            r"Torch not compiled",
            "This torch is the CPU build: install the one for CUDA, or choose the CPU.",
        ),
        (
            r"not compiled with CUDA|unsupported device",
            "This CTranslate2 is built without CUDA: install the wheel that has it (x86-64 "
            'Linux, Windows) or build it with -DWITH_CUDA=ON, or choose device="cpu".',
        ),
        (
            r"device ordinal",
            "Fewer GPUs are visible than asked for: lower --tensor-parallel-size, or widen "
            "CUDA_VISIBLE_DEVICES.",
            "That device is not visible: choose another device index, or widen "
            "CUDA_VISIBLE_DEVICES.",
        ),
        (
            r"busy or unavailable",
            "Another process holds the GPU in exclusive mode: stop it, run under MPS, or set "
            "`nvidia-smi -c 0`.",
        ),
        (
            r"failed with error operation not supported",
            "The device has no memory pools (vGPU): set CT2_CUDA_ALLOCATOR=cub_caching.",
        ),
    ),
    "unsupported_gpu": cures(
        (
            r"Requested \w+ compute type",
            'This device does not compute in {dtype}: take compute_type="float32", or "int8" '
            "(float16 needs a GPU of capability 7.0 or newer).",
        ),
        (
            r"fp8e4nv",
            "This card has no fp8 e4m3: use --kv-cache-dtype fp8_e5m2 or auto, and weights in "
            "another format.",
        ),
        (
            r"bfloat16",
            "This card has no bfloat16: use --dtype half.",
            "This card has no bfloat16: use float16, or float32 before capability 7.0.",
        ),
        (
            r"kernel image|is not compatible with|no longer supports",
            "This build has no code for the card: take one that has (Pascal: torch up to 2.7; "
            "Blackwell: CUDA 12.8 or newer), or build with the card in TORCH_CUDA_ARCH_LIST.",
        ),
    ),
    "nccl_or_dist": cures(
        (r"bus error|sigbus|/dev/shm|shared mem|shm|torch_\d|psm_", _SHM),
        (
            r"operation not supported|not yet initialized",
            _FABRIC + "Where there is none, set NCCL_NVLS_ENABLE=0 and NCCL_CUMEM_ENABLE=0.",
        ),
        (
            r"peer access|custom_all_reduce",
            "Use --disable-custom-all-reduce, and NCCL_P2P_DISABLE=1 where the cards cannot "
            "reach each other.",
        ),
        (
            r"duplicate gpu|invalid usage",
            "Two ranks share a GPU: give each its own (CUDA_VISIBLE_DEVICES, "
            "--tensor-parallel-size).",
        ),
        (
            r"placement group|Ray does not|node has no",
            "Ray has fewer GPUs than --tensor-parallel-size asks for: look at `ray status`, "
            "lower it, or add nodes.",
        ),
        (
            r"network address|unique ip|gloo",
            "Name the address and the interface: VLLM_HOST_IP, NCCL_SOCKET_IFNAME, "
            "GLOO_SOCKET_IFNAME.",
        ),
        (
            r"unhandled (?:cuda|system) error",
            "NCCL names the reason in a line of its own: repeat with NCCL_DEBUG=INFO, and look "
            "for NCCL WARN, /dev/shm and the fabric manager.",
        ),
    ),
    "engine_dead_other": cures(
        (
            r"(?:exit\w*|code|status|returned)\D{0,12}(?:137|-9)\b|signal:? 9\b|SIGKILL|9/KILL",
            "Killed from outside (SIGKILL, 137){at_phase}: mostly by the kernel for want of the "
            "host's memory (`dmesg -T | grep -i oom`, `docker inspect` for OOMKilled), else by "
            "a stop, a supervisor or a time limit.",
        ),
        (
            r"(?:exit\w*|code|status|returned)\D{0,12}(?:139|-11)\b|signal:? 11\b|SIGSEGV"
            r"|segmentation|segfault",
            "Native code touched memory that is not its own (SIGSEGV, -11){at_phase}: the native "
            "frames name the library; mostly torch, CUDA libraries and extensions do not fit "
            "one another. Repeat with PYTHONFAULTHANDLER=1 in a fresh environment.",
        ),
        (
            r"(?:exit\w*|code|status|returned)\D{0,12}(?:134|-6)\b|signal:? 6\b|SIGABRT|aborted"
            r"|invalid pointer|double free|corrupt|munmap_chunk|smashing|terminate called"
            r"|\b(?:malloc|free|realloc)\w*\(\)",
            "A native library gave up (SIGABRT, -6){at_phase}: the line above says why; a damaged "
            "heap means two copies or builds of one library (an LD_PRELOAD, a second torch).",
        ),
        (
            r"(?:exit\w*|code|status|returned)\D{0,12}(?:132|-4)\b|signal:? 4\b|SIGILL|illegal "
            r"instruction",
            "The CPU lacks an instruction that this build uses (SIGILL, -4; AVX2 or AVX-512): "
            "take a build for this CPU.",
        ),
        (
            r"(?:exit\w*|code|status|returned)\D{0,12}(?:143|-15)\b|signal:? 15\b|SIGTERM"
            r"|SIGINT|SIGHUP",
            "Somebody ended it{at_phase}: a unit's start limit, a container's health check, a "
            "scheduler's time limit or a person.",
        ),
    ),
}
"""Cause to what its lines name, the more special first."""
