"""Wordings of what goes wrong on a device other than its memory: faults, driver, capability."""

from __future__ import annotations

from objectives.diagnosis.rules.rule_book import Rank, rules

_STATUS = r"\b(?:CUBLAS|CUDNN|CUSOLVER|CUSPARSE|CUFFT|CURAND|HIPBLAS|ROCBLAS|MIOPEN)\w*_STATUS"
_CUDA_LIBRARY = (
    r"(?P<library>(?:lib)?(?:cudart|cuda|cublas|cudnn|cufft|curand|cusolver|cusparse|nvrtc"
    r"|nvJitLink"
    r"|nvidia-ml|nvToolsExt|cupti|cusparseLt|nccl)\w*(?:\.so|\.dll|64_|_)?)"
)
_XID = r"NVRM: Xid \([^)]*\): (?P<xid>{}),"
DEVICE = (
    # A library's status says when it failed: before it could compute, as it did, or never can.
    *rules(
        "cuda_init",
        (
            "_status_",
            rf"(?P<status>{_STATUS}_(?:\w*NOT_INITIALIZED|\w*VERSION_MISMATCH|SUBLIBRARY_\w+"
            r"|LICENSE_ERROR|RUNTIME_PREREQUISITE_MISSING))",
        ),
        (  # CTranslate2 computes with them for the first time as it transcribes
            "failed with status",
            rf"failed with status (?P<status>{_STATUS}_(?:EXECUTION_FAILED|INTERNAL_ERROR)\w*)",
        ),
    ),
    *rules(
        "unsupported_gpu",
        ("_status_", rf"(?P<status>{_STATUS}_(?:\w*NOT_SUPPORTED\w*|ARCH_MISMATCH))"),
    ),
    *rules(
        "cuda_illegal_access",
        ("_status_", rf"(?P<status>{_STATUS}_(?:EXECUTION_FAILED|INTERNAL_ERROR)\w*)"),
        computed_only=True,
    ),
    *rules(
        "cuda_init",
        ("_status_", rf"(?P<status>{_STATUS}_(?:EXECUTION_FAILED|INTERNAL_ERROR)\w*)"),
        rank=Rank.WEAK,
    ),
    *rules(
        "cuda_illegal_access",
        ("illegal", r"an illegal (?:memory access|instruction) was encountered|IllegalAddress"),
        ("device-side assert", r"device-side assert triggered|DeviceAssert"),
        ("_status_", rf"(?P<status>{_STATUS}_(?:MAPPING_ERROR|INVALID_VALUE))"),
        ("launch fail", r"unspecified launch failure|CUDA_ERROR_LAUNCH_FAILED|LaunchFailure"),
        ("misaligned", r"misaligned address"),
        ("invalid program counter|address space", r"invalid program counter|shared or local addr"),
        ("memory access fault by gpu", r"Memory access fault by GPU (?P<device>node-\d+)"),
        ("memory_aperture|hw exception", r"MEMORY_APERTURE_VIOLATION|HW Exception by GPU"),
        ("error: invalid argument", r"(?:CUDA|HIP) error: invalid (?:argument|configuration arg)"),
    ),
    *rules(
        "cuda_illegal_access",
        ("xid", _XID.format("13|31|43|45|68|109")),
        rank=Rank.WEAK,
        quiet=True,
    ),
    *rules(
        "engine_dead_other",
        ("xid", _XID.format(r"\d+")),
        ("ecc error", r"uncorrectable ECC error encountered"),
        ("gpu", r"GPU has fallen off the bus|\bGPU is lost\b"),
        rank=Rank.WEAK,
        quiet=True,
    ),
)
"""A fault on the device: of the program that ran, or of the device itself."""


GPU = (
    *rules(
        "unsupported_gpu",
        ("no kernel image", r"no kernel image is available"),
        ("kernel image", r"device kernel image is invalid"),
        (
            "bfloat16 is only",
            r"Bfloat16 is only supported on GPUs with compute capability of at least"
            r" (?P<needed_capability>\d+(?:\.\d+)?)"
            r"(?:.*?has compute capability (?P<capability>\d+\.\d+))?",
        ),
        (
            "capability",
            r"(?:Minimum|Min|Required) capability:? (?P<needed_capability>\d+(?:\.\d+)?)"
            r"(?:.{0,40}?Current capability:? (?P<capability>\d+(?:\.\d+)?))?",
        ),
        (
            "capability",
            r"(?:only supported (?:on|for|with)|requires?|require|needs?).{0,80}?compute capability"
            r"(?:.{0,24}?(?P<needed_capability>\d+(?:\.\d+)?))?",
        ),
        (
            "capability",
            r"compute capability.{0,60}?(?:not supported|unsupported|is too (?:low|old)|required)"
            r"|(?:not supported|unsupported).{0,80}?compute capability",
        ),
        (
            "device capability",
            r"No compiled .{0,80}?for CUDA device capability:? ?(?P<capability>\d+)",
        ),
        ("for the current gpu", r"not supported (?:for|on|by) the current GPU"),
        ("not supported in this arch", r"type (?P<dtype>\S+) not supported in this architecture"),
        ("only supports ampere", r"only supports Ampere GPUs or newer"),
        ("only supported on ampere", r"only supported on Ampere"),
        ("passmanager|mlir pass", r"PassManager::run failed|processing an MLIR pass pipeline"),
        (".target", r"not supported on \.target|requires? \.target sm_\d+"),
        (
            "out of resource",
            r"out of resource:? (?P<resource>[\w ]+?), Required:? (?P<required>\d+),"
            r" Hardware limit:? (?P<limit>\d+)",
        ),
        ("llvm error", r"LLVM ERROR: Cannot select"),
        ("fp4 gemm", r"Failed to (?:initialize|run) cutlass FP4 gemm"),
        (
            "requires|only support",
            r"(?:requires?|only supports?) (?:an? )?(?:NVIDIA )?(?:GPUs? with )?"
            r"(?:Ampere|Ada|Hopper|Blackwell|SM_? ?\d+)\b",
        ),
        ("gcn arch", r"GCN arch '(?P<arch>\w+)'|Unsupported GPU arch"),
        (
            "compute type",
            r"Requested (?P<dtype>\w+) compute type, but the target device or backend do(?:es)? not"
            r" support",
        ),
    ),
    *rules(
        "unsupported_gpu",
        ("cuda capability", r"CUDA capability (?P<capability>\w+) is not compatible with"),
        ("no longer supports this gpu", r"no longer supports this GPU because it is too old"),
        rank=Rank.WEAK,
        quiet=True,
    ),
)
"""The card, or the build, cannot run this kernel or type."""

