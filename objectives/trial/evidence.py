"""What the stages of a trial return, and how it becomes what stands on the trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from objectives.device import DeviceState, LargestAllocation
from objectives.errors import ServingError
from objectives.evidence import Invocation, MemoryEvidence, TrialEvidence
from objectives.load import Driven
from objectives.measurement import Measurement, Quantile
from objectives.memory import Calibration
from objectives.servers import PRIVATE_VARIABLES, Launch
from objectives.telemetry import TelemetryRecord
from objectives.trial.prediction import CandidatePrediction
from objectives.units import MIB
from objectives.vllm import StartupFacts

_ALWAYS_SHOWN = frozenset(
    {
        *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"),
        *("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"),
    }
)
"""Said whatever this shell exports: a device's number without the order names no device."""
_KEY_ENDS = "_API_KEY"
_PLUMBING = ("PATH", "PYTHONSAFEPATH", "PYTHONUNBUFFERED", "VLLM_CACHE_ROOT")
_PLUMBING_ENDS = ("_CACHE_DIR",)


@dataclass(frozen=True, kw_only=True)
class Started:
    """Everybody that was started, as far as they came.

    Attributes:
        launches: Server to how it was started last.
        logs: Every log, those of earlier tries too.
        health: Server to what it says of itself.
        facts: Server to what its log says of its start, where it says anything.
        proofs: Server to how it is proven where it computes; without those that are not.
        grown: Tenant to the bytes by which free memory of the device fell as it started, where
            that was looked at.
        doubts: What a reader of the trial's figures should know.
    """

    launches: Mapping[str, Launch] = field(default_factory=dict)
    logs: tuple[Path, ...] = ()
    health: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    facts: Mapping[str, StartupFacts] = field(default_factory=dict)
    proofs: Mapping[str, str] = field(default_factory=dict)
    grown: Mapping[str, int] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()

    def without(self, name: str) -> Started:
        """This, less what was learned from a start of a server that is started again."""
        return replace(
            self,
            facts={who: told for who, told in self.facts.items() if who != name},
            proofs={who: told for who, told in self.proofs.items() if who != name},
            grown={who: size for who, size in self.grown.items() if who != name},
        )


@dataclass(frozen=True, kw_only=True)
class Watched:
    """The device while servers ran.

    Attributes:
        window: While the load was on; all of it where there was none.
        whole: From the first server's start.
        began_s: When that began, seconds from the trial's begin.
    """

    window: TelemetryRecord
    whole: TelemetryRecord
    began_s: float


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """What a trial's load came to.

    Attributes:
        measurement: What the requests came to.
        figures: Everything that can be an objective, in people's units; absent if not measured.
        values: The objectives' values.
        excess: Constraint to its excess.
        failure: Why the trial has no values; None where it has.
    """

    measurement: Measurement
    figures: Mapping[str, float]
    values: Mapping[str, float] = field(default_factory=dict)
    excess: Mapping[str, float] = field(default_factory=dict)
    failure: ServingError | None = None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the stages of a trial returned until it ended; None for those it did not reach.

    Attributes:
        before: The device right before the first server started.
        largest_allocation: What the device gave in one piece beside those that were up.
        prediction: What was predicted of the candidate.
        started: Who was started, and how.
        driven: Every request.
        watched: The device meanwhile.
        conclusion: What the load came to.
        calibration: What the trial taught, with all that was known before.
        excess: Constraint to its excess, beside those of prediction and conclusion.
        doubts: Why not to trust the figures, beside those of the stages themselves.
    """

    before: DeviceState | None = None
    largest_allocation: LargestAllocation | None = None
    prediction: CandidatePrediction | None = None
    started: Started = Started()
    driven: Driven | None = None
    watched: Watched | None = None
    conclusion: Conclusion | None = None
    calibration: Calibration | None = None
    excess: Mapping[str, float] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()

    @property
    def all_excess(self) -> dict[str, float]:
        """Constraint to its excess, as far as it is known."""
        return {
            **({} if self.prediction is None else self.prediction.excess),
            **({} if self.conclusion is None else self.conclusion.excess),
            **self.excess,
        }

    @property
    def all_doubts(self) -> tuple[str, ...]:
        """Of every stage, in their order."""
        return (
            *(() if self.prediction is None else self.prediction.doubts),
            *self.started.doubts,
            *self.doubts,
            *(() if self.conclusion is None else self.conclusion.measurement.doubts),
        )

    def to_evidence(self, *, quantile: Quantile, inherited: Mapping[str, str]) -> TrialEvidence:
        """What is kept of it.

        Args:
            quantile: Which quantile of the latencies the objectives are.
            inherited: The study's own environment, which needs no repeating.
        """
        evidence = TrialEvidence(
            settings={
                name: shown(launch, inherited) for name, launch in self.started.launches.items()
            },
            health=self.started.health,
            proofs=self.started.proofs,
            device_state=self.before,
            largest_allocation=self.largest_allocation,
            figures=self._figures(),
            footprint=self._footprint(),
            doubts=self.all_doubts,
        )
        if self.watched is not None:
            summary = replace(
                self.watched.window.summary(),
                samples=self.watched.whole.kept(),
                began_s=round(self.watched.began_s, 3),
            )
            evidence = replace(evidence, telemetry=summary, tenants_bytes=summary.tenants_bytes)
        if self.conclusion is not None:
            measurement = self.conclusion.measurement
            evidence = replace(
                evidence,
                measurement=replace(measurement, doubts=()),  # they are among the trial's
                intervals=measurement.legacy_intervals_ms(quantile),
            )
        return evidence

    def _figures(self) -> dict[str, float]:
        """Of every trial that came so far, and of its load."""
        found = self.largest_allocation
        granted = None if found is None else found.granted_bytes
        return {
            **({} if granted is None else {"largest_allocation_mb": round(granted / MIB, 1)}),
            **({} if self.conclusion is None else self.conclusion.figures),
        }

    def _footprint(self) -> dict[str, MemoryEvidence]:
        if self.prediction is None:
            return {}
        return {
            name: MemoryEvidence(predicted=forecast.stored(), logged=self.started.facts.get(name))
            for name, forecast in self.prediction.forecasts.items()
        }


def shown(launch: Launch, inherited: Mapping[str, str]) -> Invocation:
    """A launch as it may be stored: without keys, and only what makes a difference.

    Args:
        launch: What was started.
        inherited: The study's own environment, which needs no repeating.
    """
    env = {
        name: value
        for name, value in launch.env.items()
        if name not in {*PRIVATE_VARIABLES, *_PLUMBING}
        and not name.endswith((_KEY_ENDS, *_PLUMBING_ENDS))
        and (name in _ALWAYS_SHOWN or inherited.get(name) != value)
    }
    return Invocation(argv=launch.argv, env=env)
