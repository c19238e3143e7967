"""Why a trial ended without a measurement.

ServingError
├── InfeasibleError            the candidate is at fault     -> the trial is PRUNED
│   ├── OutOfBoundsError       outside the hard bounds of the space
│   ├── DoesNotFitError        predicted not to fit; nothing was launched
│   ├── RefusedToStartError    a server refused to start, for memory
│   ├── OutOfMemoryError       a server ran out of memory under load
│   ├── RefusedSettingError    an option or value that this card or version does not take
│   ├── WrongDeviceError       a server runs on another device than it was given
│   ├── OverBudgetError        the trial ran over its time budget
│   └── SloMissedError         a hard service-level objective was missed
└── BenchError                 the bench is at fault         -> the trial FAILs, and is retried
    ├── ServerDiedError        a server left while it was needed, and memory is not the reason
    ├── NotReadyError          no healthy answer before the deadline
    ├── PortInUseError         somebody else listens there
    ├── EngineError            no interpreter that can run the server on the device
    ├── NeighbourError         a neighbour that must be present is not, or left during the trial
    ├── ProfilingRaceError     two servers profiled memory into each other
    └── DeviceBusyError        the device is locked by another study
        └── OrphanError        memory is not back, or a process lives on: stop the bench

`UsageError` stands apart: a person's input is wrong, and the command ends with exit code 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from objectives.causes import remedy_of


class ServingError(Exception):
    """A trial that ended without a measurement."""


class InfeasibleError(ServingError):
    """The candidate cannot work here.

    Attributes:
        cause: Of `objectives.causes.CAUSES`.
        evidence: The line that says so: of a log, of a device reading, of the arithmetic.
        remedy: What to change, in one sentence; that of the table unless another is given.
        excess: Constraint name to its excess, > 0; only those that this error knows better
            than the prediction does.
        predicted: True where nothing was launched to find this out.
        figures: What the evidence prints, by names that carry units.
    """

    def __init__(
        self,
        cause: str,
        evidence: str,
        *,
        remedy: str | None = None,
        excess: Mapping[str, float] | None = None,
        predicted: bool = False,
        figures: Mapping[str, float | int | str] | None = None,
    ) -> None:
        super().__init__(f"{cause}: {evidence}")
        self.cause = cause
        self.evidence = evidence
        self.remedy = remedy_of(cause, figures or {}) if remedy is None else remedy
        self.excess = dict(excess or {})
        self.predicted = predicted
        self.figures = dict(figures or {})


class OutOfBoundsError(InfeasibleError):
    """A parameter lies outside the hard bounds of the space."""


class DoesNotFitError(InfeasibleError):
    """Predicted to exceed what the device has, by more than the prediction's margin."""


class RefusedToStartError(InfeasibleError):
    """A server refused to start, and its log names memory as the reason."""


class OutOfMemoryError(InfeasibleError):
    """A server ran out of memory while it served."""


class RefusedSettingError(InfeasibleError):
    """A server does not take an option or value that varies, on this card or in this version."""


class WrongDeviceError(InfeasibleError):
    """A server computes on another device than the candidate gave it."""


class OverBudgetError(InfeasibleError):
    """The trial took longer than its budget."""


class SloMissedError(InfeasibleError):
    """A hard service-level objective was missed."""


class BenchError(ServingError):
    """The bench broke; the candidate is not to blame.

    Attributes:
        cause: Of `objectives.causes.CAUSES`; "bench" where nothing tells more.
    """

    def __init__(self, message: str, *, cause: str = "bench") -> None:
        super().__init__(message)
        self.cause = cause


class ServerDiedError(BenchError):
    """A server left while it was needed.

    `returncode` is as `subprocess` gives it: negative for a signal, None if it is unknown.
    """

    def __init__(
        self, server: str, *, log: Path | None, returncode: int | None, cause: str = "bench"
    ) -> None:
        if returncode is None:
            how = "is gone"
        elif returncode < 0:
            how = f"was ended by signal {-returncode}"
        else:
            how = f"exited with {returncode}"
        super().__init__(f"{server} {how}", cause=cause)
        self.server = server
        self.log = log
        self.returncode = returncode


class NotReadyError(BenchError):
    """No healthy answer before the deadline."""

    def __init__(self, server: str, *, log: Path | None, waited_s: float) -> None:
        super().__init__(f"{server} was not healthy after {waited_s:.0f} s", cause="timeout_hang")
        self.server = server
        self.log = log
        self.waited_s = waited_s


class PortInUseError(BenchError):
    """Somebody else listens on the server's port."""


class EngineError(BenchError):
    """No interpreter that can run the server, or one that cannot use the device."""


class NeighbourError(BenchError):
    """A neighbour that must be present is not, or left during the trial."""


class ProfilingRaceError(BenchError):
    """Memory moved while a server profiled it: the size of its cache is not the candidate's."""


class DeviceBusyError(BenchError):
    """The device is held by another study."""


class OrphanError(DeviceBusyError):
    """After a trial, a process of it lives on or its memory is not back: the bench must stop."""


class UsageError(Exception):
    """A person's input is wrong; one line says what was found and what is allowed."""
