"""What arithmetic says of a configuration's candidates before anything is launched."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from objectives.candidate import Candidate
from objectives.device import Device, open_device
from objectives.errors import EngineError, UsageError
from objectives.kinds import LATEST_VLLM, ServerMemory, VllmMemory, WhisperMemory
from objectives.measurement import capacity
from objectives.memory import Calibration
from objectives.models import ModelShape
from objectives.trial import (
    Bench,
    CandidatePrediction,
    PredictionInputs,
    predict_candidate,
    predict_on_bench,
)
from objectives.units import GIB, Scalar
from study.config import StudyConfig, fixed_settings
from study.engines import find_engine, gpu_of, objection_of, with_known_total
from study.samplers import PointPrediction
from study.setup.make_bench import neighbour_of
from study.setup.model_shapes import llm_weights_bytes, model_shape


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What arithmetic says of one candidate before anything is launched."""

    params: Mapping[str, Scalar]
    prediction: CandidatePrediction


def predict_all(config: StudyConfig) -> list[Predicted]:
    """Predict every candidate of a finite space against the live device; launches nothing.

    Raises:
        UsageError: The space has no end, or the model's shape is not known.
    """
    points = config.space.points()
    if points is None:
        raise UsageError(f"{config.name}: the space has no end; give its parameters steps")
    document = config.document
    device = with_known_total(open_device(document.device, objection_of(document.engines.vllm)))
    shape, missing = model_shape(config, None)
    if shape is None:
        raise UsageError(f"{config.name}: {missing}")
    inputs = prediction_inputs(config, device, shape)
    state = device.read()
    settings = fixed_settings(config.document)

    def predicted(point: Mapping[str, Scalar]) -> Predicted:
        candidate = Candidate.lay(config.space, point, settings)
        prediction = predict_candidate(candidate, inputs, state, Calibration())
        return Predicted(params=point, prediction=prediction)

    return list(map(predicted, points))


def prediction_inputs(config: StudyConfig, device: Device, shape: ModelShape) -> PredictionInputs:
    """What a prediction needs, without a bench: no engine has to be there."""
    try:
        version = find_engine("vllm", config.document.engines.vllm, device).vllm_version
    except (EngineError, UsageError):
        version = None
    gpu = gpu_of(device)
    model = config.document.vllm.model or "dummy"
    is_local = Path(model).expanduser().exists()
    servers: dict[str, ServerMemory] = {
        "vllm": VllmMemory(
            model=model,
            shape=shape,
            version=version or LATEST_VLLM,
            weights_bytes=llm_weights_bytes(config, model, shape, local=is_local),
        ),
        "whisper": WhisperMemory(capability=gpu.capability if gpu else None),
    }
    return PredictionInputs(
        servers={name: servers[name] for name in config.document.start_order if name in servers},
        device_kind=device.kind,
        device_uuid=device.uuid,
        device_name=device.name,
        neighbours=[neighbour_of(section) for section in config.document.neighbours],
        headroom_bytes=round(config.document.headroom_gib * GIB),
    )


FRESH_S = 1.0
"""So old may a reading of device and calibration be when many points are predicted at once."""


def predictor(
    bench: Bench, learned: Callable[[], Calibration]
) -> Callable[[Mapping[str, Scalar]], PointPrediction]:
    """What arithmetic says of a point of the space, with the device as it is when it is asked.

    `learned` gives what the starts so far taught.
    """
    read_at_s = -FRESH_S
    state, known = bench.device.read(), Calibration()

    def predict(params: Mapping[str, Scalar]) -> PointPrediction:
        nonlocal read_at_s, state, known
        # A proposal looks at hundreds of points; reading the device for each would take longer than
        # the prediction itself.
        if time.monotonic() - read_at_s >= FRESH_S:
            state, known, read_at_s = bench.device.read(), learned(), time.monotonic()
        over = bench.space.excess(params)
        if over > 0:
            return PointPrediction(feasible=False, certain=True, excess={"bounds": over})
        candidate = Candidate.lay(bench.space, params, bench.settings)
        prediction = predict_on_bench(candidate, bench, state, known)
        figures = _expected(bench, candidate, prediction)
        if not prediction.starts:
            return PointPrediction(figures=figures)
        return PointPrediction(
            feasible=prediction.fits,
            certain=prediction.refusal is not None,
            excess={"bounds": over, **prediction.excess},
            figures=figures,
        )

    return predict


def _expected(
    bench: Bench, candidate: Candidate, prediction: CandidatePrediction
) -> dict[str, float]:
    """The objectives that arithmetic knows before a launch."""
    figures: dict[str, float] = {}
    stt, llm, load = bench.serving("stt"), bench.serving("llm"), bench.profile.llm
    if stt is not None and (wer := bench.wer.get(candidate[stt.name].model)) is not None:
        figures["wer"] = wer
    start = None if llm is None else prediction.starts.get(llm.name)
    if llm is not None and load is not None and start is not None:
        tokens = start.footprint.capacity.tokens
        fitting = capacity(
            load,
            kv_cache_tokens=tokens,
            block_tokens=start.server.kv.block_tokens,
            max_num_seqs=prediction.forecasts[llm.name].max_num_seqs,
            blocks=start.server.blocks_for(tokens, load.most_tokens_per_request),
        )
        figures["concurrent_capacity"] = float(fitting.requests)
    return figures
