"""From a checked configuration to a bench: device, engines, weights, load."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from objectives.bench import Bench, Objective
from objectives.calibration import Calibration
from objectives.capacity import capacity
from objectives.device import Device, open_device
from objectives.engine import Engine, Role
from objectives.errors import EngineError, UsageError
from objectives.load import LlmLoad, LoadProfile, SttLoad, plan
from objectives.model_shape import ModelShape, UnsupportedShapeError, weight_bytes
from objectives.neighbours import Command, Hold, Neighbour, Running
from objectives.prospects import LATEST_VLLM, Outlook, Prospect, look, look_ahead
from objectives.space import Candidate, Scalar
from study.config import StudyConfig, fixed_settings
from study.dummy_models import LLM_SHAPES, DummyLlm
from study.engine_build import build_engine
from study.engines import capability_of, check_engine, find_engine
from study.forecast import Forecast
from study.schema import NeighbourSection
from study.weights import resolve_llm, resolve_whisper

GIB = 1 << 30
SMALL_VOCABULARY = 2048
"""Token ids below this exist in every model that is served; used where the model's is unknown."""


def make_bench(config: StudyConfig, *, build_engines: bool, say: Callable[[str], None]) -> Bench:
    """Everything that a study's trials share; makes what is missing, and says so.

    Args:
        config: What a person wants.
        build_engines: Build the engines that are missing.
        say: Told what happens, a sentence at a time.

    Raises:
        UsageError: Something that the configuration names is not there.
        EngineError: There is no engine that can run a server, or building it failed.
    """
    document = config.document
    device = open_device(document.device)
    say(f"device: {device.name}, {device.total_bytes / GIB:.1f} GiB")
    for reason in device.passed_over:
        say(f"not taken: {reason}")
    vllm_engine = _engine("vllm", document.engines.vllm, device, build_engines, say)
    named = document.engines.whisper
    whisper_engine = _engine(
        "whisper",
        document.engines.vllm if named == "auto" else named,
        _whisper_device(config, device),
        build_engines,
        say,
    )
    settled = device.settle()
    if settled[1].total_bytes > settled[0].total_bytes:
        say(
            f"memory of {device.name} grew from {settled[0].total_bytes / GIB:.1f} to "
            f"{settled[1].total_bytes / GIB:.1f} GiB when it was touched"
        )
    llm = resolve_llm(
        document.vllm.model,
        document.vllm.weights,
        engine=vllm_engine,
        spec=_dummy(config),
        say=say,
    )
    whispers = {
        name: resolve_whisper(name, document.whisper.weights, engine=whisper_engine, say=say)
        for name in whisper_models(config)
    }
    shape, missing = model_shape(config, Path(llm.model) if llm.local else None)
    if shape is None:
        say(f"the KV cache cannot be predicted: {missing}")
    profile = load_profile(config, shape.vocab if shape is not None else None)
    settings = fixed_settings(document)
    return Bench(
        space=config.space,
        device=device,
        vllm_engine=vllm_engine,
        whisper_engine=whisper_engine,
        vllm=settings["vllm"],
        whisper=settings["whisper"],
        llm_path=llm.model,
        llm_is_dummy=llm.weights == "dummy",
        llm_is_local=llm.local,
        shape=shape,
        shape_missing=missing,
        llm_weights_bytes=_weights(config, llm.model, shape, local=llm.local),
        whisper_paths={name: found.model for name, found in whispers.items()},
        whisper_is_dummy=document.whisper.weights == "dummy",
        neighbours=[_neighbour(section) for section in document.neighbours],
        start_order=document.start_order,
        profile=profile,
        trace=plan(profile),
        quantile=document.load.quantile,
        objectives=[
            Objective(name=name, target=objective.target)
            for name, objective in document.objectives.items()
        ],
        limits=config.limits,
        wer=_published(config),
        headroom_bytes=round(document.headroom_gib * GIB),
        vllm_start_s=document.vllm.start_timeout_s,
        whisper_start_s=document.whisper.start_timeout_s,
        trial_timeout_s=document.budget.trial_timeout_s,
    )


def _engine(
    role: Role, configured: str, device: Device, build: bool, say: Callable[[str], None]
) -> Engine:
    """The engine of a server, judged against the device; built if that was asked for."""
    try:
        engine = find_engine(role, configured, device.kind)
    except EngineError as error:
        if not build:
            raise EngineError(f"{error}; or run with --build-engines") from error
        build_engine(device.kind, say=say, capability=capability_of(device))
        engine = find_engine(role, configured, device.kind)
    report = check_engine(engine, device, roles=(role,), live=False)
    if not report.ok:
        raise EngineError("; ".join(report.problems))
    return engine


def _dummy(config: StudyConfig) -> DummyLlm:
    return DummyLlm(**config.document.vllm.dummy.model_dump())


