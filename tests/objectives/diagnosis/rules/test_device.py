"""Each wording of a fault, a driver or a card names its cause, and what sounds like it does not."""

from __future__ import annotations

import pytest

from objectives.causes import APPLICATION_XIDS
from objectives.diagnosis.diagnosis import wanted_of_a_server, wanted_of_a_start
from objectives.diagnosis.rules.device import CUDA, DEVICE, GPU, LIBRARIES
from objectives.diagnosis.rules.rule_book import Rank, RuleBook, figures_of
from tests.objectives.diagnosis.rules.readings import first, unmet

TABLES = (*DEVICE, *GPU, *LIBRARIES, *CUDA)
BOOK = RuleBook(DEVICE, GPU, LIBRARIES, CUDA)

FAULTS = (
    ("CUDA error: an illegal memory access was encountered", "illegal characters in a prompt"),
    ("CUDA error: an illegal instruction was encountered", None),
    ("torch.AcceleratorError: cudaErrorIllegalAddress", None),
    (
        "CUDA error: device-side assert triggered",
        "compile with it to enable device-side assertions",
    ),
    (
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ),
    ("CUDA error: unspecified launch failure", "error: the launch failed"),
    ("CUDA error: misaligned address", "error: the table is misaligned"),
    ("CUDA error: invalid program counter", None),
    ("CUDA error: operation failed on shared or local address space", "error: no address space"),
    (
        "Memory access fault by GPU node-3 (Agent handle: 0x1) on address 0x2. Reason: Unknown.",
        "Memory access fault by GPU: see the manual",
    ),
    ("HSA_STATUS_ERROR_MEMORY_APERTURE_VIOLATION: x", None),
    ("HW Exception by GPU node-1 (Agent handle: 0x1) reason: GPU Hang", "no HW exception so far"),
    ("RuntimeError: CUDA error: invalid argument", "ValueError: error: invalid argument"),
    ("NVRM: Xid (PCI:0000:01:00): 31, pid=812, name=python3, Ch 8", "Xid 31 explained"),
    ("cuDNN error: CUDNN_STATUS_MAPPING_ERROR", None),
    ("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR", None),
    ("CUDA error: CUBLAS_STATUS_INVALID_VALUE", None),
)
STATUSES = (
    (
        "cuda_init",
        "CUDA error: HIPBLAS_STATUS_NOT_INITIALIZED",
        "the property hw_status_ is not initialized",
    ),
    ("cuda_init", "cuDNN error: CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH", None),
    ("cuda_init", "cuBLAS failed with status CUBLAS_STATUS_EXECUTION_FAILED", None),
    ("unsupported_gpu", "CUDA error: CUBLAS_STATUS_ARCH_MISMATCH when calling `x`", None),
    ("unsupported_gpu", "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED_ARCH_MISMATCH", None),
)
DEVICE_FAULTS = (
    ("NVRM: Xid (PCI:0000:01:00): 79, pid=812, GPU has fallen off the bus.", "xid: none"),
    ("CUDA error: uncorrectable ECC error encountered", "volatile ECC errors: 0"),
    ("NVMLError: GPU is lost", "GPU is there"),
    ("error: GPU has fallen off the bus", None),
)
CARDS = (
    ("CUDA error: no kernel image is available for execution on the device", "no kernel images"),
    ("CUDA error: device kernel image is invalid", "the kernel image is fine"),
    (
        "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0."
        " Your Tesla T4 GPU has compute capability 7.5.",
        "Bfloat16 is only a type",
    ),
    (
        "The quantization method awq_marlin is not supported. Minimum capability: 80. Current"
        " capability: 75.",
        "device capability: 8.0",
    ),
    ("ValueError: fp8 requires a compute capability of 8.9", "the capability of a model"),
    ("ValueError: FLASH_ATTN: [compute capability not supported]", "compute capability is 8.9"),
    ("ValueError: this type is unsupported below compute capability 8.0", None),
    ("RuntimeError: No compiled cutlass_scaled_mm for CUDA device capability: 75", None),
    ("ValueError: awq is not supported for the current GPU.", "made for the current GPU"),
    (
        "ValueError: type fp8e4nv not supported in this architecture.",
        "features not supported in this architecture are off",
    ),
    ("RuntimeError: FlashAttention only supports Ampere GPUs or newer.", None),
    ("ValueError: this is only supported on Ampere", None),
    ("RuntimeError: PassManager::run failed", "PassManager: 7 passes ran"),
    ("error: Failures have been detected while processing an MLIR pass pipeline", None),
    ("error: Feature '.bf16' not supported on .target 'sm_75'", None),
    (
        "OutOfResources: out of resource: shared memory, Required: 98304, Hardware limit: 65536.",
        "out of resources: people",
    ),
    ("LLVM ERROR: Cannot select: intrinsic %llvm.x", "no LLVM error"),
    ("RuntimeError: Failed to initialize cutlass FP4 gemm", "FP4 gemm: cutlass"),
    ("ValueError: these kernels only support Hopper", "vLLM requires patience, only supports it"),
    ("ValueError: mxfp4 requires an NVIDIA GPU with SM_100", None),
    ("RuntimeError: GCN arch 'gfx803' not supported", "GCN arch: gfx942"),
    (
        "ValueError: Requested float16 compute type, but the target device or backend do not"
        " support efficient float16 computation.",
        "the compute type inferred from the saved model is float16",
    ),
    (
        "NVIDIA RTX 5090 with CUDA capability sm_120 is not compatible with this installation",
        "CUDA capability 8.9 found",
    ),
    ("RuntimeError: PyTorch no longer supports this GPU because it is too old.", None),
)
STARTS = (
    ("RuntimeError: No CUDA GPUs are available", "4 CUDA GPUs are available"),
    ("RuntimeError: Found no NVIDIA driver on your system.", "NVIDIA driver: 580.65"),
    ("RuntimeError: The NVIDIA driver on your system is too old (found version 11040).", None),
    ("RuntimeError: CUDA driver initialization failed", "driver initialization took 3 s"),
    ("CUDA error: CUDA driver version is insufficient for CUDA runtime version", None),
    ("CUDA unknown error - this may be due to an incorrectly set up environment", None),
    ("RuntimeError: Unexpected error from cudaGetDeviceCount().", "cudaGetDeviceCount() is 4"),
    ("CUDA initialization: Error 803: unsupported", "error 80 of 99"),
    ("RuntimeError: no CUDA-capable device is detected", "one device is detected"),
    ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", None),
    (
        "CUDA error: system has unsupported display driver / cuda driver combination",
        "a display driver",
    ),
    (
        "CUDA error: forward compatibility was attempted on non supported HW",
        "forward compatibility is on",
    ),
    ("CUDA error: system not yet initialized", None),
    ("RuntimeError: Failed to infer device type", None),
    ("RuntimeError: Device string must not be empty", "a device string must be given"),
    ("RuntimeError: Cannot re-initialize CUDA in forked subprocess.", "in a forked subprocess"),
    ("AssertionError: Torch not compiled with CUDA enabled", "CUDA enabled: True"),
    ("CUDA error: invalid device ordinal", None),
    ("pynvml.NVMLError_LibRmVersionMismatch: RM has detected an NVML/RM", "nvml: 13.580"),
    ("NVMLError: NVML Shared Library Not Found", None),
    ("Failed to initialize NVML: Driver/library version mismatch", None),
    ("CUDA error: the provided PTX was compiled with an unsupported toolchain.", None),
    ("CUDA error: initialization error", "no initialization errors"),
    ("torch.AcceleratorError: cudaErrorInitializationError", None),
    ('docker: Error response from daemon: could not select device driver "" with', None),
    ("RuntimeError: torch.cuda.is_available() is False", "xpu.is_available() is False"),
    (
        "ValueError: invalid literal for int() with base 10: 'MIG-0a1b'",
        "ValueError: invalid literal for int() with base 10: 'many'",
    ),
    (
        "RuntimeError: CUDA_VISIBLE_DEVICES is set to empty string, which means",
        "CUDA_VISIBLE_DEVICES is set to 0",
    ),
    ("nvidia: unsatisfied condition: cuda>=12.8, please update", None),
    ("nvidia-container-cli: mount error: failed to add device rules", None),
    ("Error: unresolvable CDI devices nvidia.com/gpu=all", "the CDI devices are there"),
    (
        "UserWarning: CUDA initialization: CUDA unknown error",
        "CUDA initialization took 3 s",
    ),
    ("UserWarning: The NVIDIA driver on your system is too old (found version 12040).", None),
)
FIRST_USES = (
    ("RuntimeError: Library libcublas.so.12 is not found or cannot be loaded", None),
    (
        "ImportError: libcuda.so.1: cannot open shared object file: No such file",
        "ImportError('libcuda.so.1: cannot open shared object file')",
    ),
    ("Could not load library libcudnn_cnn_infer.so.8. Error: x", "loaded libcudnn.so.9"),
    ("Unable to load any of {libcudnn_ops.so.9.1.0, libcudnn_ops.so.9}", None),
    ("Invalid handle. Cannot load symbol cudnnCreateTensorDescriptor", None),
    ("This CTranslate2 package was not compiled with CUDA support", None),
    ("ValueError: unsupported device cuda", "ValueError: unsupported device zebra"),
    (
        "RuntimeError: CUDA failed with error unknown error",
        "RuntimeError: CUDA failed with error out of memory",
    ),
    ("cuda was asked for, but torch 2.14.0 sees no CUDA device; there is no", None),
)
CASES = (
    *(("cuda_illegal_access", *row) for row in FAULTS),
    *STATUSES,
    *(("engine_dead_other", *row) for row in DEVICE_FAULTS),
    *(("unsupported_gpu", *row) for row in CARDS),
    *(("cuda_init", *row) for row in (*FIRST_USES, *STARTS)),
)
"""Cause, a line, and a neighbour with a hint of the same rule that says something else."""
LINES = [line for _, line, _ in CASES]


