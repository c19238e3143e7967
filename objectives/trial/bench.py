"""The bench: all that stays the same from trial to trial of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from objectives.candidate import ServerSettings
from objectives.constraints import Limit, names
from objectives.device import Device
from objectives.kinds import ServerKind
from objectives.load import LoadedServer, LoadProfile, Trace
from objectives.measurement import Quantile
from objectives.servers import Neighbour
from objectives.space import SearchSpace


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is wanted of one figure.

    Attributes:
        name: The figure's name, as the first users gave it.
        target: Where a neutral objective wants to be; its value is the distance to it.
    """

    name: str
    target: float | None = None

    def value(self, measured: float) -> float:
        """The value that is stored for a measured figure."""
        return measured if self.target is None else abs(measured - self.target)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where and how candidates of a study are judged.

    Attributes:
        space: What may vary.
        device: The shared device.
        servers: The tuned servers, by name.
        start_order: Who starts after whom: every server's name, and "neighbours".
        neighbours: Tenants that are not tuned.
        profile: The load, as numbers.
        trace: The load, request by request.
        quantile: Which quantile of the latencies the objectives are.
        objectives: What is wanted, in order.
        limits: Hard objectives of the service.
        wer: Published word error rate by Whisper model, percent.
        headroom_bytes: What must stay free on the device.
        trial_timeout_s: Seconds that a trial may take, starts left out; None: as long as it takes.
        lock_folder: Where device locks are; None: the machine's own place.
    """

    space: SearchSpace
    device: Device
    servers: Mapping[str, ServerKind]
    start_order: Sequence[str]
    neighbours: Sequence[Neighbour] = ()
    profile: LoadProfile
    trace: Trace
    quantile: Quantile = "p95"
    objectives: Sequence[Objective]
    limits: Sequence[Limit] = ()
    wer: Mapping[str, float] = field(default_factory=dict)
    headroom_bytes: int = 256 << 20
    trial_timeout_s: float | None = None
    lock_folder: Path | None = None

    @property
    def constraint_names(self) -> tuple[str, ...]:
        """What every trial carries, in order."""
        return names(self.limits)

    @property
    def weights(self) -> Literal["real", "dummy"]:
        """`dummy` where either server's weights are random."""
        return "dummy" if any(server.is_dummy for server in self.servers.values()) else "real"

    @property
    def settings(self) -> dict[str, ServerSettings]:
        """Server to its fixed settings."""
        return {name: server.settings for name, server in self.servers.items()}

    def serving(self, role: LoadedServer) -> ServerKind | None:
        """The server that answers these requests; None where nobody does."""
        return next((each for each in self.servers.values() if each.role == role), None)
