"""What one candidate's memory looks like before it is launched: neighbours, Whisper, vLLM.

The live device decides: free memory is read, not summed up from a list of tenants. What is not
there yet but will be when vLLM starts (neighbours that we start, Whisper) is taken off it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from objectives.candidate import Candidate, ServerSettings
from objectives.device import DeviceState
from objectives.memory import (
    NOTHING,
    Calibration,
    DeviceMemory,
    Estimate,
    Prediction,
    ServerModel,
    WhisperModel,
    predict_vllm,
)
from objectives.models import ModelShape, UnsupportedShapeError
from objectives.servers import Command, Hold, Neighbour
from objectives.trial.bench import Bench
from objectives.units import GIB, DeviceKind, Scalar
from objectives.vllm import StartupFacts, VllmRules, VllmSettings

LATEST_VLLM = "0.32.0"
"""Whose rules hold where no engine is there to be asked."""

_TOTAL_MARGIN = {"cuda": 0.01, "cpu": 0.005}
"""A driver's and CUDA's idea of the whole differ; a CPU's node may grow while a server starts."""

_PRINTED_GIB = 0.01
"""The last digit of a size in a log."""

_MOVED = 0.005
"""A device total that moved by more than this share is worth saying."""


@dataclass(frozen=True, kw_only=True)
class PredictionInputs:
    """What predictions of a study have in common.

    Attributes:
        shape: The language model's; None: nothing is predicted of vLLM.
        shape_missing: Why not.
        model: The language model, as people name it.
        device_kind: Where vLLM runs.
        device_uuid: What was learned on one device holds for no other.
        vllm_version: Whose rules hold.
        weights_bytes: Of the model's files; None: estimated from the shape.
        neighbours: Tenants that are not tuned.
        whisper_first: Whisper is up when vLLM starts.
        headroom_bytes: What must stay free.
    """

    shape: ModelShape | None
    shape_missing: str | None = None
    model: str
    device_kind: DeviceKind
    device_uuid: str
    vllm_version: str
    weights_bytes: int | None
    neighbours: Sequence[Neighbour]
    whisper_first: bool
    headroom_bytes: int

    @classmethod
    def of(cls, bench: Bench) -> PredictionInputs:
        """That of a bench."""
        return cls(
            shape=bench.shape,
            shape_missing=bench.shape_missing,
            model=bench.vllm.model if bench.vllm.model != "dummy" else bench.llm_path,
            device_kind=bench.device.kind,
            device_uuid=bench.device.uuid,
            vllm_version=bench.vllm_engine.vllm_version or LATEST_VLLM,
            weights_bytes=bench.llm_weights_bytes,
            neighbours=bench.neighbours,
            whisper_first=list(bench.start_order).index("whisper")
            < list(bench.start_order).index("vllm"),
            headroom_bytes=bench.headroom_bytes,
        )

    def server(self, candidate: Candidate, total_bytes: int) -> ServerModel:
        """A candidate's vLLM, on a device of so many bytes.

        Raises:
            UnsupportedShapeError: The model's shape, or a number among the options, is not known.
        """
        if self.shape is None:
            raise UnsupportedShapeError(str(self.shape_missing))
        rules = VllmRules(self.vllm_version, self.device_kind)
        args, env = candidate.vllm.args, candidate.vllm.env
        return ServerModel(
            shape=self.shape,
            settings=VllmSettings.from_args(args, rules, device_total_bytes=total_bytes, env=env),
            rules=rules,
            name=self.model,
            device=self.device_uuid,
            weights_bytes=self.weights_bytes,
        )

    def memory(self, state: DeviceState, total_bytes: int, whisper: Estimate) -> DeviceMemory:
        """The device as vLLM will find it, from a reading before neighbours of ours are started.

        Neighbours that we start and whose size is unknown are not taken off what is free: the
        candidate gets the benefit of the doubt, and the launch decides.
        """
        coming = sum(n.bytes_ for n in self.neighbours if isinstance(n, Hold))
        unknown = any(isinstance(neighbour, Command) for neighbour in self.neighbours)
        return DeviceMemory(
            total_bytes=total_bytes,
            free_bytes=state.free_bytes - coming,
            whisper=whisper,
            headroom_bytes=self.headroom_bytes,
            total_margin_bytes=int(_TOTAL_MARGIN[self.device_kind] * total_bytes),
            free_margin_bytes=GIB if unknown else GIB // 8,
        )


