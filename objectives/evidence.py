"""What stands on a trial: written by the objective, read by every report.

It lies on the floor, beside the rooms: whoever reads a study needs none of a trial's rooms. Optuna
keeps attributes as JSON; `TrialEvidence` is the only place that knows their names.

Attributes without a `schema` are of this program's first version, which knew two servers only: it
kept what Whisper says of itself under the server's name, vLLM's memory without one, and the KV
cache's logged size under a second name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, cast, get_type_hints

from pydantic import TypeAdapter, ValidationError

from objectives.device import DeviceState, LargestAllocation
from objectives.load import Span
from objectives.measurement import Measurement
from objectives.telemetry import TelemetrySummary
from objectives.units import is_number
from objectives.vllm import StartupFacts

SCHEMA = 2
"""Version of the attributes that are written; read are all up to this one."""

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Infeasible:
    """Why a candidate cannot work here.

    Attributes:
        cause: One word of `objectives.causes`.
        evidence: The line that says so.
        remedy: What to change.
        predicted: Nothing was launched to find this out.
        figures: What the evidence prints, by names that carry units.
    """

    cause: str = "unknown"
    evidence: str = ""
    remedy: str = ""
    predicted: bool = False
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Why the bench gave no answer.

    Attributes:
        type: The exception's.
        cause: One word of `objectives.causes`, "interrupted" or "bug".
        message: Its first line.
    """

    type: str = ""
    cause: str = "bench"
    message: str = "no message was stored"


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """How a server was started: without keys, and only what makes a difference."""

    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PredictedMemory:
    """A server's memory as predicted: bytes by part; None is not known, or is no part of it.

    Attributes:
        held_bytes: All that it will hold of the study's device.
        held_source: Where that comes from.
        weights_bytes: Of the language model.
        activation_bytes: Its profiling peak.
        non_torch_bytes: Libraries, buffers.
        graph_bytes: CUDA graphs.
        outside_bytes: On top of vLLM's share.
        kv_cache_bytes: Of the KV cache.
        kv_cache_tokens: The same in tokens.
        max_concurrency: Requests of full length that fit.
        requested_bytes: VLLM's share.
        margin_bytes: How far the KV cache may be off.
        total_bytes: Of the device, as vLLM was expected to see it.
        fits: Whether it was expected to start.
        certain: Whether it surely fails.
        cause: Why it does not fit.
        sources: Part to where its figure comes from.
        excess_gib: Constraint to GiB missing.
        margin_gib: Constraint to how far that may be off.
    """

    held_bytes: int | None = None
    held_source: str | None = None
    weights_bytes: int | None = None
    activation_bytes: int | None = None
    non_torch_bytes: int | None = None
    graph_bytes: int | None = None
    outside_bytes: int | None = None
    kv_cache_bytes: int | None = None
    kv_cache_tokens: int | None = None
    max_concurrency: float | None = None
    requested_bytes: int | None = None
    margin_bytes: int | None = None
    total_bytes: int | None = None
    fits: bool | None = None
    certain: bool | None = None
    cause: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    excess_gib: Mapping[str, float] = field(default_factory=dict)
    margin_gib: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MemoryEvidence:
    """A server's memory: as predicted, and as its log has it."""

    predicted: PredictedMemory | None = None
    logged: StartupFacts | None = None

    @property
    def kv_cache_bytes(self) -> tuple[int | None, int | None]:
        """The KV cache's size as predicted before the launch, and as it was logged."""
        return (
            None if self.predicted is None else self.predicted.kv_cache_bytes,
            None if self.logged is None else self.logged.available_kv_bytes,
        )


