"""What a trial needs of a tuned server, whatever it serves: the contract of a kind.

A new kind is a file with a subclass, its name in `objectives.space.SERVERS`, and an entry where a
configuration becomes a bench (`study.config`, `study.setup`). A trial, and whatever reads one, goes
over the servers of its study and does not know which kinds there are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from objectives.candidate import ServerSettings
from objectives.device import Device, DeviceState
from objectives.diagnosis import DeviceEvidence, Diagnosis, Ended, diagnose
from objectives.errors import ServingError
from objectives.kinds.forecast import ServerMemory
from objectives.load import LoadedServer, Target
from objectives.servers import Engine, Launch, http_ready
from objectives.units import DeviceKind
from objectives.vllm import StartupFacts


@dataclass(frozen=True, kw_only=True)
class Up:
    """A server that answers."""

    url: str  # "http://host:port"
    key: str  # what its requests have to carry
    log: Path
    members: Callable[[], Collection[int]]  # gives the ids of its processes now
    before: DeviceState | None = None  # the study's device right before its launch


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What a server that is up says of itself.

    Attributes:
        health: Its own words, where it has any.
        facts: What its log says of its start.
        said: By what it is proven where it computes, in words; empty where it is not.
        doubts: What could not be proven.
        failure: Why it cannot stay as it is: a `WrongDeviceError` where the candidate is at
            fault, a `BenchError` where it does not say; None where it computes as it should.
    """

    health: Mapping[str, Any] = field(default_factory=dict)
    facts: StartupFacts | None = None
    said: str = ""
    doubts: tuple[str, ...] = ()
    failure: ServingError | None = None


@dataclass(frozen=True, kw_only=True)
class ServerKind(ABC):
    """One tuned server of a study: what stays the same from trial to trial.

    Attributes:
        name: What people call it, as it stands in a configuration.
        engine: What it is launched with.
        settings: Its fixed settings, over which a candidate is laid.
        memory: How its memory is predicted.
        start_s: Seconds until it must be healthy.
        is_dummy: Its weights are random.
    """

    role: ClassVar[LoadedServer | None] = None
    """Whose requests of the load it answers; None: it gets none."""

    family: ClassVar[str] = ""
    """What `objectives.causes` calls it where a remedy is another than for the rest."""

    name: str
    engine: Engine
    settings: ServerSettings
    memory: ServerMemory
    start_s: float
    is_dummy: bool = False

    @abstractmethod
    def launch(
        self, settings: ServerSettings, device: Device, *, port: int, key: str, log: Path
    ) -> Launch:
        """How it is started, on loopback only; it shall ask every request for `key`."""

    @abstractmethod
    def prove(self, settings: ServerSettings, device: Device, server: Up) -> Proof:
        """See whether it computes where the candidate put it."""

    @abstractmethod
    def target(self, settings: ServerSettings, server: Up) -> Target:
        """Where, and how, requests go to it."""

    def ready(self, url: str, key: str) -> Callable[[], bool]:
        """What tells whether it is up."""
        return http_ready(url, api_key=key)

    def device_kind(self, settings: ServerSettings, device: Device) -> DeviceKind:
        """Which kind of device the candidate puts it on: the study's, or the CPU."""
        return "cpu" if settings.device == "cpu" else device.kind

    def why_it_ended(
        self, lines: Iterable[str], ended: Ended | None, evidence: DeviceEvidence
    ) -> Diagnosis:
        """What its log says about its end, with the remedy for its family."""
        return diagnose(lines, ended=ended, evidence=evidence, kinds=(self.family,))
