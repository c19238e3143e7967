"""From a checked configuration to a bench: device, engines, weights, load."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from objectives.device import Device, open_device
from objectives.errors import EngineError, UsageError
from objectives.kinds import LATEST_VLLM, VllmKind, VllmMemory, WhisperKind, WhisperMemory
from objectives.load import LlmLoad, LoadProfile, SttLoad, plan
from objectives.servers import Command, Engine, Gpu, Hold, Neighbour, Running, unseen
from objectives.trial import Bench, Objective
from objectives.units import GIB, ServerName
from study.config import NeighbourSection, StudyConfig, fixed_settings
from study.engines import (
    asked_of,
    build_engine,
    check_engine,
    find_engine,
    gpu_of,
    missing_recipe,
    objection_of,
    refusal,
)
from study.setup.model_shapes import dummy_shape, llm_weights_bytes, model_shape
from study.setup.weights import is_cached_whole, resolve_llm, resolve_whisper

SMALL_VOCABULARY = 2048
"""Token ids below this exist in every model that is served; used where the model's is unknown."""


_FETCHING = {
    *("revision", "code-revision", "tokenizer-revision", "tokenizer", "hf-config-path"),
    *("speculative-config", "speculative-model", "lora-modules", "trust-remote-code"),
    *("download-dir", "load-format", "model-loader-extra-config", "quantization-param-path"),
    "VLLM_USE_MODELSCOPE",
}
"""Options and variables of vLLM with which a model in the hub's cache is not all that it reads."""


def make_bench(config: StudyConfig, *, build_engines: bool, log: Callable[[str], None]) -> Bench:
    """Everything that a study's trials share; makes what is missing, and says so a sentence a time.

    Raises:
        UsageError: Something that the configuration names is not there.
        EngineError: There is no engine that can run a server, or building it failed.
    """
    document = config.document
    device = open_device(document.device, objection_of(document.engines.vllm))
    log(f"device: {device.spoken}, {device.total_bytes / GIB:.1f} GiB")
    for reason in device.passed_over:
        log(f"not taken: {reason}")
    for note in device.notes:
        log(f"note: {note}")
    engines = document.engines
    build = log if build_engines else None
    vllm_engine = _engine("vllm", engines.vllm, device, build)
    device = asked_of(vllm_engine, device, log=log)
    place = _whisper_device(config, device)
    whisper_engine = _engine("whisper", engines.whisper, place, build, beside=vllm_engine)
    if whisper_engine.interpreter != vllm_engine.interpreter:
        log(f"engines: {vllm_engine.name} for vllm, {whisper_engine.name} for whisper")
    # Before anything is predicted: a fraction of a node that still grows would mean another size
    # in every trial.
    before, after = (state.total_bytes / GIB for state in device.settle())
    if after > before:
        grew = f"grew from {before:.1f} to {after:.1f} GiB when it was touched"
        log(f"memory of {device.name} {grew}")
    vllm = _vllm(config, vllm_engine, log)
    whisper = _whisper(config, whisper_engine, gpu_of(device), log)
    neighbours = [neighbour_of(section) for section in document.neighbours]
    for absent in filter(None, map(unseen, neighbours)):
        log(absent)
    shape = vllm.memory.shape
    profile = load_profile(config, None if shape is None else shape.vocab)
    return Bench(
        space=config.space,
        device=device,
        servers={each.name: each for each in (vllm, whisper)},
        neighbours=neighbours,
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
        trial_timeout_s=document.budget.trial_timeout_s,
    )