def _whisper_device(config: StudyConfig, device: Device) -> Device:
    """Where Whisper runs in every candidate: the CPU, or (also) the study's device."""
    varies = any(str(parameter.binding) == "whisper.device" for parameter in config.space)
    return open_device("cpu") if config.document.whisper.device == "cpu" and not varies else device


def whisper_models(config: StudyConfig) -> tuple[str, ...]:
    """Every Whisper model that a candidate can have."""
    for parameter in config.space:
        if parameter.binding.server == "whisper" and parameter.binding.kind == "model":
            return tuple(str(value) for value in parameter.values() or ())
    return (config.document.whisper.model,)


def _published(config: StudyConfig) -> Mapping[str, float]:
    """Published word error rates; complete where they are an objective.

    Raises:
        UsageError: One is missing.
    """
    rates = config.document.wer
    missing = [name for name in whisper_models(config) if name not in rates]
    if missing and "wer" in config.directions:
        raise UsageError(f"{config.source or 'bundled study'}: wer.{missing[0]}: missing")
    return rates


def model_shape(config: StudyConfig, folder: Path | None) -> tuple[ModelShape | None, str | None]:
    """The language model's shape, or why it is not known."""
    document = config.document
    found: Path | Mapping[str, object] | None = folder
    if found is None and document.vllm.weights == "dummy":
        known = LLM_SHAPES.get(document.vllm.model or "")
        found = (known or _dummy(config)).config()
    if found is None:
        name = document.vllm.model or ""
        local = Path(name).expanduser()
        found = local if (local / "config.json").is_file() else hub_folder(name)
    if found is None:
        return None, f"{document.vllm.model} is not on this machine yet, its config.json is unknown"
    try:
        return ModelShape.from_config(found), None
    except (UnsupportedShapeError, OSError, ValueError) as error:
        return None, " ".join(str(error).split())


def hub_folder(name: str) -> Path | None:
    """Where the hub's cache on this machine keeps a model, else None; fetches nothing."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    snapshots = hub / f"models--{name.replace('/', '--')}" / "snapshots"
    found = sorted(snapshots.glob("*/config.json"), key=lambda path: path.stat().st_mtime)
    return found[-1].parent if found else None


def _weights(
    config: StudyConfig, model: str, shape: ModelShape | None, *, local: bool
) -> int | None:
    """Bytes of the model's weight files as the engine loads them, where there are any."""
    if config.document.vllm.weights == "dummy" or shape is None:
        return None
    folder = Path(model) if local else hub_folder(model)
    if folder is None:
        return None
    return weight_bytes(folder, dtype_bytes=shape.dtype_bytes, tied=shape.tied_embeddings)


def load_profile(config: StudyConfig, vocabulary: int | None) -> LoadProfile:
    """The load as the bench takes it.

    Args:
        config: What a person wants.
        vocabulary: Tokens of the model's vocabulary, if known.

    Raises:
        UsageError: The load contradicts itself.
    """
    load = config.document.load
    try:
        return LoadProfile(
            seed=config.document.seed,
            llm=LlmLoad(
                rate_rps=load.llm.rate_rps,
                arrivals=load.llm.arrivals,
                prompt_tokens=load.llm.prompt_tokens,
                output_tokens=load.llm.output_tokens,
                vocab_size=vocabulary or SMALL_VOCABULARY,
            ),
            stt=SttLoad(
                rate_rps=load.stt.rate_rps,
                arrivals=load.stt.arrivals,
                clip_s=load.stt.clip_s,
                files=tuple(Path(file) for file in load.stt.files),
                output_tokens=load.stt.output_tokens,
            ),
            warmup_s=load.warmup_s,
            measure_s=load.measure_s,
            drain_s=load.drain_s,
            timeout_s=load.timeout_s,
        )
    except ValueError as error:
        raise UsageError(f"{config.source or 'bundled study'}: load.{error}") from error


def _neighbour(section: NeighbourSection) -> Neighbour:
    if section.kind == "running":
        assert section.match is not None
        least = None if section.gib is None else round(section.gib * GIB)
        return Running(name=section.name, match=section.match, min_bytes=least)
    if section.kind == "command":
        return Command(
            name=section.name,
            argv=section.argv,
            env=section.env,
            ready_s=section.ready_s,
            url=section.url,
        )
    assert section.gib is not None
    return Hold(name=section.name, bytes_=round(section.gib * GIB))


def study_attrs(config: StudyConfig, bench: Bench) -> dict[str, object]:
    """What stands on the study, for whoever reads it later."""
    device = bench.device
    return {
        **_common_attrs(config),
        "device": {
            "kind": device.kind,
            "name": device.name,
            "uuid": device.uuid,
            "total_bytes": device.total_bytes,
        },
        "device_facts": device.describe(),
        "weights": bench.weights,
        "load": {**bench.profile.document(), "trace_sha256": bench.trace.sha256},
        "engines": {
            "vllm": bench.vllm_engine.document(),
            "whisper": bench.whisper_engine.document(),
        },
    }