@pytest.mark.parametrize(("cause", "line"), [case[:2] for case in CASES])
def test_a_line_of_its_kind_has_the_cause(cause, line):
    assert first(BOOK, line).cause == cause


@pytest.mark.parametrize("neighbour", [case[2] for case in CASES if case[2]])
def test_a_neighbour_of_it_has_none(neighbour):
    assert BOOK.candidates(neighbour.lower()), "no hint: this would prove nothing"
    assert first(BOOK, neighbour) is None


def test_every_rule_has_a_line():
    # What a status means at the first call, and what is only warned of, stand behind others.
    left = unmet(TABLES, BOOK, LINES)
    assert [(rule.cause, rule.rank) for rule in left] == [("cuda_init", Rank.WEAK)] * 2


@pytest.mark.parametrize("line", [case[1] for case in CASES])
def test_no_line_that_a_rule_knows_is_passed_over_unread(line):
    assert wanted_of_a_start(line)
    assert first(BOOK, line).start_only or wanted_of_a_server(line)


@pytest.mark.parametrize("xid", [*sorted(APPLICATION_XIDS), 48, 79])
def test_an_xid_is_the_program_s_or_the_device_s(xid):
    rule = first(BOOK, f"NVRM: Xid (PCI:0000:01:00): {xid}, pid=812, name=python3")
    of_the_program = xid in APPLICATION_XIDS
    assert rule.cause == ("cuda_illegal_access" if of_the_program else "engine_dead_other")
    assert (rule.rank, rule.quiet) == (Rank.WEAK, True)