LIBRARIES = (
    *rules(
        "cuda_init",
        ("not found or can", r"Library (?P<library>\S+) is not found or cannot be loaded"),
        (
            "libcu|libnv|libnccl",
            rf"(?<!\(')\b{_CUDA_LIBRARY}\S*: (?:cannot open shared object|failed to map|undefined)",
        ),
        (
            "libcu|libnv|cudnn|cublas",
            rf"(?:Could not (?:load|locate)|Unable to (?:load|find)|[Cc]annot find).{{0,30}}?\b"
            rf"{_CUDA_LIBRARY}|Please make sure {_CUDA_LIBRARY.replace('?P<library>', '?:')}",
        ),
        ("cannot load symbol", r"Cannot load symbol (?P<symbol>cu\w+)"),
        ("not compiled with cuda", r"not compiled with CUDA(?: support)?\b(?! enabled)"),
        ("unsupported device", r"unsupported device (?P<device>cuda|gpu)\b"),
        (
            "cuda failed with error",
            r"CUDA failed with error (?P<error>(?!out of memory|an illegal|no kernel|unspecified"
            r"|misaligned|device-side).+)",
        ),
        ("sees no cuda", r"\btorch\S* \S+ sees no CUDA device"),
    ),
)
"""CUDA's own libraries, and CTranslate2, which asks for them at the first request only."""

CUDA = (
    *rules(
        "cuda_init",
        ("driver on your system", r"NVIDIA driver on your system is too old"),
        ("cuda initialization", r"CUDA initialization: (?P<error>.+)"),
        rank=Rank.WEAK,
        start_only=True,
        quiet=True,
    ),
    *rules(
        "cuda_init",
        ("gpus are available", r"No (?:CUDA|HIP) GPUs are available"),
        ("nvidia driver", r"Found no NVIDIA driver|NVIDIA driver on your system is too old"),
        ("driver initialization", r"CUDA driver initialization failed"),
        ("driver version is insuff", r"CUDA driver version is insufficient for CUDA runtime"),
        ("cuda unknown error", r"CUDA unknown error - this may be due to an incorrectly set up"),
        ("cudagetdevicecount", r"Unexpected error from (?:cuda|hip)GetDeviceCount"),
        ("error 80", r"\bError (?P<error>80[0-9]): "),
        ("device is detected", r"no (?:CUDA|ROCm)-capable device is detected"),
        ("busy or unavailable", r"CUDA-capable device\(s\) is/are busy or unavailable"),
        (
            "invalid literal for int",
            r"invalid literal for int\(\).{0,24}'(?P<device>(?:GPU|MIG)-\S*)'",
        ),
        ("cuda_visible_devices", r"CUDA_VISIBLE_DEVICES is set to (?:an )?empty string"),
        ("unsatisfied condition", r"unsatisfied condition: (?P<condition>[^,]+)"),
        (
            "nvidia-container|legacy nvidia|runtime name",
            r"nvidia-container-(?:cli|runtime\S*): (?P<refusal>.+)|invalid runtime name: nvidia",
        ),
        ("cdi", r"unresolvable CDI devices|inject CDI devices"),
        ("display driver", r"unsupported display driver / cuda driver combination"),
        ("forward compatibility", r"forward compatibility was attempted on non supported HW"),
        ("not yet initialized", r"system not yet initialized"),
        ("infer device type", r"Failed to infer device type"),
        ("device string must", r"Device string must not be empty"),
        ("forked subprocess", r"Cannot re-initialize CUDA in forked subprocess"),
        ("cuda enabled", r"Torch not compiled with CUDA enabled"),
        ("invalid device ordinal", r"invalid device ordinal|visible device ordinal \d+ is out of"),
        (
            "nvml",
            r"\bNVMLError_\w+|NVML Shared Library Not Found|Driver/library version mismatch|failed"
            r" to initialize NVML",
        ),
        ("unsupported toolchain", r"PTX was compiled with an unsupported toolchain"),
        ("initialization error", r"CUDA error: initialization error"),
        ("initializationerror", r"cudaErrorInitializationError"),
        ("device driver", r"could not select device driver"),
        ("is_available() is false", r"torch\.cuda\.is_available\(\) is False"),
        start_only=True,
    ),
)
"""CUDA does not come up: driver, container or visibility."""
