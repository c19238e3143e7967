"""What is the largest single allocation that the device still gives? Tells a lack from fragments.

A GPU maps pages, so a process that is new to it is given nearly all that is free in one piece, and
"no contiguous memory" is seldom why a server does not start. Here that is asked, not believed: a
short-lived process, with the driver's own API, right before the server that takes the most.
It never asks for the memory that must stay free, and it does not ask where that would disturb or
the answer would mean nothing; the reason is then what is kept.

What lies in pieces inside a process, in its own allocator, is not seen from outside and not told.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from objectives import workers
from objectives.device.discovery import Own, wait_for_memory
from objectives.device.state import Device, DeviceState
from objectives.units import GIB, MIB, gib

NOISE_BYTES = 128 * MIB
"""How much less than it asked for an allocation may get where nothing is in pieces: the page tables
of the allocation itself, granules of 2 MiB. An estimate: no source gives a figure."""

LEAST_FREE_BYTES = GIB
"""With less free beside what must stay so, the probe's own context is a burden to the tenants."""

QUIET_SHARE = 0.05
"""Share of time busy, 0 to 1, up to which nobody counts as being under load."""

_QUIET_S, _LOOK_S = 3.0, 0.1
_SEARCH_S, _ANSWER_S, _BACK_S = 5.0, 30.0, 10.0
_SILENT = "the driver did not answer in time"


@dataclass(frozen=True, kw_only=True)
class LargestAllocation:
    """What the device gave in one piece, beside all tenants that were up.

    Attributes:
        granted_bytes: The largest that was granted; None where nothing was asked, or not answered.
        refused_bytes: The least that was refused; None where all that was asked for was granted.
        asked_bytes: The largest that was asked for: what was free, less what must stay free.
        free_bytes: Free beside the asking process's own CUDA context.
        context_bytes: What that context took, as the device's free memory shows it.
        why_not: Why there is no figure; empty where there is one.
        before: The server that started next; empty where nobody said so.
    """

    granted_bytes: int | None = None
    refused_bytes: int | None = None
    asked_bytes: int | None = None
    free_bytes: int | None = None
    context_bytes: int | None = None
    why_not: str = ""
    before: str = ""

    @property
    def is_fragmented(self) -> bool | None:
        """Whether free memory lies in pieces; None where that is not known."""
        if self.granted_bytes is None or self.asked_bytes is None:
            return None
        if self.refused_bytes is None or self.asked_bytes - self.granted_bytes <= NOISE_BYTES:
            return False
        # A search that ran out of time knows only that more than this is refused.
        return True if self.asked_bytes - self.refused_bytes >= NOISE_BYTES else None


def largest_allocation(device: Device, *, leave_bytes: int) -> LargestAllocation:
    """Ask the device, and wait until it has its memory back.

    Args:
        device: Everybody who starts before the server in question is up on it.
        leave_bytes: What must stay free, at every moment.

    Raises:
        BenchError: The device no longer answers.
    """
    if reason := _disturbs(device, leave_bytes):
        return LargestAllocation(why_not=reason)
    before = device.read()
    answer = _ask(device, leave_bytes)
    # The probe is gone: what is not back, somebody else took.
    taken = wait_for_memory(device, before, Own(), tolerance_bytes=NOISE_BYTES, deadline_s=_BACK_S)
    if taken is not None:
        return LargestAllocation(why_not=f"others took memory while it was asked for: {taken}")
    return answer if isinstance(answer, LargestAllocation) else _told(answer, before, device.uuid)


def _disturbs(device: Device, leave_bytes: int) -> str:
    """Why not to ask; empty where nothing speaks against it."""
    if device.kind == "cpu":
        return (
            "not told on a CPU: the kernel grants address space that it has no memory for, and"
            " pages need not lie side by side"
        )
    about = device.describe()
    if about.get("wsl"):
        return "not asked under WSL2: its driver grants what does not fit, and pages to the host"
    if about.get("compute_mode") not in (None, "default"):
        return f"not asked: compute mode {about['compute_mode']} lets no other process in"
    if about.get("mig"):
        return "not asked: the device is split by MIG"
    free = device.read().free_bytes
    if free < LEAST_FREE_BYTES + leave_bytes:
        return f"not asked: only {gib(free)} are free, and asking takes a CUDA context of its own"
    return _load(device)


def _load(device: Device) -> str:
    """Who would be disturbed now; empty once nobody is under load."""
    deadline = time.monotonic() + _QUIET_S
    while True:
        share = device.activity().utilisation
        if share is None:
            return "not asked: the driver does not tell whether another tenant is under load"
        if share <= QUIET_SHARE:
            return ""
        if time.monotonic() >= deadline:
            return f"not asked: another tenant is under load, the device is {share:.0%} busy"
        time.sleep(_LOOK_S)


def _ask(device: Device, leave_bytes: int) -> Mapping[str, Any] | LargestAllocation:
    """What the worker prints; the reason where it prints nothing."""
    worker = (sys.executable, "-I", "-S", str(workers.LARGEST_ALLOCATION))
    try:
        done = subprocess.run(
            (*worker, "--leave-bytes", str(leave_bytes), "--search-s", str(_SEARCH_S)),
            env={**os.environ, **device.environment()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ANSWER_S,
            check=False,
        )
        answer: Mapping[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return LargestAllocation(why_not=_SILENT)
    except json.JSONDecodeError:
        last = done.stderr.strip().rpartition("\n")[2]
        return LargestAllocation(why_not=last or _SILENT)
    return answer


def _told(answer: Mapping[str, Any], before: DeviceState, uuid: str) -> LargestAllocation:
    """The figure, if it is of this device and nobody else moved meanwhile."""
    if answer["uuid"] != uuid:
        return LargestAllocation(why_not=f"the probe was shown {answer['uuid']}, not {uuid}")
    free, moved = answer["free_bytes"], abs(answer["free_after"] - answer["free_bytes"])
    if moved > NOISE_BYTES:
        return LargestAllocation(why_not=f"others moved {gib(moved)} while it was asked for")
    return LargestAllocation(
        granted_bytes=answer["granted_bytes"],
        refused_bytes=answer["refused_bytes"],
        asked_bytes=answer["asked_bytes"],
        free_bytes=free,
        context_bytes=before.free_bytes - free if free <= before.free_bytes else None,
    )