@dataclass(frozen=True, kw_only=True)
class CandidatePrediction:
    """What is known of a candidate before its launch.

    Attributes:
        inputs: What predictions of the study have in common.
        server: What vLLM's memory depends on; None where that is not known.
        vllm: Of vLLM; None where nothing can be predicted.
        whisper: What Whisper will hold on the device; None if it runs elsewhere or is unknown.
        whisper_key: The name under which its peak is remembered.
        excess: Constraint to GiB missing; negative is to spare.
        doubts: Why nothing, or less, is predicted.
        total_bytes: Of the device, as vLLM will see it.
    """

    inputs: PredictionInputs
    server: ServerModel | None
    vllm: Prediction | None
    whisper: Estimate | None
    whisper_key: str | None
    excess: Mapping[str, float]
    doubts: tuple[str, ...] = ()
    total_bytes: int

    @property
    def fits(self) -> bool:
        """Whether it is expected to start; also where nothing is known against it."""
        return self.vllm is None or self.vllm.fits

    @property
    def is_refused(self) -> bool:
        """Whether it fails by more than the margin: it is not launched."""
        return self.vllm is not None and self.vllm.certain

    @property
    def cause(self) -> str | None:
        """Why it does not fit."""
        return None if self.vllm is None else self.vllm.cause

    @property
    def evidence(self) -> str:
        """The arithmetic in one sentence."""
        return "" if self.vllm is None else self.vllm.evidence

    @property
    def remedy(self) -> str:
        """What to change."""
        return "" if self.vllm is None else self.vllm.remedy

    @property
    def max_num_seqs(self) -> int | None:
        """The engine's limit of requests at once."""
        return None if self.server is None else self.server.settings.max_num_seqs

    def to_dict(self) -> dict[str, object]:
        """The prediction as it is kept with a trial."""
        known: dict[str, object] = {} if self.vllm is None else self.vllm.to_dict()
        if self.whisper is not None:
            known["whisper_bytes"] = self.whisper.value_bytes
            known["whisper_source"] = self.whisper.source
        return {**known, "total_bytes": self.total_bytes}

    def moved(self, started: StartupFacts) -> str | None:
        """A sentence if vLLM saw another device total than the prediction did, else None."""
        total = self._total_seen(started)
        if total is None or abs(total - self.total_bytes) <= _MOVED * self.total_bytes:
            return None
        return (
            f"the device's total moved from {self.total_bytes / GIB:.2f} to {total / GIB:.2f} GiB "
            "before vLLM read it: the utilisation is of the second"
        )

    def surprise(self, started: StartupFacts) -> str | None:
        """A sentence if a calibrated KV cache came out other than predicted, beyond the margin."""
        if self.vllm is None or started.available_kv_bytes is None:
            return None
        footprint = self.vllm.footprint
        if footprint.parts.weights.source != "calibrated":
            return None
        margin = self.vllm.margins["kv_cache_gib"] + _PRINTED_GIB
        off_gib = (started.available_kv_bytes - footprint.available_bytes) / GIB
        if abs(off_gib) <= margin:
            return None
        return (
            f"the KV cache is {started.available_kv_bytes / GIB:.2f} GiB, expected were "
            f"{footprint.available_bytes / GIB:.2f}: memory moved while it was measured"
        )

    def learn(self, known: Calibration, started: StartupFacts) -> Calibration:
        """What is known, and what vLLM's start taught."""
        if self.server is None:
            return known
        seen = self._total_seen(started) if self.moved(started) else None
        return known.learn(
            self.server,
            started,
            total_bytes=seen or self.total_bytes,
            charged_bytes=0 if self.vllm is None else self.vllm.footprint.charged_bytes,
        )

    def learn_whisper(self, known: Calibration, peak_bytes: int) -> Calibration:
        """What is known, and the most that Whisper was seen to hold on this device."""
        if self.whisper_key is None:
            return known
        return known.learn_whisper(
            model=self.whisper_key, device=self.inputs.device_uuid, peak_bytes=peak_bytes
        )

    def _total_seen(self, started: StartupFacts) -> int | None:
        """The device's total as vLLM's log gives it, or as its share lets one compute it."""
        if started.device_total_bytes is not None:
            return started.device_total_bytes
        if started.requested_bytes is None or self.server is None:
            return None
        return round(started.requested_bytes / self.server.settings.utilization)


