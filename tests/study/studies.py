"""Synthetic studies with everything that a real one has on it, made in a second.

The figures are a toy of one device with 12 GiB: vLLM takes `vllm_memory_util` of it, Whisper what
its size needs, a neighbour 1 GiB. What does not fit is pruned, predicted or launched.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from objectives.constraints import names
from objectives.device import DeviceState, LargestAllocation
from objectives.evidence import (
    Fault,
    Infeasible,
    Invocation,
    MemoryEvidence,
    PredictedMemory,
    TrialEvidence,
)
from objectives.load import Span
from objectives.measurement import Measurement, Summary
from objectives.measurement.summary import ClientFigures, LlmMeasurement, SttMeasurement
from objectives.telemetry import TelemetrySummary
from objectives.telemetry.record import MemoryPoint
from objectives.vllm import StartupFacts
from tests.stores import opened

GIB = 2**30
DEVICE_BYTES = 12 * GIB
UTILS = (0.40, 0.45, 0.50, 0.55, 0.60)
SIZES = ("tiny", "base", "small")
WHISPER_BYTES = {"tiny": GIB // 2, "base": GIB, "small": 2 * GIB}
STT_MS = {"tiny": 48.0, "base": 95.0, "small": 290.0}
WER = {"tiny": 0.12, "base": 0.09, "small": 0.06}
NEIGHBOUR_BYTES = GIB
VLLM_FIXED_BYTES = 5 * GIB
TOKENS_PER_GIB = 18_000
OBJECTIVES: dict[str, dict[str, object]] = {
    "stt_latency_ms": {"direction": "minimize", "target": None},
    "llm_latency_ms": {"direction": "minimize", "target": None},
    "concurrent_capacity": {"direction": "maximize", "target": None},
}
CONSTRAINTS = names()
NO_BLOCKS = (
    "ValueError: No available memory for the cache blocks. Try increasing "
    "`gpu_memory_utilization` when initializing the engine."
)
SPACE: dict[str, BaseDistribution] = {
    "vllm_memory_util": FloatDistribution(0.40, 0.60, step=0.05),
    "whisper_model_size": CategoricalDistribution(SIZES),
}


def empty_study(
    storage: str | None = None,
    name: str = "shared-gpu",
    *,
    weights: str = "real",
    replay: str | None = None,
    objectives: Mapping[str, Mapping[str, object]] = OBJECTIVES,
) -> optuna.Study:
    """A study with its description and no trial."""
    study = optuna.create_study(
        storage=opened(storage),
        study_name=name,
        directions=[str(each["direction"]) for each in objectives.values()],
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    study.set_metric_names(list(objectives))
    described: dict[str, object] = {
        "schema": 1,
        "device": {
            "kind": "cuda",
            "name": "NVIDIA GeForce RTX 3060",
            "uuid": "GPU-5f3a",
            "total_bytes": DEVICE_BYTES,
        },
        "weights": weights,
        "objectives": {key: dict(value) for key, value in objectives.items()},
        "constraints": list(CONSTRAINTS),
        "baseline": {"vllm_memory_util": 0.50, "whisper_model_size": "small"},
        "load": {
            "llm": {"rate_rps": 2.0, "arrivals": "poisson", "prompt_tokens": 128},
            "stt": {"rate_rps": 0.5, "arrivals": "poisson", "clip_s": [5.0]},
            "warmup_s": 10.0,
            "measure_s": 60.0,
        },
        "engines": {
            "vllm": {"vllm": "0.11.0", "torch": "2.8.0"},
            "whisper": {"whisper": "20250625"},
        },
        "config": {"name": name, "load": {"quantile": "p95"}},
        "seed": 7,
        "space": {
            "vllm_memory_util": {
                "binding": "vllm.args.gpu-memory-utilization",
                "choices": [*UTILS],
                "low": None,
                "high": None,
            },
            "whisper_model_size": {
                "binding": "whisper.model",
                "choices": [*SIZES],
                "low": None,
                "high": None,
            },
        },
    }
    if replay is not None:
        described["replay"] = replay
    for key, value in described.items():
        study.set_user_attr(key, value)
    return study


def ask(study: optuna.Study, params: Mapping[str, Any]) -> optuna.Trial:
    """A running trial at this point of the space."""
    study.enqueue_trial(dict(params))
    trial = study.ask()
    suggest(trial)
    return trial


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """The trial's point."""
    for name, distribution in SPACE.items():
        if isinstance(distribution, CategoricalDistribution):
            trial.suggest_categorical(name, distribution.choices)
        else:
            assert isinstance(distribution, FloatDistribution)
            trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step)
    return trial.params


def point(util: float, size: str) -> dict[str, Any]:
    """The parameters of a setting."""
    return {"vllm_memory_util": util, "whisper_model_size": size}


