"""What one candidate's memory looks like before it is launched: neighbours, Whisper, vLLM.

The live device decides: free memory is read, not summed up from a list of tenants. What is not
there yet but will be when vLLM starts (neighbours that we start, Whisper) is taken off it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from objectives.candidate import Candidate, ServerSettings
from objectives.constraints import GIB
from objectives.device import DeviceKind, DeviceState
from objectives.memory import (
    Calibration,
    Estimate,
    Prediction,
    predict_vllm,
    whisper_bytes,
    whisper_key,
)
from objectives.models import ModelShape, UnsupportedShapeError
from objectives.servers import Command, Hold, Neighbour
from objectives.space import Scalar
from objectives.trial.bench import Bench
from objectives.vllm import StartupFacts, VllmSettings

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


@dataclass(frozen=True, kw_only=True)
class CandidatePrediction:
    """What is known of a candidate before its launch.

    Attributes:
        inputs: What predictions of the study have in common.
        settings: What of vLLM's options decides its memory; None where that is not known.
        vllm: Of vLLM; None where nothing can be predicted.
        whisper: What Whisper will hold on the device; None if it runs elsewhere or is unknown.
        whisper_key: The name under which its peak is remembered.
        excess: Constraint to GiB missing; negative is to spare.
        doubts: Why nothing, or less, is predicted.
        total_bytes: Of the device, as vLLM will see it.
    """

    inputs: PredictionInputs
    settings: VllmSettings | None
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
        return None if self.settings is None else self.settings.max_num_seqs

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
        if footprint.weights.source != "calibrated" or self.settings is None:
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
        inputs = self.inputs
        if inputs.shape is None or self.settings is None:
            return known
        return known.learn(
            self.settings,
            started,
            inputs.shape,
            version=inputs.vllm_version,
            model=inputs.model,
            device=inputs.device_uuid,
            device_kind=inputs.device_kind,
            total_bytes=(self._total_seen(started) if self.moved(started) else None)
            or self.total_bytes,
            charged_bytes=0 if self.vllm is None else self.vllm.charged_bytes,
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
        if started.requested_bytes is None or self.settings is None:
            return None
        return round(started.requested_bytes / self.settings.utilization)


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
    whisper, key = _whisper(candidate.whisper, inputs, calibration, doubts)
    settings = prediction = None
    excess: dict[str, float] = {}
    if inputs.shape is None:
        doubts.append(f"vLLM's memory was not predicted: {inputs.shape_missing}")
    else:
        try:
            settings = VllmSettings.from_args(
                candidate.vllm.args,
                version=inputs.vllm_version,
                device_total_bytes=total,
                device_kind=inputs.device_kind,
                env=candidate.vllm.env,
            )
            prediction = _predict(
                inputs, settings, state, calibration, total=total, whisper=whisper
            )
            excess = dict(prediction.excess)
        except UnsupportedShapeError as error:
            doubts.append(f"vLLM's memory was not predicted: {error}")
    return CandidatePrediction(
        inputs=inputs,
        settings=settings,
        vllm=prediction,
        whisper=whisper,
        whisper_key=key,
        excess=excess,
        doubts=tuple(doubts),
        total_bytes=total,
    )


def _predict(
    inputs: PredictionInputs,
    settings: VllmSettings,
    state: DeviceState,
    calibration: Calibration,
    *,
    total: int,
    whisper: Estimate | None,
) -> Prediction:
    assert inputs.shape is not None
    coming = sum(n.bytes_ for n in inputs.neighbours if isinstance(n, Hold))

    def predict(speech: Estimate | None) -> Prediction:
        assert inputs.shape is not None
        return predict_vllm(
            inputs.shape,
            settings,
            device_kind=inputs.device_kind,
            total_bytes=total,
            free_bytes=state.free_bytes - coming,
            version=inputs.vllm_version,
            calibration=calibration,
            model=inputs.model,
            device=inputs.device_uuid,
            weights_bytes=inputs.weights_bytes,
            whisper=speech,
            headroom_bytes=inputs.headroom_bytes,
            total_margin_bytes=int(_TOTAL_MARGIN[inputs.device_kind] * total),
            free_margin_bytes=_free_margin(inputs),
        )

    beside = predict(whisper)
    if inputs.whisper_first or whisper is None:
        return beside
    alone = predict(None)
    if alone.certain or not beside.certain or beside.cause != "device_memory":
        return replace(alone, excess={**alone.excess, **_later(beside)})
    return beside


def _later(beside: Prediction) -> dict[str, float]:
    """Of a prediction with Whisper there: what concerns the device as a whole."""
    return {"device_memory_gib": beside.excess["device_memory_gib"]}


def _free_margin(inputs: PredictionInputs) -> int:
    """How far the reading of free memory may be wrong by the time vLLM starts.

    Neighbours that we start and whose size is unknown are not taken off what is free: the
    candidate gets the benefit of the doubt, and the launch decides.
    """
    unknown = any(isinstance(neighbour, Command) for neighbour in inputs.neighbours)
    return GIB if unknown else GIB // 8


def _whisper(
    settings: ServerSettings, inputs: PredictionInputs, calibration: Calibration, doubts: list[str]
) -> tuple[Estimate | None, str | None]:
    """What Whisper will hold on the study's device, and the name its peak is remembered by."""
    if settings.device == "cpu" and inputs.device_kind == "cuda":
        return None, None
    dtype = settings.args.get("dtype")
    beam = _whole(settings.args.get("beam-size"))
    narrow = settings.args.get("fp16-weights") is True
    key = whisper_key(
        settings.model,
        dtype=None if dtype is None else str(dtype),
        fp16_weights=narrow,
        beam_size=beam,
    )
    try:
        figure = whisper_bytes(
            settings.model,
            device_kind=inputs.device_kind,
            dtype=None if dtype is None else str(dtype),
            fp16_weights=narrow,
            beam_size=beam,
            calibration=calibration,
            device=inputs.device_uuid,
        )
    except UnsupportedShapeError as error:
        doubts.append(f"Whisper's memory was not predicted: {error}")
        return None, key
    return figure, key


def _whole(value: Scalar | None) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 1


__all__ = [
    "LATEST_VLLM",
    "CandidatePrediction",
    "PredictionInputs",
    "predict_candidate",
    "predict_on_bench",
]