def _common_attrs(config: StudyConfig) -> dict[str, object]:
    document = config.document
    return {
        "schema": 1,
        "objectives": {
            name: {"direction": way, "target": document.objectives[name].target}
            for name, way in config.directions.items()
        },
        "constraints": list(config.constraint_names),
        "baseline": config.baseline,
        "seed": document.seed,
        "config": document.model_dump(mode="json"),
        "space": {
            parameter.name: {
                "binding": str(parameter.binding),
                "choices": list(parameter.values() or ()),
                "low": parameter.low,
                "high": parameter.high,
            }
            for parameter in config.space
        },
    }


def replay_attrs(config: StudyConfig, table: Path) -> dict[str, object]:
    """The same for a study that draws from a recorded table."""
    return {**_common_attrs(config), "weights": "replay", "replay": table.name}


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What arithmetic says of one candidate before anything is launched."""

    params: Mapping[str, Scalar]
    prospect: Prospect

    @property
    def fits(self) -> bool:
        """Whether it would be launched, and is expected to start."""
        return self.prospect.fits


def predict_all(config: StudyConfig) -> list[Predicted]:
    """Predict every candidate of a finite space against the live device; launches nothing.

    Raises:
        UsageError: The space has no end, or the model's shape is not known.
    """
    points = config.space.points()
    if points is None:
        raise UsageError(f"{config.name}: the space has no end; give its parameters steps")
    device = open_device(config.document.device)
    shape, missing = model_shape(config, None)
    if shape is None:
        raise UsageError(f"{config.name}: {missing}")
    outlook = outlook_for(config, device, shape)
    state = device.read()
    settings = fixed_settings(config.document)
    return [
        Predicted(
            params=point,
            prospect=look_ahead(
                Candidate.lay(
                    config.space, point, vllm=settings["vllm"], whisper=settings["whisper"]
                ),
                outlook,
                state,
                Calibration(),
            ),
        )
        for point in points
    ]


def outlook_for(config: StudyConfig, device: Device, shape: ModelShape) -> Outlook:
    """What a prediction needs, without a bench: no engine has to be there."""
    try:
        version = find_engine("vllm", config.document.engines.vllm, device.kind).vllm_version
    except (EngineError, UsageError):
        version = None
    model = config.document.vllm.model or "dummy"
    order = config.document.start_order
    return Outlook(
        shape=shape,
        model=model,
        device_kind=device.kind,
        device_uuid=device.uuid,
        vllm_version=version or LATEST_VLLM,
        weights_bytes=_weights(config, model, shape, local=Path(model).exists()),
        neighbours=[_neighbour(section) for section in config.document.neighbours],
        whisper_first=order.index("whisper") < order.index("vllm"),
        headroom_bytes=round(config.document.headroom_gib * GIB),
    )


FRESH_S = 1.0
"""So old may a reading of device and calibration be when many points are forecast at once."""


def forecaster(
    bench: Bench, learned: Callable[[], Calibration]
) -> Callable[[Mapping[str, Scalar]], Forecast]:
    """What arithmetic says of a point of the space, with the device as it is when it is asked.

    Args:
        bench: What the study's trials share.
        learned: Gives what the starts so far taught.
    """
    read_at_s = -FRESH_S
    state, known = bench.device.read(), Calibration()

    def predict(params: Mapping[str, Scalar]) -> Forecast:
        nonlocal read_at_s, state, known
        if time.monotonic() - read_at_s >= FRESH_S:
            state, known, read_at_s = bench.device.read(), learned(), time.monotonic()
        over = bench.space.excess(params)
        if over > 0:
            return Forecast(feasible=False, certain=True, excess={"bounds": over})
        candidate = Candidate.lay(bench.space, params, vllm=bench.vllm, whisper=bench.whisper)
        prospect = look(candidate, bench, state, known)
        if prospect.prediction is None:
            return Forecast()
        return Forecast(
            feasible=prospect.fits,
            certain=prospect.is_refused,
            excess={"bounds": over, **prospect.excess},
            figures=_expected(bench, candidate, prospect),
        )

    return predict


def _expected(bench: Bench, candidate: Candidate, prospect: Prospect) -> dict[str, float]:
    """The objectives that arithmetic knows before a launch."""
    figures: dict[str, float] = {}
    wer = bench.wer.get(candidate.whisper.model)
    if wer is not None:
        figures["wer"] = wer
    load, predicted = bench.profile.llm, prospect.prediction
    if load is not None and predicted is not None:
        fitting = capacity(
            load,
            kv_cache_tokens=predicted.footprint.kv_cache_tokens,
            block_tokens=predicted.kv.block_tokens,
            max_num_seqs=prospect.max_num_seqs,
        )
        figures["concurrent_capacity"] = float(fitting.requests)
    return figures