def predict_on_bench(
    candidate: Candidate, bench: Bench, state: DeviceState, calibration: Calibration
) -> CandidatePrediction:
    """Predict a candidate on a bench, from a reading of its device just now."""
    return predict_candidate(candidate, PredictionInputs.of(bench), state, calibration)


def predict_candidate(
    candidate: Candidate, inputs: PredictionInputs, state: DeviceState, calibration: Calibration
) -> CandidatePrediction:
    """Predict a candidate from a reading of the device, before neighbours of ours are started.

    Args:
        candidate: The settings of both servers.
        inputs: What predictions of the study have in common.
        state: The device now.
        calibration: What earlier starts taught.
    """
    doubts: list[str] = []
    total = state.total_bytes - (state.reserved_bytes or 0)
    speech = _whisper(candidate.whisper, inputs.device_kind)
    whisper = server = prediction = None
    try:
        if speech is not None:
            whisper = speech.expect(inputs.device_kind, calibration, inputs.device_uuid)
    except UnsupportedShapeError as error:
        doubts.append(f"Whisper's memory was not predicted: {error}")
    try:
        server = inputs.server(candidate, total)
        memory = inputs.memory(state, total, whisper or NOTHING)
        prediction = _predict(server, memory, calibration, whisper_first=inputs.whisper_first)
    except UnsupportedShapeError as error:
        doubts.append(f"vLLM's memory was not predicted: {error}")
    return CandidatePrediction(
        inputs=inputs,
        server=server,
        vllm=prediction,
        whisper=whisper,
        whisper_key=None if speech is None else speech.key,
        excess={} if prediction is None else dict(prediction.excess),
        doubts=tuple(doubts),
        total_bytes=total,
    )


def _predict(
    server: ServerModel, memory: DeviceMemory, calibration: Calibration, *, whisper_first: bool
) -> Prediction:
    beside = predict_vllm(server, memory, calibration)
    if whisper_first:
        return beside
    alone = predict_vllm(server, replace(memory, whisper=NOTHING), calibration)
    if beside.certain and not alone.certain and beside.cause == "device_memory":
        return beside
    # With Whisper there: what concerns the device as a whole.
    later = {"device_memory_gib": beside.excess["device_memory_gib"]}
    return replace(alone, excess={**alone.excess, **later})


def _whisper(settings: ServerSettings, device_kind: DeviceKind) -> WhisperModel | None:
    """The speech model, if it runs on the study's device."""
    if settings.device == "cpu" and device_kind == "cuda":
        return None
    dtype = settings.args.get("dtype")
    return WhisperModel(
        name=settings.model,
        dtype=None if dtype is None else str(dtype),
        fp16_weights=settings.args.get("fp16-weights") is True,
        beam_size=_whole(settings.args.get("beam-size")),
    )


def _whole(value: Scalar | None) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 1


__all__ = [
    "LATEST_VLLM",
    "CandidatePrediction",
    "PredictionInputs",
    "predict_candidate",
    "predict_on_bench",
]
