"""What vLLM, CUDA, the kernel and their neighbours write when a server fails, by cause.

A rule is a wording, not a version: where a sentence changed between vLLM 0.4 and 0.33 its pattern
covers all of its forms. Named groups of a pattern are the figures of a diagnosis, by the unit that
the line prints; a diagnosis has them in bytes and seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from objectives.units import GIB

_BYTES_OF = {"gib": GIB, "kib": 1 << 10}
_BYTES_FROM = 1e9  # what is said to be so many GiB are bytes: vLLM before 0.9 printed them

_SHAPE = str.maketrans("123456789", "000000000")
_SHAPE_MOST = 512  # characters of a line whose shape is remembered
_SHAPES = 2_048

QUIET_LEVELS = frozenset({"DEBUG", "INFO", "WARNING"})


class Rank(IntEnum):
    """How much a line weighs; of several the lowest wins, and among equals the first line."""

    DECISIVE = 0  # vLLM's own refusal, always the end of the process that says it
    STRONG = 1  # an error that names a cause
    WEAK = 2  # a cause by implication
    OUTER = 3  # what a shell or a script around the server said


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One wording of one cause.

    Attributes:
        cause: Of `objectives.causes.CAUSES`.
        hints: Lower-case parts; a line with none of them is not searched.
        pattern: What the line must hold.
        rank: How much it weighs.
        start_only: Whether it means nothing once the server answers requests.
        quiet: Whether it counts at level INFO and WARNING, too.
    """

    cause: str
    hints: tuple[str, ...]
    pattern: re.Pattern[str]
    rank: Rank = Rank.STRONG
    start_only: bool = False
    quiet: bool = False


def rules(
    cause: str,
    *wordings: tuple[str, str],
    rank: Rank = Rank.STRONG,
    start_only: bool = False,
    quiet: bool = False,
) -> tuple[Rule, ...]:
    """Rules of one cause, by pairs of hints, parted by "|", and a pattern.

    Case matters in neither; what else is given holds for all of them.
    """
    return tuple(
        Rule(
            cause=cause,
            hints=tuple(hints.lower().split("|")),
            pattern=re.compile(pattern, re.IGNORECASE | re.DOTALL),
            rank=rank,
            start_only=start_only,
            quiet=quiet,
        )
        for hints, pattern in wordings
    )


_N = r"-?\d+(?:\.\d+)?"
_FREE = rf"\((?P<free_gib>{_N})/(?P<total_gib>{_N}) ?Gi?B\)"
_BUDGET = rf"\((?P<utilization>{_N}),? (?P<requested_gib>{_N}) ?Gi?B\)"

REFUSALS = (
    *rules(
        "kv_cache_no_blocks",
        ("no available memory for the", r"No available memory for the cache blocks"),
        (
            "less than requested memory for kv",
            rf"Available memory on node (?P<node>\S+) {_FREE} on kv cache allocation is less than"
            rf" requested memory for kv \((?P<left_gib>{_N})(?:/(?P<budget_gib>{_N}))?"
            r" ?GiB\)",
        ),
        (
            "externally held weights",
            rf"Externally held weights on device (?P<device>\S+) \((?P<external_gib>{_N})/"
            rf"(?P<total_gib>{_N}) GiB\) exceed the desired GPU memory utilization"
            rf" \((?P<utilization>{_N}),? (?P<budget_gib>{_N}) ?GiB\)",
        ),
        rank=Rank.DECISIVE,
    ),
    *rules(
        "kv_cache_too_small",
        (
            "max seq len",
            r"max seq len \((?P<max_model_len>\d+)\)[,.]? *\(?(?P<needed_gib>\d+(?:\.\d+)?) ?Gi?B"
            r" KV cache is needed.{0,80}?KV cache memory \((?P<available_gib>\d+(?:\.\d+)?) ?Gi?B\)"
            r"(?:.{0,80}?estimated maximum model length is (?P<estimated_max_model_len>\d+))?",
        ),
        (
            "max seq len",
            r"max seq len \((?P<max_model_len>\d+)\) is larger than the maximum number of tokens"
            r" that can be stored in (?:the )?KV cache \((?P<kv_cache_tokens>\d+)\)",
        ),
        (
            "exceeds available mamba cache blocks",
            r"max_num_seqs \((?P<max_num_seqs>\d+)\) exceeds available Mamba cache blocks"
            r" \((?P<mamba_blocks>\d+)\)",
        ),
        rank=Rank.DECISIVE,
    ),
    *rules(
        "gpu_memory_insufficient_at_start",
        (
            "free memory on device",
            rf"Free memory on device(?: (?P<device>\S+))? {_FREE} on startup is less than"
            rf"(?:.{{0,120}}?{_BUDGET})?",
        ),
        (
            "on startup is less than desired cpu",
            rf"Available memory on node (?P<node>\S+) {_FREE} on startup is less than desired CPU"
            rf" memory utilization(?: {_BUDGET})?",
        ),
        rank=Rank.DECISIVE,
    ),
    *rules(
        "memory_profiling_race",
        (
            "error in memory profiling",
            rf"Error in memory profiling(?:.{{0,20}}?Initial free memory:? (?P<initial_free_gib>"
            rf"{_N})(?: GiB)?,.{{0,20}}?free memory:? (?P<current_free_gib>{_N}))?",
        ),
        rank=Rank.DECISIVE,
    ),
)
"""vLLM's own refusals to start for want of memory, and the CPU backend's."""

