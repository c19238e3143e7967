"""vLLM's OpenAI-compatible server."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from objectives.candidate import ServerSettings
from objectives.device import Device
from objectives.errors import WrongDeviceError
from objectives.evidence import PredictedMemory
from objectives.kinds.allocator import allocator_environment
from objectives.kinds.forecast import Forecast, Moment, ServerMemory
from objectives.kinds.kind import Proof, ServerKind, Up
from objectives.kinds.placement import prove_by_driver
from objectives.load import LoadedServer, Target
from objectives.memory import Calibration, DeviceMemory, ServerModel, add, given, predict_vllm
from objectives.models import ModelShape, UnsupportedShapeError
from objectives.servers import Launch
from objectives.units import GIB, DeviceKind
from objectives.vllm import StartupFacts, VllmRules, VllmSettings, lines_of, read_startup

LATEST_VLLM = "0.32.0"
"""Whose rules hold where no engine is there to be asked."""

SERVED_NAME = "llm"
"""What requests call the model, whatever its path."""

PAGES_EVERY_S = 2.0
"""Between two readings of its metrics under load, seconds."""

_TOTAL_MARGIN = {"cuda": 0.01, "cpu": 0.005}
"""A driver's and CUDA's idea of the whole differ; a CPU's node may grow while a server starts."""

_PRINTED_GIB = 0.01
"""The last digit of a size in a log."""

_MOVED = 0.005
"""A device total that moved by more than this share is worth saying."""


@dataclass(frozen=True, kw_only=True)
class VllmForecast(Forecast):
    """What is known of a vLLM before its launch.

    Attributes:
        moment: The device when it was made.
        server: What its memory depends on; None where that is not known.
    """

    moment: Moment
    server: ServerModel | None = None

    def moved(self, facts: StartupFacts) -> str | None:
        """A sentence if vLLM saw another device total than the forecast did, else None."""
        expected, total = self.moment.total_bytes, self._total_seen(facts)
        if total is None or abs(total - expected) <= _MOVED * expected:
            return None
        return (
            f"the device's total moved from {expected / GIB:.2f} to {total / GIB:.2f} GiB "
            "before vLLM read it: the utilisation is of the second"
        )

    def surprise(self, facts: StartupFacts) -> str | None:
        """A sentence if a calibrated KV cache came out other than predicted, beyond the margin."""
        if self.start is None or facts.available_kv_bytes is None:
            return None
        footprint = self.start.footprint
        if footprint.parts.weights.source != "calibrated":
            return None
        margin = self.start.margins["kv_cache_gib"] + _PRINTED_GIB
        off_gib = (facts.available_kv_bytes - footprint.available_bytes) / GIB
        if abs(off_gib) <= margin:
            return None
        return (
            f"the KV cache is {facts.available_kv_bytes / GIB:.2f} GiB, expected were "
            f"{footprint.available_bytes / GIB:.2f}: memory moved while it was measured"
        )

    def learn(self, known: Calibration, facts: StartupFacts) -> Calibration:
        """What is known, and what vLLM's start taught."""
        if self.server is None:
            return known
        seen = self._total_seen(facts) if self.moved(facts) else None
        return known.learn(
            self.server,
            facts,
            total_bytes=seen or self.moment.total_bytes,
            charged_bytes=0 if self.start is None else self.start.footprint.charged_bytes,
        )

    def _total_seen(self, facts: StartupFacts) -> int | None:
        """The device's total as vLLM's log gives it, or as its share lets one compute it."""
        if facts.device_total_bytes is not None:
            return facts.device_total_bytes
        if facts.requested_bytes is None or self.server is None:
            return None
        return round(facts.requested_bytes / self.server.settings.utilization)

    def stored(self) -> PredictedMemory:
        """The forecast as it is kept with a trial."""
        known = replace(super().stored(), total_bytes=self.moment.total_bytes)
        if self.start is None:
            return known
        footprint, parts = self.start.footprint, self.start.footprint.parts
        return replace(
            known,
            weights_bytes=parts.weights.value_bytes,
            activation_bytes=parts.activation.value_bytes,
            non_torch_bytes=parts.non_torch.value_bytes,
            graph_bytes=parts.graphs.value_bytes,
            outside_bytes=parts.outside.value_bytes,
            kv_cache_bytes=footprint.kv_cache_bytes,
            kv_cache_tokens=footprint.capacity.tokens,
            max_concurrency=footprint.capacity.max_concurrency,
            requested_bytes=footprint.requested_bytes,
            margin_bytes=footprint.margin_bytes,
            fits=self.start.fits,
            certain=self.start.certain,
            cause=self.start.cause,
            sources={name: figure.source for name, figure in footprint.figures.items()},
            excess_gib=dict(self.start.excess),
            margin_gib=dict(self.start.margins),
        )