def keep(trial: optuna.Trial, evidence: TrialEvidence) -> None:
    """Write a trial's evidence as the objective does."""
    for key, value in evidence.to_attrs().items():
        trial.set_user_attr(key, value)


def constrain(trial: optuna.Trial, **excess: float) -> None:
    """All constraints, in their order; what is not named is met."""
    for name in CONSTRAINTS:
        trial.set_constraint(name, excess.get(name, -1.0))


def kv_bytes(util: float, size: str) -> int:
    """The room vLLM finds for its cache; negative where there is none."""
    free = DEVICE_BYTES - WHISPER_BYTES[size] - NEIGHBOUR_BYTES
    return min(int(util * DEVICE_BYTES), free) - VLLM_FIXED_BYTES


def latencies(util: float, size: str) -> dict[str, Any]:
    """The toy's true figures of a setting that fits."""
    capacity = float(int(max(kv_bytes(util, size), 0) / GIB * TOKENS_PER_GIB / 2048))
    used = 100.0 * (util * DEVICE_BYTES + WHISPER_BYTES[size] + NEIGHBOUR_BYTES) / DEVICE_BYTES
    return {
        "stt_latency_ms": STT_MS[size] * (1 + util / 5),
        "llm_latency_ms": 420.0 + 300.0 * util + 40.0 * SIZES.index(size),
        "concurrent_capacity": capacity,
        "gpu_utilization": round(used, 1),
        "oom_events": 0.0,
        "free_memory_mb": round((100 - used) / 100 * DEVICE_BYTES / 2**20),
        "wer": WER[size],
    }


def fitness(figures: Mapping[str, float]) -> float:
    """The legacy number, spelt out a second time so that the fakes need nothing of the study."""

    def clamp(value: float) -> float:
        return min(1.0, max(0.0, value))

    return (
        0.25 * clamp(1 - figures["stt_latency_ms"] / 500)
        + 0.25 * clamp(1 - figures["llm_latency_ms"] / 1000)
        + 0.20 * clamp(figures["concurrent_capacity"] / 20)
        + 0.20
        + 0.10 * clamp(1 - abs(figures["gpu_utilization"] - 70) / 50)
    )


