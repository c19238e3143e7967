"""What a trial saw: filled in stage by stage, stored whatever became of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from objectives.candidate import Candidate
from objectives.device import DeviceState
from objectives.load import Driven
from objectives.measurement import Capacity, Measurement
from objectives.memory import Calibration
from objectives.telemetry import TelemetryRecord
from objectives.trial.prediction import CandidatePrediction
from objectives.trial.tenants import Tenants


@dataclass
class Evidence:
    """Everything that a trial saw.

    Attributes:
        candidate: The settings of both servers.
        prediction: What was predicted of it.
        before: The device right before the first server started.
        tenants: Who was started, and how.
        capacity: Requests that fit at once.
        driven: Every request.
        measurement: Their summary.
        telemetry: The device while the load was on; all of it where there was none.
        whole_telemetry: The device from the first server's start.
        telemetry_began_s: When that began, seconds from the trial's begin.
        calibration: What this trial taught, with all that was known before.
        figures: Everything that can be an objective, in people's units.
        values: The objectives' values.
        excess: Constraint to its excess, as far as it is known.
        doubts: Why not to trust the figures, in words.
    """

    candidate: Candidate | None = None
    prediction: CandidatePrediction | None = None
    before: DeviceState | None = None
    tenants: Tenants | None = None
    capacity: Capacity | None = None
    driven: Driven | None = None
    measurement: Measurement | None = None
    telemetry: TelemetryRecord | None = None
    whole_telemetry: TelemetryRecord | None = None
    telemetry_began_s: float = 0.0
    calibration: Calibration | None = None
    figures: dict[str, float] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    excess: dict[str, float] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