@pytest.mark.parametrize(
    ("line", "figures"),
    [
        (FAULTS[4][0], {"status": "CUBLAS_STATUS_EXECUTION_FAILED"}),
        (FAULTS[9][0], {"device": "node-3"}),
        (FAULTS[13][0], {"xid": 31}),
        (CARDS[2][0], {"needed_capability": 8.0, "capability": 7.5}),
        (CARDS[3][0], {"needed_capability": 80, "capability": 75}),
        (CARDS[4][0], {"needed_capability": 8.9}),
        (CARDS[7][0], {"capability": 75}),
        (CARDS[9][0], {"dtype": "fp8e4nv"}),
        (CARDS[15][0], {"resource": "shared memory", "required": 98_304, "limit": 65_536}),
        (CARDS[20][0], {"arch": "gfx803"}),
        (STARTS[7][0], {"error": 803}),
    ],
)
def test_a_line_gives_its_figures(line, figures):
    assert dict(figures_of(first(BOOK, line).pattern.search(line))) == figures


def test_only_a_start_fails_to_find_its_device():
    assert {rule.cause for rule in TABLES if rule.start_only} == {"cuda_init"}
    assert all(rule.start_only for rule in CUDA)
    assert not any(rule.start_only for rule in LIBRARIES)


def test_what_a_warning_may_say_weighs_little():
    quiet = {rule.pattern.pattern: rule.rank for rule in TABLES if rule.quiet}
    assert set(quiet.values()) == {Rank.WEAK}
    warnings = (FAULTS[13], *DEVICE_FAULTS, *CARDS[-2:], *STARTS[-2:])
    loud = RuleBook(tuple(rule for rule in TABLES if rule.quiet))
    met = {rule.pattern.pattern for line, _ in warnings for rule in loud.candidates(line.lower())}
    assert set(quiet) <= met
