"""Why a server or a trial ended: one table of every cause, its remedy and whose fault it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Literal

from objectives.constraints import MEMORY_CONSTRAINTS

Whose = Literal["candidate", "bench", "machine", "nobody"]
"""The trial is infeasible; it fails and is tried again; the study stops; nothing is wrong."""

Witness = Literal["prediction", "log", "trial"]
"""The arithmetic before a launch; a server's log, its end and the kernel; the trial itself."""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """A row of the table.

    Attributes:
        name: The word that is stored on trials and printed.
        meaning: What it says, in one sentence.
        remedy: What to change; braces are filled from figures where those are known.
        remedies: The same where it is another for a server ("vllm", "whisper") or on a kind of
            device ("cuda", "cpu").
        constraint: The one that it violates; "slo_*" for one of those that hard objectives add;
            empty where it is no candidate's fault.
        fault: Whose fault it is.
        told_by: Who can name it.
        is_oom: An allocation failed; a candidate that was predicted not to fit never tried one.
        is_survivable: Lines that name it also appear where a start went on regardless.
    """

    name: str
    meaning: str
    remedy: str = ""
    remedies: Mapping[str, str] = field(default_factory=dict)
    constraint: str = ""
    fault: Whose = "bench"
    told_by: tuple[Witness, ...] = ("log",)
    is_oom: bool = False
    is_survivable: bool = False

    @property
    def is_memory(self) -> bool:
        """Whether more memory is asked for than there is."""
        return self.constraint in MEMORY_CONSTRAINTS


def cause_named(name: str) -> Cause:
    """The row of a cause; one that says nothing for a name that only an older study knows."""
    return CAUSES.get(name) or Cause(name=name, meaning="")


def remedy_of(name: str, figures: Mapping[str, float | int | str], *kinds: str) -> str:
    """What to do about a cause.

    Args:
        name: The cause's.
        figures: What a log prints; stands in the remedy where it helps.
        kinds: Of the server or the device, as `Cause.remedies` has them; the first known counts.
    """
    cause = cause_named(name)
    words = next((cause.remedies[kind] for kind in kinds if kind in cause.remedies), cause.remedy)
    length = figures.get("estimated_max_model_len") or figures.get("kv_cache_tokens")
    port = figures.get("port")
    return words.format_map(
        {
            "to_length": f" to {length}" if length else "",
            "to_utilization": _utilization_that_fits(figures),
            "port": f" {port}" if port else "",
        }
    )


def _utilization_that_fits(figures: Mapping[str, float | int | str]) -> str:
    """The share of the device that is free, rounded down to a hundredth."""
    free, total = figures.get("free_bytes"), figures.get("total_bytes")
    if not isinstance(free, int) or not isinstance(total, int) or total <= 0:
        return ""
    share = int(free / total * 100) / 100
    return f" to at most {share:.2f}" if share > 0 else ""


_ROOM = "raise --gpu-memory-utilization, lower --max-num-seqs or --max-num-batched-tokens"
_FOR_WHISPER = "Leave it more memory: lower vLLM's utilisation, or take a smaller Whisper model."
_ITS_TORCH = (
    "See that its torch supports this GPU and its driver (`torch.cuda.is_available()`), that the "
    "container has it, and that memory is left for it; where the CPU was meant, all is well."
)
_ITS_CTRANSLATE2 = (
    "See that CTranslate2 sees the GPU (`ctranslate2.get_cuda_device_count()`), that the container "
    'has it, and ask for it (device="cuda"); where the CPU was meant, all is well.'
)
_ON_A_CPU = "Raise --gpu-memory-utilization: here it is the fraction of the memory node."

_infeasible = partial(Cause, fault="candidate")
_out_of_memory = partial(_infeasible, constraint="device_memory_gib", is_oom=True)
_survivable = partial(Cause, is_survivable=True)
_harmless = partial(Cause, fault="nobody")

_ROWS = (
    _infeasible(
        name="out_of_bounds",
        meaning="A value is outside the hard bounds of its parameter.",
        remedy="Stay inside the hard bounds of the space.",
        constraint="bounds",
        told_by=("prediction",),
    ),
    _infeasible(
        name="kv_cache_no_blocks",
        meaning="No memory is left for a single block of KV cache.",
        remedy=f"Weights and activations already fill vLLM's share: {_ROOM}, or take a smaller or "
        "more strongly quantised model.",
        remedies={"cpu": _ON_A_CPU},
        constraint="kv_cache_gib",
        told_by=("prediction", "log"),
    ),
    _infeasible(
        name="kv_cache_too_small",
        meaning="The KV cache cannot hold one request of the longest length.",
        remedy=f"Lower --max-model-len{{to_length}}, or give the KV cache more room: {_ROOM}, or "
        "use --kv-cache-dtype fp8.",
        constraint="kv_cache_gib",
        told_by=("prediction", "log"),
    ),
    _infeasible(
        name="gpu_memory_insufficient_at_start",
        meaning="vLLM refuses to start: less is free than its share of the device.",
        remedy="Free memory held by other processes, or lower "
        "--gpu-memory-utilization{to_utilization}.",
        constraint="start_memory_gib",
        told_by=("prediction", "log"),
    ),
    _infeasible(
        name="device_memory",
        meaning="What vLLM needs beside its share, or the headroom, is not there.",
        remedy="Lower --gpu-memory-utilization, or choose a smaller Whisper model.",
        constraint="device_memory_gib",
        told_by=("prediction",),
    ),
    _out_of_memory(
        name="cuda_oom_load",
        meaning="Out of memory while the weights were loaded.",
        remedy="The weights do not fit into what is free: use a smaller or more strongly "
        "quantised model, more GPUs (--tensor-parallel-size), or free what other processes hold.",
        remedies={"whisper": _FOR_WHISPER},
    ),
    _out_of_memory(
        name="cuda_oom_profile",
        meaning="Out of memory while vLLM tried its largest step.",
        remedy="The start needs more than was left beside the weights: lower --max-num-seqs and "
        "--max-num-batched-tokens, or lower --gpu-memory-utilization.",
    ),
    _out_of_memory(
        name="cuda_oom_cudagraph",
        meaning="Out of memory while CUDA graphs were captured.",
        remedy="Capturing CUDA graphs needs memory beside the KV cache: lower "
        "--gpu-memory-utilization or --max-num-seqs, capture fewer sizes, or use --enforce-eager.",
    ),
    _out_of_memory(
        name="cuda_oom_serving",
        meaning="Out of memory while requests were served; Whisper says so and lives on.",
        remedy="Leave more memory beside the KV cache: lower --gpu-memory-utilization or "
        "--max-num-batched-tokens, and look for neighbours that grew.",
        remedies={"whisper": _FOR_WHISPER},
        told_by=("log", "trial"),
    ),
    _out_of_memory(
        name="host_oom",
        meaning="The kernel killed it for the machine's memory.",
        remedies={
            "whisper": "The host ran out of memory, not the GPU: give the machine or the container "
            "more, take a smaller model, or stop other processes."
        },
        remedy="The host ran out of memory, not the GPU: give the machine or the container more, "
        "lower --swap-space and parallel builds (MAX_JOBS), or stop other processes.",
    ),
    _infeasible(
        name="cpu_fallback",
        meaning="Whisper computes, or vLLM keeps its KV cache, elsewhere than on the device.",
        remedy="Give vLLM an engine that is built for this device.",
        remedies={"whisper": _ITS_TORCH, "faster-whisper": _ITS_CTRANSLATE2},
        constraint="placement_gib",
        told_by=("log", "trial"),
    ),
    _infeasible(
        name="start_refused",
        meaning="This card or version does not take an option or value that varies: the line names "
        "it, or the server started with another.",
        remedy="Leave it out of the search space, or bind it to others with `when`.",
        constraint="start_refused",
        told_by=("trial",),
    ),
    _infeasible(
        name="over_time_budget",
        meaning="The trial took too long.",
        remedy="Give a trial more time, or shorten its load.",
        constraint="time_budget_s",
        told_by=("trial",),
    ),
    _infeasible(
        name="requests_failed",
        meaning="Too many requests got no answer: the latencies would be the survivors'.",
        remedy="Give the server that fails more room, or offer less load.",
        constraint="failed_share",
        told_by=("trial",),
    ),
    _infeasible(
        name="slo_missed",
        meaning="A hard limit was missed.",
        remedy="Offer less load, or relax the limit.",
        constraint="slo_*",
        told_by=("trial",),
    ),
    Cause(
        name="memory_profiling_race",
        meaning="Memory moved while vLLM measured how much there is. It is started once more "
        "before the trial fails.",
        remedy="Another process released memory while vLLM measured it: start the servers one "
        "after another, and vLLM last.",
        told_by=("log", "trial"),
    ),
    _survivable(
        name="unsupported_gpu",
        meaning="The card is too old, or the build is not for it.",
        remedies={
            "whisper": "This GPU, or this build for it, cannot run what was asked: compute in "
            "float32, or take a torch (or CTranslate2) that is built for this card."
        },
        remedy="This GPU, or this build for it, cannot run what was asked: use --dtype half on "
        "cards before Ampere, another quantisation or attention backend, or a build for this card.",
    ),
    _survivable(
        name="cuda_init",
        meaning="CUDA did not come up.",
        remedy="CUDA does not start: check `nvidia-smi`, the driver's version against the build's "
        "CUDA, the container's GPU option and CUDA_VISIBLE_DEVICES.",
    ),
    _survivable(
        name="nccl_or_dist",
        meaning="The processes of one model do not find each other, or share too little memory.",
        remedy="The ranks cannot reach each other: check the number of GPUs, /dev/shm, the network "
        "interface (NCCL_SOCKET_IFNAME, VLLM_HOST_IP), and run with NCCL_DEBUG=INFO.",
    ),
    _survivable(
        name="model_not_found_or_auth",
        meaning="The model is not there, or may not be read.",
        remedies={
            "faster-whisper": "Check the model's size or path, that its folder has all the files "
            "of a CTranslate2 model, and that the hub can be reached.",
            "whisper": "Check the model's name or path, that its file is whole, and that the "
            "network lets it be downloaded.",
        },
        remedy="Check the model's name or path, that all its files are there, and HF_TOKEN and the "
        "access to a gated repository.",
    ),
    _survivable(
        name="bad_argument",
        meaning="An option is unknown, or its value is not allowed.",
        remedies={"whisper": "Correct the argument that the line names."},
        remedy="Correct the argument that the line names; `vllm serve --help` lists what this "
        "version takes.",
    ),
    _survivable(
        name="unsupported_quantization_or_arch",
        meaning="This version cannot read this checkpoint.",
        remedies={
            "whisper": "This version cannot read this checkpoint: take a newer one, or convert the "
            "model for it."
        },
        remedy="This version of vLLM cannot read this checkpoint: take a newer vLLM and "
        "transformers, or another quantisation or model.",
    ),
    _survivable(
        name="build_tools",
        meaning="A compiler, a header or the CUDA toolkit that kernels are built with is missing, "
        "or too old.",
        remedy="Kernels are compiled as the server starts: install what the line names (a C++ "
        "compiler, Python's headers, ninja, a CUDA toolkit that knows the card), and set CC and "
        "CUDA_HOME where it is not in its usual place.",
    ),
    _survivable(
        name="environment",
        meaning="The disk, the rights, the user or the installation, not the server.",
        remedy="The machine or the installation is at fault, not the server's settings: see to "
        "what the line names (disk space, rights, the user, a package that does not fit the "
        "others).",
    ),
    Cause(
        name="port_in_use",
        meaning="Somebody else listens there. A trial takes another port, twice.",
        remedy="Stop what listens on the port{port}, or take another one (--port).",
    ),
    Cause(
        name="cuda_illegal_access",
        meaning="A kernel read or wrote where it must not.",
        remedies={
            "whisper": "A kernel read or wrote where it must not: repeat with "
            "CUDA_LAUNCH_BLOCKING=1, and try another torch (or CTranslate2) or float32."
        },
        remedy="A kernel read or wrote where it must not: repeat with CUDA_LAUNCH_BLOCKING=1 and "
        "--enforce-eager, try another attention backend or version.",
    ),
    _survivable(
        name="timeout_hang",
        meaning="No answer in time.",
        remedy="A process waits for another that does not answer: look at what the workers did "
        "last (a lock, a compilation, a stuck collective), and repeat.",
        told_by=("log", "trial"),
    ),
    Cause(
        name="engine_dead_other",
        meaning="The engine died of something else.",
        remedy="The engine died of something that is not in this list: read the traceback that the "
        "line belongs to.",
    ),
    Cause(
        name="unknown",
        meaning="No line tells.",
        remedies={
            "whisper": "Nothing here names a cause: look for the server's own output above, or "
            "repeat with its log at DEBUG."
        },
        remedy="Nothing here names a cause: look for the engine's own output above, or repeat with "
        "VLLM_LOGGING_LEVEL=DEBUG.",
    ),
    Cause(
        name="bench",
        meaning="Something that a trial needs is not there: an engine, a neighbour, disk space.",
        remedy="Read the message; it names what.",
        told_by=("trial",),
    ),
    Cause(
        name="bug",
        meaning="The program did something wrong, and the command ends.",
        remedy="Report it, with the message.",
        told_by=("trial",),
    ),
    Cause(
        name="device_fault",
        meaning="The driver reported a fault of the card: an XID, or that it is lost.",
        remedy="Look for the XID's number in NVIDIA's documentation; a lost card needs a restart.",
        fault="machine",
        told_by=("trial",),
    ),
    _harmless(
        name="ok",
        meaning="Nothing went wrong: it serves, or it ended because it was told to.",
        remedy="Nothing to do.",
    ),
    _harmless(
        name="preemption_warning",
        meaning="It works, and computed some requests twice.",
        remedy=f"Requests were computed twice because the KV cache was full: {_ROOM}.",
    ),
    _harmless(
        name="interrupted",
        meaning="Ctrl-C, or the end of a session.",
        remedy="Run the same command again; the point is measured again.",
        told_by=("trial",),
    ),
)

CAUSES: Mapping[str, Cause] = MappingProxyType({row.name: row for row in _ROWS})
"""Every cause by its name; docs/constraints-and-causes.md is made of it."""

REFUSALS = frozenset({"bad_argument", "unsupported_gpu", "unsupported_quantization_or_arch"})
"""Causes of a server that does not take what it was given; where that varies: `start_refused`."""

APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})
"""XIDs that a faulty program raises on a sound device.

Source: NVIDIA's k8s-device-plugin, the XIDs that it ignores when it judges a device's health.
"""