SIZES = (
    *rules(
        "kv_cache_too_small",
        (
            "kv cache is needed",
            rf"(?P<needed_gib>{_N}) ?Gi?B KV cache is needed.{{0,60}}?larger than the available KV"
            rf" cache memory \((?P<available_gib>{_N}) ?Gi?B\)",
        ),
        ("larger than the available kv", r"larger than the available KV cache memory"),
        ("tokens that can be stored in", r"larger than the maximum number of tokens that can be"),
        rank=Rank.WEAK,
    ),
    *rules(
        "gpu_memory_insufficient_at_start",
        ("less than desired", r"less than desired (?:GPU|CPU) memory utilization"),
        rank=Rank.WEAK,
    ),
    *rules(
        "kv_cache_no_blocks",
        ("kv cache memory: -", rf"Available KV cache memory: (?P<available_gib>-{_N}) ?GiB"),
        ("blocks: 0, # cpu blocks", r"# \w+ blocks: (?P<gpu_blocks>0), # CPU blocks"),
        (
            "for kv cache is -",
            rf"the rest of the memory reserved for KV Cache is (?P<available_gib>-{_N}) ?GiB",
        ),
        rank=Rank.WEAK,
        quiet=True,
    ),
)
"""Parts of refusals, and healthy lines of a start whose figures leave no room."""

_OOM = (
    r"\b(?:CUDA|HIP|XPU|NPU|MPS) out of memory|(?:CUDA|HIP)(?: driver)? error:? out of memory"
    r"|\bOutOfMemoryError\b|cudaErrorMemoryAllocation|(?:CUDA|hip)_?ERROR_?OUT_?OF_?MEMORY"
    r"|Cuda failure (?:\d+ )?'out of memory'|STATUS_ALLOC_FAILED|OUT_OF_DEVICE_MEMORY"
    r"|cudaMalloc.{0,30}out of memory"
)
OUT_OF_DEVICE_MEMORY = re.compile(
    rf"(?:{_OOM})(?:.{{0,80}}?Tried to allocate (?P<tried>\d+(?:\.\d+)? ?[KMG]i?B))?"
    r"(?:.{0,80}?total capacity of (?P<total>\d+(?:\.\d+)? ?[KMG]i?B)"
    r" of which (?P<free>\d+(?:\.\d+)? ?[KMG]i?B) is free)?"
    r"(?:.{0,240}?this process has (?P<own>\d+(?:\.\d+)? ?[KMG]i?B) memory in use)?",
    re.IGNORECASE | re.DOTALL,
)
"""An allocation that a device refused; its phase tells the cause (`diagnosis_oom`)."""
OUT_OF_DEVICE_MEMORY_HINTS = ("out of memory", "outofmemory", "out_of_", "alloc_failed", "memoryal")