def _vllm(config: StudyConfig, engine: Engine, log: Callable[[str], None]) -> VllmKind:
    """The language server of a study; its weights are made where they are random."""
    section, settings = config.document.vllm, fixed_settings(config.document)["vllm"]
    llm = resolve_llm(
        section.model, section.weights, engine=engine, spec=dummy_shape(config), log=log
    )
    is_cached = not llm.local and not _fetches_more(config) and is_cached_whole(llm.model)
    if is_cached:
        log(f"{llm.model} is whole in the hub's cache: vllm is started offline")
    shape, missing = model_shape(config, Path(llm.model) if llm.local else None)
    if shape is None:
        log(f"the KV cache cannot be predicted: {missing}")
    return VllmKind(
        name="vllm",
        engine=engine,
        settings=settings,
        memory=VllmMemory(
            model=llm.model if settings.model == "dummy" else settings.model,
            shape=shape,
            shape_missing=missing,
            version=engine.vllm_version or LATEST_VLLM,
            weights_bytes=llm_weights_bytes(config, llm.model, shape, local=llm.local),
        ),
        start_s=section.start_timeout_s,
        is_dummy=section.weights == "dummy",
        path=llm.model,
        is_local=llm.local or is_cached,
    )


def _fetches_more(config: StudyConfig) -> bool:
    """Whether vLLM may want more of the hub than its model at `main`, or looks elsewhere."""
    settings = fixed_settings(config.document)["vllm"]
    varied = [each.binding.key for each in config.space if each.binding.server == "vllm"]
    own = {*settings.args, *settings.env, *varied}
    elsewhere = any(name.startswith("HF_") or name.endswith("_CACHE") for name in own)
    return elsewhere or bool({*own, *os.environ} & _FETCHING)


def _whisper(
    config: StudyConfig, engine: Engine, gpu: Gpu | None, log: Callable[[str], None]
) -> WhisperKind:
    """The speech server of a study, with every model that a candidate can have."""
    section = config.document.whisper
    return WhisperKind(
        name="whisper",
        engine=engine,
        settings=fixed_settings(config.document)["whisper"],
        memory=WhisperMemory(capability=gpu.capability if gpu else None),
        start_s=section.start_timeout_s,
        is_dummy=section.weights == "dummy",
        paths={
            name: resolve_whisper(name, section.weights, engine=engine, log=log)
            for name in whisper_models(config)
        },
        fixed_tokens=config.document.load.stt.output_tokens,
    )


def _engine(
    role: ServerName,
    configured: str,
    device: Device,
    build: Callable[[str], None] | None,
    *,
    beside: Engine | None = None,
) -> Engine:
    """The engine of a server, judged against the device; built where `build`, a log, is given."""
    try:
        engine = find_engine(role, configured, device, beside=beside)
    except EngineError as error:
        if configured != "auto":  # what was named cannot be run; another one would not be it
            raise
        recipe, gpu = missing_recipe(role, device, beside), gpu_of(device)
        if refusal(recipe, gpu):  # as the error says; to build it is no remedy
            raise
        if build is None:
            raise EngineError(f"{error}; or run with --build-engines") from error
        build_engine(recipe.name, log=build, gpu=gpu)
        engine = find_engine(role, configured, device, beside=beside)
    report = check_engine(engine, device, roles=(role,), live=False)
    if not report.ok:
        raise EngineError("; ".join(report.problems))
    return engine


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


def load_profile(config: StudyConfig, vocabulary: int | None) -> LoadProfile:
    """The load as the bench takes it; `vocabulary` is that of the model in tokens, if known.

    Raises:
        UsageError: The load contradicts itself.
    """
    load, seconds = config.document.load, {"warmup_s", "measure_s", "drain_s", "timeout_s"}
    stt = load.stt.model_dump() | {"files": tuple(map(Path, load.stt.files))}
    try:
        return LoadProfile(
            seed=config.document.seed,
            llm=LlmLoad(**load.llm.model_dump(), vocab_size=vocabulary or SMALL_VOCABULARY),
            stt=SttLoad(**stt),
            **load.model_dump(include=seconds),
        )
    except ValueError as error:
        raise UsageError(f"{config.source or 'bundled study'}: load.{error}") from error


def neighbour_of(section: NeighbourSection) -> Neighbour:
    """A neighbour as a configuration declares it."""
    if section.kind == "running":
        assert section.match is not None
        least = None if section.gib is None else round(section.gib * GIB)
        return Running(name=section.name, match=section.match, min_bytes=least)
    if section.kind == "command":
        return Command(**section.model_dump(include={"name", "argv", "env", "ready_s", "url"}))
    assert section.gib is not None
    return Hold(name=section.name, bytes_=round(section.gib * GIB))
