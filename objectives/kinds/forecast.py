"""What is known of one server's memory before it is launched, and what a launch teaches. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from objectives.candidate import ServerSettings
from objectives.device import DeviceState
from objectives.evidence import PredictedMemory
from objectives.memory import NOTHING, Calibration, Estimate, Prediction
from objectives.units import DeviceKind
from objectives.vllm import StartupFacts


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The device as it is when a server of a candidate is judged.

    Attributes:
        kind: The device's.
        uuid: Likewise; what was learned on one device holds for no other.
        device_name: Its name, on which vLLM's defaults depend; "" where it is not known.
        state: Its memory now, before neighbours of ours are started.
        calibration: What earlier starts taught.
        coming_bytes: What neighbours that the trial starts will hold.
        free_margin_bytes: How far what is free may be off by the time a server starts.
        headroom_bytes: What must stay free.
        beside: What the candidate's other servers hold when it starts.
        later: What those that start after it will hold.
    """

    kind: DeviceKind
    uuid: str
    state: DeviceState
    calibration: Calibration
    device_name: str = ""
    coming_bytes: int = 0
    free_margin_bytes: int = 0
    headroom_bytes: int = 0
    beside: Estimate = NOTHING
    later: Estimate = NOTHING

    @property
    def total_bytes(self) -> int:
        """Of the device, as a server will see it."""
        return self.state.server_total_bytes

    @property
    def free_bytes(self) -> int:
        """Free once the neighbours are there."""
        return self.state.free_bytes - self.coming_bytes


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What is known of one server's memory before its launch.

    Attributes:
        held: What it will hold of the study's device; None if it runs elsewhere, or is unknown.
        start: What its own check of a start will say; None where it has none, or is unknown.
        max_num_seqs: Its limit of requests at once; None where it has none, or is unknown.
        doubts: Why nothing, or less, is known.
    """

    held: Estimate | None = None
    start: Prediction | None = None
    max_num_seqs: int | None = None
    doubts: tuple[str, ...] = ()

    def moved(self, facts: StartupFacts) -> str | None:
        """A sentence if the server saw another device total than the forecast did, else None."""
        return None

    def surprise(self, facts: StartupFacts) -> str | None:
        """A sentence if a start came out otherwise than starts before it taught, else None."""
        return None

    def learn(self, known: Calibration, facts: StartupFacts) -> Calibration:
        """What is known, and what the start taught."""
        return known

    def learn_peak(self, known: Calibration, peak_bytes: int) -> Calibration:
        """What is known, and the most that the server was seen to hold in a whole trial."""
        return known

    def stored(self) -> PredictedMemory:
        """The forecast as it is kept with a trial."""
        return PredictedMemory(
            held_bytes=None if self.held is None else self.held.value_bytes,
            held_source=None if self.held is None else self.held.source,
        )


class ServerMemory(ABC):
    """How the memory of a kind of server is predicted; no engine has to be there for it."""

    @abstractmethod
    def forecast(self, settings: ServerSettings, moment: Moment) -> Forecast:
        """What will become of its memory under a candidate's settings."""
