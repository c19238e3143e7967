"""Whose fault it was that a server ended: the candidate's, or the bench's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from objectives.causes import cause_named
from objectives.constraints import memory_excess_gib
from objectives.device import Device, XidWatch, device_faults, oom_kills
from objectives.diagnosis import DeviceEvidence, Diagnosis, Ended
from objectives.errors import (
    BenchError,
    EngineError,
    InfeasibleError,
    NotReadyError,
    OutOfMemoryError,
    PortInUseError,
    ProfilingRaceError,
    RefusedToStartError,
    ServerDiedError,
)
from objectives.vllm import lines_of

Diagnose = Callable[[Iterable[str], Ended | None, DeviceEvidence], Diagnosis]
"""What a server's log says about its end, with how it ended and what the machine saw."""

_ERRORS: dict[str, type[BenchError]] = {
    "port_in_use": PortInUseError,
    "memory_profiling_race": ProfilingRaceError,
    "unsupported_gpu": EngineError,
    "cuda_init": EngineError,
}
"""Causes whose error has a name of its own."""


class MachineWatch:
    """What the machine saw of a trial: XIDs of the device, kills for want of memory.

    Args:
        device: The device; its XIDs are watched by `watch`.
        watch: Entered before the first server starts.

    Attributes:
        fault: Why the device could not be asked, in the driver's words; None if it could.
    """

    def __init__(self, device: Device, watch: XidWatch) -> None:
        self._device = device
        self._watch = watch
        self._kills_before = oom_kills(device.root)
        self.fault: str | None = None

    def evidence(self) -> DeviceEvidence:
        """Until now. A device that no longer answers is a `fault`, and never an exception."""
        kills = oom_kills(self._device.root)
        new = 0 if kills is None or self._kills_before is None else kills - self._kills_before
        free_bytes = None
        try:
            self._watch.seen()
            free_bytes = self._device.read().free_bytes
        except BenchError as lost:
            self.fault = str(lost)
        return DeviceEvidence(xids=self._watch.xids, oom_kills=max(0, new), free_bytes=free_bytes)


def cause_of_end(
    error: ServerDiedError | NotReadyError,
    machine: MachineWatch,
    diagnose: Diagnose,
    *,
    serving: bool,
) -> InfeasibleError | BenchError:
    """What a server's end means for the trial.

    Args:
        error: How it was noticed.
        machine: What the machine saw.
        diagnose: Reads the server's log.
        serving: The server was under load, not starting.

    Returns:
        An `InfeasibleError` if its log or the machine names memory, else a `BenchError`.
    """
    evidence = machine.evidence()
    ended = Ended(returncode=error.returncode) if isinstance(error, ServerDiedError) else None
    found = diagnose(_lines(error.log), ended, evidence)
    words = [f"the device no longer answers: {machine.fault}"] if machine.fault else []
    if faults := device_faults(evidence.xids):
        words.insert(0, f"the device reported XID {', '.join(map(str, faults))}")
    if words:
        return BenchError(f"{error.server}: {'; '.join(words)}", cause="device_fault")
    if cause_named(found.cause).is_memory:
        return _memory(error.server, found, serving=serving)
    return _bench(error, found)


def _memory(server: str, found: Diagnosis, *, serving: bool) -> InfeasibleError:
    kind = OutOfMemoryError if serving else RefusedToStartError
    short_gib = memory_excess_gib(found.figures)
    return kind(
        found.cause,
        found.evidence or f"{server} ended for want of memory",
        remedy=found.remedy,
        excess={} if short_gib is None else {cause_named(found.cause).constraint: short_gib},
        figures=found.figures,
    )


def _bench(error: ServerDiedError | NotReadyError, found: Diagnosis) -> BenchError:
    said = f"{error}: {found.evidence.strip()}" if found.evidence else str(error)
    if found.cause in _ERRORS:
        return _ERRORS[found.cause](said, cause=found.cause)
    if isinstance(error, NotReadyError):
        return BenchError(said, cause="timeout_hang")
    return BenchError(said, cause=found.cause if found.is_failure else "bench")


def _lines(log: Path | None) -> Iterator[str]:
    """A log, line by line; none of it in memory twice."""
    if log is None or not log.exists():
        return
    with log.open("rb") as stream:
        yield from lines_of(stream)
