"""What one candidate's memory looks like before it is launched: neighbours, and every server.

The live device decides: free memory is read, not summed up from a list of tenants. What is not
there yet but will be when a server starts (neighbours that we start, servers before it) is taken
off it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from objectives.candidate import Candidate
from objectives.device import DeviceState
from objectives.kinds import Forecast, Moment, ServerMemory
from objectives.memory import Calibration, Estimate, Prediction, add, given
from objectives.servers import Command, Hold, Neighbour
from objectives.trial.bench import Bench
from objectives.units import GIB, MIB, DeviceKind

HOLD_CONTEXT = Estimate(
    value_bytes=250 * MIB, margin_bytes=150 * MIB, note="CUDA context of a hold"
)
"""What the driver keeps for a process that loads no kernels: 0.1 to 0.4 GiB by card and driver.

Public reports of `nvidia-smi` for programs with a bare context; not measured here.
"""


def held_by(neighbour: Hold, kind: DeviceKind) -> Estimate:
    """What a hold takes of a device: what it was asked for, on a GPU its context on top."""
    asked = given(neighbour.bytes_, neighbour.name)
    return add(asked, HOLD_CONTEXT) if kind == "cuda" else asked


@dataclass(frozen=True, kw_only=True)
class PredictionInputs:
    """What predictions of a study have in common.

    Attributes:
        servers: Tuned server to how its memory is predicted, in the order of their starts.
        device_kind: The study's device's.
        device_uuid: What was learned on one device holds for no other.
        device_name: vLLM's defaults depend on it; "" where it is not known.
        neighbours: Tenants that are not tuned.
        headroom_bytes: What must stay free.
    """

    servers: Mapping[str, ServerMemory]
    device_kind: DeviceKind
    device_uuid: str
    device_name: str = ""
    neighbours: Sequence[Neighbour] = ()
    headroom_bytes: int = 0

    @classmethod
    def of(cls, bench: Bench) -> PredictionInputs:
        """That of a bench."""
        return cls(
            servers={n: bench.servers[n].memory for n in bench.start_order if n in bench.servers},
            device_kind=bench.device.kind,
            device_uuid=bench.device.uuid,
            device_name=bench.device.name,
            neighbours=bench.neighbours,
            headroom_bytes=bench.headroom_bytes,
        )

    def at(self, state: DeviceState, calibration: Calibration) -> Moment:
        """The device as it is now, with what is known by now."""
        # Neighbours that we start and whose size is unknown are not taken off what is free: the
        # candidate gets the benefit of the doubt, and the launch decides.
        unknown = any(isinstance(neighbour, Command) for neighbour in self.neighbours)
        holds = [
            held_by(each, self.device_kind) for each in self.neighbours if isinstance(each, Hold)
        ]
        coming = add(*holds)
        return Moment(
            kind=self.device_kind,
            uuid=self.device_uuid,
            device_name=self.device_name,
            state=state,
            calibration=calibration,
            coming_bytes=coming.value_bytes,
            free_margin_bytes=(GIB if unknown else GIB // 8) + coming.margin_bytes,
            headroom_bytes=self.headroom_bytes,
        )


@dataclass(frozen=True, kw_only=True)
class CandidatePrediction:
    """What is known of a candidate before its launch.

    Attributes:
        forecasts: Server to what is known of its memory, in the order of their starts.
    """

    forecasts: Mapping[str, Forecast]

    @property
    def starts(self) -> dict[str, Prediction]:
        """Server to what its own check of a start will say, where that is known."""
        return {
            name: forecast.start
            for name, forecast in self.forecasts.items()
            if forecast.start is not None
        }

    @property
    def excess(self) -> dict[str, float]:
        """Constraint to GiB missing, of the server that is worst off; negative is to spare."""
        worst: dict[str, float] = {}
        for start in self.starts.values():
            for name, missing in start.excess.items():
                worst[name] = max(missing, worst.get(name, missing))
        return worst

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why nothing, or less, is predicted."""
        return tuple(doubt for each in self.forecasts.values() for doubt in each.doubts)

    @property
    def fits(self) -> bool:
        """Whether it is expected to start; also where nothing is known against it."""
        return all(start.fits for start in self.starts.values())

    @property
    def refusal(self) -> Prediction | None:
        """What fails by more than the margin, so that the candidate is not launched."""
        return next((start for start in self.starts.values() if start.certain), None)


def predict_on_bench(
    candidate: Candidate, bench: Bench, state: DeviceState, calibration: Calibration
) -> CandidatePrediction:
    """Predict a candidate on a bench, from a reading of its device just now."""
    return predict_candidate(candidate, PredictionInputs.of(bench), state, calibration)


def predict_candidate(
    candidate: Candidate, inputs: PredictionInputs, state: DeviceState, calibration: Calibration
) -> CandidatePrediction:
    """Predict a candidate from a reading of the device, before neighbours of ours are started."""
    moment = inputs.at(state, calibration)
    names = list(inputs.servers)
    known: dict[str, Forecast] = {}
    for name in names:
        found = replace(moment, beside=_together(known.values()))
        known[name] = inputs.servers[name].forecast(candidate[name], found)
    # What starts later counts for the device as a whole, not for the start itself.
    for at, name in enumerate(names):
        later = _together(known[other] for other in names[at + 1 :])
        if known[name].start is not None and later.value_bytes:
            beside = _together(known[other] for other in names[:at])
            found = replace(moment, beside=beside, later=later)
            known[name] = inputs.servers[name].forecast(candidate[name], found)
    return CandidatePrediction(forecasts=known)


def _together(forecasts: Iterable[Forecast]) -> Estimate:
    return add(*(each.held for each in forecasts if each.held is not None))