@dataclass(frozen=True, kw_only=True)
class VllmMemory(ServerMemory):
    """What decides vLLM's memory, beside settings and device.

    Attributes:
        model: As people name it.
        shape: The model's; None: nothing is predicted.
        shape_missing: Why not.
        version: vLLM's, whose rules hold.
        weights_bytes: Of the model's files; None: estimated from the shape.
    """

    model: str
    shape: ModelShape | None
    shape_missing: str | None = None
    version: str = LATEST_VLLM
    weights_bytes: int | None = None

    def forecast(self, settings: ServerSettings, moment: Moment) -> VllmForecast:
        """Whether it will start, and what its KV cache will be."""
        known = VllmForecast(moment=moment)
        if self.shape is None:
            return replace(known, doubts=(_unpredicted(self.shape_missing),))
        try:
            server = self._server(self.shape, settings, moment)
            known = replace(known, server=server, max_num_seqs=server.settings.max_num_seqs)
            start = predict_vllm(server, _found(moment), moment.calibration)
        except UnsupportedShapeError as error:
            return replace(known, doubts=(_unpredicted(error),))
        share = given(start.footprint.requested_bytes, "its share")
        return replace(known, start=start, held=add(share, start.footprint.parts.outside))

    def _server(self, shape: ModelShape, settings: ServerSettings, moment: Moment) -> ServerModel:
        rules = VllmRules(self.version, moment.kind)
        return ServerModel(
            shape=shape,
            settings=VllmSettings.from_args(
                settings.args,
                rules,
                device_total_bytes=moment.total_bytes,
                device_name=moment.device_name,
                env=settings.env,
            ),
            rules=rules,
            name=self.model,
            device=moment.uuid,
            weights_bytes=self.weights_bytes,
        )


def _found(moment: Moment) -> DeviceMemory:
    """The device as vLLM will find it."""
    return DeviceMemory(
        total_bytes=moment.total_bytes,
        free_bytes=moment.free_bytes,
        whisper=moment.beside,
        later=moment.later,
        headroom_bytes=moment.headroom_bytes,
        total_margin_bytes=int(_TOTAL_MARGIN[moment.kind] * moment.total_bytes),
        free_margin_bytes=moment.free_margin_bytes,
    )


def _unpredicted(why: object) -> str:
    return f"vLLM's memory was not predicted: {why}"


@dataclass(frozen=True, kw_only=True)
class VllmKind(ServerKind):
    """A vLLM of a study.

    Attributes:
        path: What it is given as its model: a name, or a folder.
        is_local: Nothing of it has to be looked up elsewhere.
    """

    role: ClassVar[LoadedServer | None] = "llm"
    family: ClassVar[str] = "vllm"

    memory: VllmMemory
    path: str
    is_local: bool

    def launch(
        self, settings: ServerSettings, device: Device, *, port: int, key: str, log: Path
    ) -> Launch:
        """How vLLM is started for a candidate."""
        argv = [
            *self.engine.vllm_command(),
            *("--model", self.path),
            *("--served-model-name", SERVED_NAME),
            *("--host", "127.0.0.1", "--port", str(port)),
        ]
        if self.is_dummy:
            argv += ["--load-format", "dummy"]
        argv += settings.options(negated=True)
        env = {
            **self.engine.environment(device.kind, role="vllm", offline=self.is_local),
            **device.environment(),
            **allocator_environment(settings, device),
            **settings.env,
            "VLLM_API_KEY": key,
        }
        return Launch(name=self.name, argv=tuple(argv), env=env, log=log)

    def device_kind(self, settings: ServerSettings, device: Device) -> DeviceKind:
        """The study's, whatever the settings call it: a vLLM is built for one kind."""
        return device.kind

    def target(self, settings: ServerSettings, server: Up) -> Target:
        """Where prompts go."""
        return Target(
            url=server.url, model=SERVED_NAME, api_key=server.key, pages_every_s=PAGES_EVERY_S
        )

    def prove(self, settings: ServerSettings, device: Device, server: Up) -> Proof:
        """Its log says which kind of device holds its KV cache, the driver which one of them."""
        with server.log.open("rb") as stream:
            facts = read_startup(lines_of(stream))
        found, asked = facts.device_kind, device.kind
        if found is not None and found != asked:
            misplaced = WrongDeviceError(
                "cpu_fallback",
                f"{self.name} keeps its KV cache on {found}, not on {asked}",
            )
            return Proof(facts=facts, failure=misplaced)
        if asked == "cuda":
            by_driver = prove_by_driver(self.name, device, server, facts.weights_bytes)
            return replace(by_driver, facts=facts)
        return Proof(facts=facts, said="" if found is None else "its log: the KV cache is there")
