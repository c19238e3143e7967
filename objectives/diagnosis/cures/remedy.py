"""What to change, where the line that names a cause says more than the cause does.

A cause has one remedy; a line of it may name its own: an option, a package, a service. Cures stand
below their cause, the more special first. They know whose log it is, for an option of one server
means nothing to another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from objectives.causes import cause_named, remedy_of
from objectives.diagnosis.cures.of_device import OF_DEVICE
from objectives.diagnosis.cures.of_start import OF_START

_SERVERS = re.compile(
    r"(?P<vllm>\bvllm/(?:v1|engine|platforms|worker|entrypoints|model_executor|config|executor"
    r"|distributed|transformers_utils|core|compilation|utils|\w+\.py)|vLLM (?:API )?server version"
    r"|LLM engine \(v|\bEngine ?[Cc]ore|\bvllm serve\b"
    r"|\b(?:INFO|WARNING|ERROR) \d\d-\d\d \d\d:\d\d:\d\d )"
    r"|(?P<faster>faster[_-]whisper|whisperx|whisper-ctranslate2|ctranslate2|failed with status cu"
    r"|CUDA failed with error|compute type, but the target|libcudnn_ops|CTranslate2)"
    r"|(?P<whisper>\bwhisper[/.]|openai-whisper|FP16 is not supported on CPU)",
    re.IGNORECASE,
)
_KINDS = {"vllm": ("vllm",), "faster": ("faster-whisper", "whisper"), "whisper": ("whisper",)}


FALLS_BACK = frozenset({"faster", "whisper"})
"""Servers that go on, on the CPU, where CUDA does not come up."""


def server_of(text: str, known: str) -> str:
    """Whose line it is, or `known` where it tells no more: vLLM's words outdo all others'."""
    if known == "vllm":
        return known
    found = {match.lastgroup for match in _SERVERS.finditer(text)}
    return next((name for name in _KINDS if name in found or name == known), "")


def kinds_of(server: str) -> tuple[str, ...]:
    """The kinds by which `Cause.remedies` knows a server, the most special first."""
    return _KINDS.get(server, ())


_CURES = {**OF_DEVICE, **OF_START}
_SILENT = (
    "It stopped without a word{at_phase}, if it does not still run: mostly the kernel's "
    "out-of-memory killer (`dmesg -T | grep -i oom`, `docker inspect` for OOMKilled), or a stop "
    "from outside (a supervisor, a time limit). Repeat, and watch the host's memory."
)
_BARE = (
    "{exception} says no more than where it was raised: in {function} ({place}). Look for that "
    "function in the issues of this version, and try the version before or after it."
)
_NAMED = re.compile(
    r"(?<![\w-])--[a-z][a-z0-9]*(?:-[a-z0-9]+)+|\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+=[\w.:/-]+"
    r"|\bpip install [^`'\"\s][^`'\".;,)]*"
)


def remedy_for(
    cause: str, evidence: str, figures: Mapping[str, float | int | str], *kinds: str
) -> str:
    """What to change: what the line itself names, else what helps against the cause.

    Args:
        cause: The cause's name.
        evidence: The telling line, or in words what else tells the cause.
        figures: What the line prints; `phase` of a start that a silent death cut short.
        kinds: Of the server or the device, as `Cause.remedies` has them.
    """
    known = _Figures({key: value for key, value in figures.items() if value != ""})
    if cause_named(cause).is_oom:  # PyTorch prints the same advice with each
        return remedy_of(cause, figures, *kinds)
    for cure in _CURES.get(cause, ()):
        if cure.pattern.search(evidence):
            words = next((cure.others[kind] for kind in kinds if kind in cure.others), cure.words)
            return words.format_map(known)
    if cause == "engine_dead_other" and ("function" in figures or "phase" in figures):
        return (_BARE if "function" in figures else _SILENT).format_map(known)
    named = list(dict.fromkeys(_NAMED.findall(evidence)))
    words = remedy_of(cause, figures, *kinds)
    left = [f"`{name.strip()}`" for name in named if name not in words]
    return f"{words} The line itself names {', '.join(left[:3])}." if left else words


class _Figures(dict[str, float | int | str]):
    """Figures as words of a cure; one that the line does not print leaves no gap."""

    def __missing__(self, key: str) -> str:
        if key == "at_phase" and "phase" in self:
            return f" at {self['phase']}"
        if key == "at_least" and "needed_cuda" in self:
            return f" {self['needed_cuda']} or newer"
        if key == "to_derived" and "derived_max_model_len" in self:
            return f" to at most {self['derived_max_model_len']}"
        return _UNSAID.get(key, "")


_UNSAID = {
    "condition": "a newer CUDA",
    "status": "A library's status",
    "dtype": "that type",
    "header": "that the line names",
    "library": "the library that the line names",
    "module": "NAME",
    "gpus": "the number of GPUs",
    "max_model_len": "--max-model-len",
    "lora_rank": "to the adapter's rank",
    "mamba_blocks": "the number of blocks",
    "exception": "The exception",
}