def settings(util: float, size: str) -> dict[str, Invocation]:
    """What the servers were launched with."""
    env = {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    vllm = (
        "python", "-m", "vllm.entrypoints.openai.api_server",
        "--model", "Qwen/Qwen2.5-7B-Instruct-AWQ",
        "--gpu-memory-utilization", f"{util:g}",
        "--max-model-len", "2048",
    )  # fmt: skip
    whisper = ("python", "-m", "objectives.workers.whisper_worker", "--model", size)
    return {"vllm": Invocation(argv=vllm, env=env), "whisper": Invocation(argv=whisper, env=env)}


def predicted(util: float, size: str) -> PredictedMemory:
    """Predicted parts of the device's memory."""
    return PredictedMemory(
        weights_bytes=4 * GIB,
        activation_bytes=GIB // 2,
        non_torch_bytes=GIB // 4,
        graph_bytes=GIB // 4,
        kv_cache_bytes=max(kv_bytes(util, size), 0),
        kv_cache_tokens=max(kv_bytes(util, size) * TOKENS_PER_GIB // GIB, 0),
        margin_bytes=GIB // 8,
        total_bytes=DEVICE_BYTES,
    )


def footprint(
    util: float, size: str, logged: StartupFacts | None = None
) -> dict[str, MemoryEvidence]:
    """Every server's memory, as predicted and as logged."""
    speech = PredictedMemory(held_bytes=WHISPER_BYTES[size], held_source="estimated")
    return {
        "whisper": MemoryEvidence(predicted=speech),
        "vllm": MemoryEvidence(predicted=predicted(util, size), logged=logged),
    }


def before(trial: optuna.Trial, util: float, size: str, *, generation: int | None) -> TrialEvidence:
    """What is known of a trial before anything is launched; its lineage stands on it."""
    trial.set_user_attr(
        "lineage",
        {
            "id": f"spica-{trial.number:04d}",
            "parents": [],
            "generation": generation,
            "mutations": {},
            "sha256": "0" * 64,
        },
    )
    return TrialEvidence(
        point=f"vllm_memory_util={util} whisper_model_size={size}",
        weights=trial.study.user_attrs["weights"],
        settings=settings(util, size),
        footprint=footprint(util, size),
    )


def quantiles(seconds: float, n: int = 240) -> Summary:
    """A latency's summary."""
    return Summary(
        p50=seconds * 0.8,
        p95=seconds,
        p99=seconds * 1.2,
        mean=seconds * 0.82,
        n=n,
        p50_interval=(seconds * 0.78, seconds * 0.82),
        p95_interval=(seconds * 0.95, seconds * 1.05),
    )


def measurement(figures: Mapping[str, float]) -> Measurement:
    """What the requests came to."""
    llm_s, stt_s = figures["llm_latency_ms"] / 1000, figures["stt_latency_ms"] / 1000
    return Measurement(
        llm=LlmMeasurement(
            ttft_s=quantiles(llm_s),
            tpot_s=quantiles(0.02),
            e2e_s=quantiles(llm_s * 3),
            output_tokens_per_s=128.0,
            requests=240,
            failed=0,
        ),
        stt=SttMeasurement(latency_s=quantiles(stt_s), rtf=quantiles(0.05), requests=60, failed=0),
        client=ClientFigures(lag_s=quantiles(0.0004), cpu_s=1.9, wall_s=61.0),
        trace_sha256="ab" * 32,
    )


def complete(
    study: optuna.Study,
    util: float,
    size: str,
    *,
    doubts: Sequence[str] = (),
    noise: float = 1.0,
    generation: int | None = None,
    found: LargestAllocation | None = None,
) -> optuna.Trial:
    """A measured, feasible trial.

    Args:
        study: Where it goes.
        util: Of the setting.
        size: Of the setting.
        doubts: Stored with it.
        noise: Factor on both latencies, for replicates.
        generation: Of the tournament, if there is one.
        found: What the device gave in one piece.
    """
    trial = ask(study, point(util, size))
    known = before(trial, util, size, generation=generation)
    figures = latencies(util, size)
    for name in ("stt_latency_ms", "llm_latency_ms"):
        figures[name] = round(figures[name] * noise, 3)
    logged = StartupFacts(
        available_kv_bytes=kv_bytes(util, size) - GIB // 16, weights_bytes=4 * GIB
    )
    peak = {"vllm": int(util * DEVICE_BYTES), "whisper": WHISPER_BYTES[size]}
    evidence = replace(
        known,
        figures={
            **{k: v for k, v in figures.items() if k != "wer" or "wer" in names_of(study)},
            **allocated(found),
        },
        footprint=footprint(util, size, logged),
        measurement=measurement(figures),
        intervals={
            name: (figures[name] * 0.95, figures[name] * 1.05)
            for name in ("stt_latency_ms", "llm_latency_ms")
        },
        doubts=tuple(doubts),
        largest_allocation=found,
        fitness=round(fitness(figures), 6),
        tenants_bytes={**peak, "ollama": NEIGHBOUR_BYTES, "other": GIB // 10},
        device_state=DeviceState(
            total_bytes=DEVICE_BYTES,
            free_bytes=DEVICE_BYTES - NEIGHBOUR_BYTES,
            used_bytes=NEIGHBOUR_BYTES,
        ),
        telemetry=telemetry(util, size),
    )
    keep(trial, timed(evidence, measured=True))
    constrain(trial)
    study.tell(trial, [stored(name, figures, study) for name in names_of(study)])
    return trial


def telemetry(util: float, size: str) -> TelemetrySummary:
    """What the device went through from the warm-up on; the neighbour's share is not told."""
    held = {"vllm": int(util * DEVICE_BYTES), "whisper": WHISPER_BYTES[size], "ollama": None}
    used = int(util * DEVICE_BYTES) + WHISPER_BYTES[size] + NEIGHBOUR_BYTES
    samples = [
        MemoryPoint(time_s=float(at), used_bytes=used + at, tenants=held) for at in range(0, 72, 9)
    ]
    return TelemetrySummary(total_bytes=DEVICE_BYTES, samples=tuple(samples))


def names_of(study: optuna.Study) -> list[str]:
    """The study's objectives, in order."""
    return list(study.user_attrs["objectives"])


def stored(name: str, figures: Mapping[str, float], study: optuna.Study) -> float:
    """An objective's value as Optuna has it: a neutral one is a distance."""
    target = study.user_attrs["objectives"][name]["target"]
    return figures[name] if target is None else abs(figures[name] - target)


def timed(evidence: TrialEvidence, *, measured: bool) -> TrialEvidence:
    """The same with the phases and the timeline of a launched trial."""
    phases = {"predict": 0.01, "start": 21.5, "stop": 2.0, "other": 0.4}
    spans = [("predict", 0.0, 0.01), ("start whisper", 0.1, 4.1), ("start vllm", 4.1, 21.6)]
    if measured:
        phases |= {"warmup": 10.0, "measure": 60.0}
        spans += [("warmup", 21.6, 31.6), ("measure", 31.6, 91.6), ("stop", 91.6, 93.6)]
    else:
        spans += [("stop", 21.6, 23.6)]
    timeline = tuple(Span(phase=name, start_s=start, end_s=end) for name, start, end in spans)
    return replace(evidence, phases_s=phases, timeline=timeline)


def predicted_infeasible(
    study: optuna.Study, util: float, size: str, *, generation: int | None = None
) -> optuna.Trial:
    """A trial that was pruned before anything was launched."""
    trial = ask(study, point(util, size))
    known = before(trial, util, size, generation=generation)
    short_gib = round(abs(kv_bytes(util, size)) / GIB + 0.1, 3)
    reason = Infeasible(
        cause="kv_cache_no_blocks",
        evidence=f"KV cache: {short_gib} GiB short of one block <predicted>",
        remedy="raise vllm_memory_util or take a smaller Whisper",
        predicted=True,
        figures={"short_gib": short_gib},
    )
    keep(trial, replace(known, infeasible=reason, phases_s={"predict": 0.01, "other": 0.02}))
    constrain(trial, kv_cache_gib=short_gib)
    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    return trial


def refused(
    study: optuna.Study,
    util: float,
    size: str,
    *,
    cause: str = "kv_cache_no_blocks",
    evidence: str = NO_BLOCKS,
    generation: int | None = None,
    found: LargestAllocation | None = None,
) -> optuna.Trial:
    """A trial that was launched, and that the server that started last refused."""
    trial = ask(study, point(util, size))
    known = before(trial, util, size, generation=generation)
    if found is not None:
        others = {name: how for name, how in known.settings.items() if name != found.before}
        known = replace(
            known,
            settings={**others, found.before: known.settings[found.before]},
            largest_allocation=found,
            figures=allocated(found),
        )
    refusal(trial, known, cause, evidence)
    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    return trial


def allocated(found: LargestAllocation | None) -> dict[str, float]:
    """The figure that stands on a trial beside what it gave in one piece."""
    granted = None if found is None else found.granted_bytes
    return {} if granted is None else {"largest_allocation_mb": granted / 2**20}


def refusal(trial: optuna.Trial, known: TrialEvidence, cause: str, evidence: str) -> None:
    """Write what stands on a trial that a server refused."""
    reason = Infeasible(
        cause=cause,
        evidence=evidence,
        remedy="raise --gpu-memory-utilization, or free memory on the device",
    )
    keep(trial, timed(replace(known, infeasible=reason), measured=False))
    constrain(trial, kv_cache_gib=0.5)


def refuse(
    trial: optuna.Trial, artifacts: optuna.artifacts.FileSystemArtifactStore, log: Path
) -> tuple[float, ...]:
    """An objective that a server refuses, and whose log is kept."""
    params = suggest(trial)
    util, size = params["vllm_memory_util"], params["whisper_model_size"]
    refusal(trial, before(trial, util, size, generation=None), "kv_cache_no_blocks", NO_BLOCKS)
    optuna.artifacts.upload_artifact(
        artifact_store=artifacts,
        file_path=str(log),
        study_or_trial=trial,
        mimetype="text/plain",
    )
    raise optuna.TrialPruned("kv_cache_no_blocks")


def broken(study: optuna.Study, util: float, size: str) -> optuna.Trial:
    """A trial that failed because the bench did."""
    trial = ask(study, point(util, size))
    known = before(trial, util, size, generation=None)
    fault = Fault(type="NeighbourError", cause="bench", message="ollama left during the trial")
    phases_s = {"predict": 0.01, "start": 3.0, "other": 0.1}
    keep(trial, replace(known, error=fault, phases_s=phases_s))
    constrain(trial)
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return trial


def whole_study(storage: str | None = None, **options: Any) -> optuna.Study:
    """All 15 points: some predicted not to fit, one refused by the server, one broken bench.

    Trial 0 is the baseline, 0.50 + small; the last two trials are RUNNING and FAIL. Its some 600
    transactions take seconds in SQLite, so there it is made once, and its file is copied.
    """
    if storage is not None and not options:
        shutil.copy(whole_database(), storage.removeprefix("sqlite:///"))
        return optuna.load_study(study_name="shared-gpu", storage=opened(storage))
    study = empty_study(storage, **options)
    complete(study, 0.50, "small", generation=0)
    for util in UTILS:
        for size in SIZES:
            if (util, size) == (0.50, "small"):
                continue
            generation = UTILS.index(util)
            if kv_bytes(util, size) < 0:
                predicted_infeasible(study, util, size, generation=generation)
            elif (util, size) == (0.60, "small"):
                refused(study, util, size, generation=generation)
            else:
                complete(study, util, size, generation=generation)
    broken(study, 0.45, "tiny")
    ask(study, point(0.55, "base"))
    return study


@cache
def whole_database() -> Path:
    """A database with the whole study, made once for all tests of a run."""
    folder = Path(tempfile.mkdtemp(prefix="whole-study-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    whole, file = whole_study(), folder / "study.db"
    copy = empty_study(f"sqlite:///{file}")
    copy.add_trials(whole.get_trials(deepcopy=False))
    return file
