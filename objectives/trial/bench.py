"""The bench: all that stays the same from trial to trial of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from objectives.candidate import ServerSettings
from objectives.constraints import Limit, names
from objectives.device import Device
from objectives.load import LoadProfile, Trace
from objectives.models import ModelShape
from objectives.servers import Engine, Neighbour
from objectives.space import SearchSpace

Start = Literal["neighbours", "whisper", "vllm"]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is wanted of one figure.

    Attributes:
        name: The figure's name, as the first users gave it.
        target: Where a neutral objective wants to be; its value is the distance to it.
    """

    name: str
    target: float | None = None

    def value(self, measured: float) -> float:
        """The value that is stored for a measured figure."""
        return measured if self.target is None else abs(measured - self.target)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where and how candidates of a study are judged.

    Attributes:
        space: What may vary.
        device: The shared device.
        vllm_engine: What vLLM is launched with.
        whisper_engine: What Whisper is launched with.
        vllm: vLLM's fixed settings; `model` as people name it.
        whisper: Whisper's fixed settings.
        llm_path: What vLLM is given as its model: a name, or a folder.
        llm_is_dummy: vLLM's weights are random.
        llm_is_local: Nothing of it has to be looked up elsewhere.
        shape: The model's shape; None where its `config.json` is not to be had.
        shape_missing: Why not.
        llm_weights_bytes: Of its files; None if unknown.
        whisper_paths: Whisper model as people name it, to what the worker is given.
        whisper_is_dummy: Whisper's weights are random.
        neighbours: Tenants that are not tuned.
        start_order: Who starts after whom.
        profile: The load, as numbers.
        trace: The load, request by request.
        quantile: Which quantile of the latencies the objectives are.
        objectives: What is wanted, in order.
        limits: Hard objectives of the service.
        wer: Published word error rate by Whisper model, percent.
        headroom_bytes: What must stay free on the device.
        vllm_start_s: Seconds until vLLM must be healthy.
        whisper_start_s: Seconds until Whisper must be healthy.
        trial_timeout_s: Seconds that a trial may take; None: as long as it takes.
        lock_folder: Where device locks are; None: the machine's own place.
    """

    space: SearchSpace
    device: Device
    vllm_engine: Engine
    whisper_engine: Engine
    vllm: ServerSettings
    whisper: ServerSettings
    llm_path: str
    llm_is_dummy: bool
    llm_is_local: bool
    shape: ModelShape | None
    shape_missing: str | None = None
    llm_weights_bytes: int | None = None
    whisper_paths: Mapping[str, str]
    whisper_is_dummy: bool
    neighbours: Sequence[Neighbour] = ()
    start_order: Sequence[Start] = ("neighbours", "whisper", "vllm")
    profile: LoadProfile
    trace: Trace
    quantile: Literal["p50", "p95"] = "p95"
    objectives: Sequence[Objective]
    limits: Sequence[Limit] = ()
    wer: Mapping[str, float] = field(default_factory=dict)
    headroom_bytes: int = 256 << 20
    vllm_start_s: float = 600.0
    whisper_start_s: float = 180.0
    trial_timeout_s: float | None = None
    lock_folder: Path | None = None

    @property
    def constraint_names(self) -> tuple[str, ...]:
        """What every trial carries, in order."""
        return names(self.limits)

    @property
    def weights(self) -> Literal["real", "dummy"]:
        """`dummy` where either server's weights are random."""
        return "dummy" if self.llm_is_dummy or self.whisper_is_dummy else "real"
