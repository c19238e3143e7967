"""Which lines of a log are worth reading: cheap tests before every rule.

A busy server writes hundreds of megabytes of requests and rates. Whether a short string is in a
line costs some 40 ns, a rule some microseconds; so nearly all lines are turned away here. The
chains of `or` are written out because `any()` over a tuple takes twice as long.
"""

from __future__ import annotations

from collections.abc import Callable

Wanted = Callable[[str], bool]
"""Whether a line must be read, in one state of a run."""


def every_line(line: str) -> bool:
    """Something stalls: the next sign of life may be any line."""
    return bool(line)


def wanted_of_a_start(line: str) -> bool:
    """Before a server serves, progress counts too."""
    return (
        _matters(line)
        or "```" in line
        or " took " in line
        or "KV cache" in line
        or "blocks:" in line
        or "Capturing" in line
        or "Starting to load" in line
        or "from scratch" in line
        or "shards" in line
        or "throughput:" in line
        or '" 200' in line
        or "Uvicorn running" in line
        or "Processed prompts" in line
        or "graph memory" in line
    )


def wanted_of_a_server(line: str) -> bool:
    """All but what a serving server says all day: rates, answered requests, progress bars."""
    if "throughput:" in line:
        return "reempt" in line
    if '" 2' in line and " HTTP/1." in line:
        return False
    if "it/s]" in line and "\r" not in line:
        return False
    return "Received request " not in line and _matters(line)


def wanted_of_the_settled(line: str) -> bool:
    """Once it is known how a run ended, only the next one's first words count."""
    return "ersion" in line or "LLM engine" in line or "startup complete" in line


def _matters(line: str) -> bool:
    if "INFO" in line and ("INFO 0" in line or "INFO 1" in line or "INFO:" in line):
        return (
            "rror" in line
            or "RROR" in line
            or "emory" in line
            or "illed" in line
            or "oom" in line
            or "OOM" in line
            or "hut" in line
            or "SIG" in line
            or "ignal" in line
            or "nterrupt" in line
            or "broadcast" in line
            or "baton" in line
            or "ersion" in line
            or "LLM engine" in line
            or "reempt" in line
            or "lacement" in line
            or "xception" in line
            or "startup" in line
            or "Xid" in line
            or "# " in line
            or "eager" in line
        )
    return (
        "rror" in line
        or "RROR" in line
        or "xception" in line
        or "raceback" in line
        or '", line ' in line
        or "emory" in line
        or "illed" in line
        or "oom" in line
        or "OOM" in line
        or "ailed" in line
        or "imed out" in line
        or "imeout" in line
        or "NCCL" in line
        or "Xid" in line
        or "died" in line
        or "fault" in line
        or "ignal" in line
        or "SIG" in line
        or "core dumped" in line
        or "reempt" in line
        or "apabilit" in line
        or "hut" in line
        or "nterrupt" in line
        or "ptxas" in line
        or "lready" in line
        or "max seq len" in line
        or "baton" in line
        or "broadcast" in line
        or "137" in line
    )