HOST = (
    *rules(
        "host_oom",
        (
            "killed process",
            r"Out of memory:? Kill(?:ed)? process (?P<pid>\d+) \((?P<process>[^)]*)\)"
            r"(?:.{0,120}?anon-rss:(?P<anon_rss_kib>\d+)kB)?",
        ),
        ("invoked oom-killer", r"(?P<process>\S+) invoked oom-killer"),
        ("oom_reaper: reaped", r"oom_reaper: reaped process (?P<pid>\d+) \((?P<process>[^)]*)\)"),
        ("oom-kill:", r"oom-kill:constraint=(?P<constraint>\w+)"),
        ("oomkilled", r"\bOOMKilled\b(?!\W{0,3}(?:=|:)?\W{0,3}false)"),
        ("oom_kill event", r"Detected (?P<oom_kills>\d+) oom[_-]kill event"),
        ("out of memory", r"^error: \S+: task \S+: Out Of Memory|: Out Of Memory$"),
        ("memory cgroup out of memory", r"Memory cgroup out of memory"),
        ("due to memory pressure", r"(?P<workers>[1-9]\d*) Workers? .{0,40}killed due to memory"),
        ("running low on memory", r"(?:killed|due to).{0,60}node running low on memory"),
        (
            "memory on the node",
            r"Memory on the node .{0,400}?was (?P<used_gib>\d+(?:\.\d+)?) ?G(?:i)?B ?/"
            r" ?(?P<total_gib>\d+(?:\.\d+)?) ?G(?:i)?B.{0,80}exceeds the memory usage threshold",
        ),
        (
            "allocate memory",
            r"DefaultCPUAllocator: .{0,40}(?:can't|not enough|cannot).{0,20}memory",
        ),
        (
            "cannot allocate memory",
            r"\[Errno 12\] Cannot|error code 12 \(Cannot|allocate memory \(12\)",
        ),
        (
            "bad_alloc|memoryerror",
            r"\bstd::bad_alloc\b|(?:^|[. ])(?:MemoryError|ArrayMemoryError)\b",
        ),
        ("killed by signal", r"worker \(pid\S* (?P<pid>\d+)\) is killed by signal: Killed"),
        ("signal", r"Killed signal terminated program|died due to signal 9|: Killed signal 9"),
    ),
    *rules(
        "host_oom",
        ("killed process|oom-kill", r"(?:Out of memory|oom).{0,12}Kill(?:ed)? process|oom-kill:"),
        ("memory pressure", r"(?P<workers>[1-9]\d*) Workers? .{0,40}killed due to memory pressure"),
        ("as a result of limit", r"killed as a result of limit of"),
        quiet=True,
    ),
    *rules(
        "host_oom",  # the shell's word for SIGKILL; without another reason, mostly the kernel's
        ("killed", r"(?:^|\])Killed$|: line \d+: +(?P<pid>\d+) Killed\b"),
        ("oom", r"\bOOM[- ]killer|\bsystemd-oomd\b|killed by the .{0,16}OOM|\b137\b.{0,20}\bOOM"),
        rank=Rank.OUTER,
    ),
)
"""The host's memory ran out: the kernel, a cgroup, ray or an allocator says so."""


class RuleBook:
    """Rules to be tried in order of their rank, found by their hints.

    Looking for two hundred hints in a line takes longer than all else. Servers repeat themselves
    with other numbers, so which hints a line has is remembered by its shape: the line with every
    digit made a 0. Hints that hold digits are looked for each time.
    """

    def __init__(self, *tables: tuple[Rule, ...]) -> None:
        in_order = [rule for table in tables for rule in table]
        self._rules = sorted(in_order, key=lambda rule: rule.rank)  # stable within a rank
        places: dict[str, list[int]] = {}
        for place, rule in enumerate(self._rules):
            for hint in rule.hints:
                places.setdefault(hint, []).append(place)
        with_digits = {hint for hint in places if any(sign.isdigit() for sign in hint)}
        self._exact = tuple((hint, places[hint]) for hint in with_digits)
        self._other = tuple((h, found) for h, found in places.items() if h not in with_digits)
        self._of_shape: dict[str, frozenset[int]] = {}

    def candidates(self, lowered: str) -> list[Rule]:
        """The rules that have a hint in `lowered`, in order."""
        shape = lowered.translate(_SHAPE)
        known = self._of_shape.get(shape)
        if known is None:
            known = _places(self._other, lowered)
            if len(shape) <= _SHAPE_MOST and len(self._of_shape) < _SHAPES:
                self._of_shape[shape] = known
        found = known | _places(self._exact, lowered)
        return [self._rules[place] for place in sorted(found)] if found else []


def _places(hints: tuple[tuple[str, list[int]], ...], lowered: str) -> frozenset[int]:
    return frozenset({place for hint, places in hints if hint in lowered for place in places})


def figures_of(match: re.Match[str]) -> Iterator[tuple[str, float | int | str]]:
    """The named groups of a match: sizes in bytes, times in seconds, else as they are printed."""
    for name, text in match.groupdict().items():
        if text is None:
            continue
        stem, _, unit = name.rpartition("_")
        if scale := _BYTES_OF.get(unit):
            value = float(text)
            yield f"{stem}_bytes", round(value if value > _BYTES_FROM else value * scale)
        elif unit == "ms":
            yield f"{stem}_s", float(text) / 1_000
        elif re.fullmatch(r"-?\d+", text):
            yield name, int(text)
        elif re.fullmatch(r"-?\d+\.\d*", text):
            yield name, float(text)
        else:
            yield name, text