@dataclass(frozen=True, kw_only=True)
class TrialEvidence:
    """What a trial saw; what it did not see is absent, None or empty.

    Attributes:
        point: The key that all measurements of this point share.
        weights: "real", "dummy", or "replay" where a recorded table answered.
        figures: Everything that can be an objective, in people's units, by its public name; each
            is an attribute of its own.
        settings: Server to how it was started last.
        health: Server to what it says of itself, where it says anything.
        proofs: Server to how it is proven on which device it computes, where it is.
        device_state: The device right before the first server started.
        largest_allocation: What the device gave in one piece right before the server of the
            requests to a language model started, or why that is not known.
        footprint: Server to its predicted and logged memory.
        telemetry: The device while the load was on; its samples from the first server's start.
        tenants_bytes: Tenant to the most that it held under load; None where unknown.
        measurement: What the requests came to.
        intervals: Objective to the interval (95 %) of its value.
        doubts: Why not to trust the figures, in words.
        infeasible: Why the candidate cannot work here; None where it can, or nobody knows.
        error: Why the bench gave no answer; None where it did.
        fitness: The legacy's weighted number.
        timeline: Every phase and step, by their begin; seconds from the trial's begin.
        phases_s: Seconds by phase.
        recorded_duration_s: What the trial took when it was recorded, in a replay.
    """

    point: str | None = None
    weights: str | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Invocation] = field(default_factory=dict)
    health: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    proofs: Mapping[str, str] = field(default_factory=dict)
    device_state: DeviceState | None = None
    largest_allocation: LargestAllocation | None = None
    footprint: Mapping[str, MemoryEvidence] = field(default_factory=dict)
    telemetry: TelemetrySummary | None = None
    tenants_bytes: Mapping[str, int | None] = field(default_factory=dict)
    measurement: Measurement | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    infeasible: Infeasible | None = None
    error: Fault | None = None
    fitness: float | None = None
    timeline: tuple[Span, ...] = ()
    phases_s: Mapping[str, float] = field(default_factory=dict)
    recorded_duration_s: float | None = None

    def to_attrs(self) -> dict[str, Any]:
        """The attributes as JSON can hold them; what is absent has none."""
        plain: dict[str, Any] = {
            name: _adapter(name).dump_python(value, mode="json", exclude_none=True)
            for name in _NAMES
            if (value := getattr(self, name)) or value == 0.0
        }
        figures = {name: value for name, value in self.figures.items() if math.isfinite(value)}
        return {"schema": SCHEMA, **plain, **figures}

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any]) -> TrialEvidence:
        """Read what stands on a trial.

        A part that cannot be read is left out, and a doubt says so: one bad trial does not cost a
        report.
        """
        if "schema" not in attrs:
            attrs = _of_first_version(attrs)
        known: dict[str, Any] = {}
        unread: list[str] = []
        for name in _NAMES:
            if attrs.get(name) is None:
                continue
            try:
                known[name] = _adapter(name).validate_python(attrs[name])
            except ValidationError as error:
                where = ".".join(map(str, (name, *error.errors()[0]["loc"])))
                unread.append(f"its attribute {where} is not readable")
        figures = {
            name: float(value)
            for name, value in attrs.items()
            if name not in _RESERVED and is_number(value)
        }
        doubts = (*known.pop("doubts", ()), *unread)
        return cls(figures=figures, doubts=doubts, **known)


def infeasible_of(attrs: Mapping[str, Any]) -> Infeasible | None:
    """Why a trial's candidate cannot work, from its attributes; the rest is not read."""
    return cast(Infeasible | None, _part("infeasible", attrs))


def fault_of(attrs: Mapping[str, Any]) -> Fault | None:
    """Why the bench gave no answer, likewise."""
    return cast(Fault | None, _part("error", attrs))


def intervals_of(attrs: Mapping[str, Any]) -> Mapping[str, Interval]:
    """Objective to the interval of its value, likewise."""
    return _part("intervals", attrs) or {}


def _part(name: str, attrs: Mapping[str, Any]) -> Any:  # noqa: ANN401 - as the field is
    """One part that every version keeps under the same name; None if absent or not readable."""
    try:
        return None if attrs.get(name) is None else _adapter(name).validate_python(attrs[name])
    except ValidationError:
        return None


def _of_first_version(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The same in the names of this version."""
    now = dict(attrs)
    if isinstance(said := now.pop("whisper", None), Mapping):
        now["health"] = {"whisper": said}
    if isinstance(memory := now.get("footprint"), Mapping):
        logged = memory.get("logged")
        if isinstance(logged, Mapping) and "kv_cache_bytes" in logged:
            logged = {"available_kv_bytes": logged["kv_cache_bytes"], **logged}
        now["footprint"] = {"vllm": {**memory, "logged": logged}}
        speech = memory.get("predicted") or {}
        if "whisper_bytes" in speech:
            held = {
                "held_bytes": speech["whisper_bytes"],
                "held_source": speech.get("whisper_source"),
            }
            now["footprint"]["whisper"] = {"predicted": held}
    return now


_NAMES = tuple(each.name for each in fields(TrialEvidence) if each.name != "figures")
_RESERVED = frozenset(_NAMES) | {"schema"}


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(get_type_hints(TrialEvidence)[name])
