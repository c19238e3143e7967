"""Whisper, as our own worker serves it: openai-whisper or faster-whisper behind one address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from objectives.candidate import ServerSettings
from objectives.causes import remedy_of
from objectives.device import Device
from objectives.errors import BenchError, ServingError, WrongDeviceError
from objectives.kinds.allocator import allocator_environment
from objectives.kinds.forecast import Forecast, Moment, ServerMemory
from objectives.kinds.kind import Proof, ServerKind, Up
from objectives.kinds.placement import prove_by_driver
from objectives.load import LoadedServer, Target
from objectives.memory import Calibration, WhisperModel, whisper_dtype
from objectives.models import UnsupportedShapeError
from objectives.servers import Launch, http_json
from objectives.units import GIB, DeviceKind, Scalar, is_number


@dataclass(frozen=True, kw_only=True)
class WhisperForecast(Forecast):
    """What is known of a Whisper before its launch.

    Attributes:
        key: The name by which its peak is remembered; None where it holds none of the device.
        uuid: The device's.
    """

    key: str | None = None
    uuid: str = ""

    def learn_peak(self, known: Calibration, peak_bytes: int) -> Calibration:
        """What is known, and the most that this Whisper was seen to hold on this device."""
        if self.key is None:
            return known
        return known.learn_whisper(model=self.key, device=self.uuid, peak_bytes=peak_bytes)


@dataclass(frozen=True, kw_only=True)
class WhisperMemory(ServerMemory):
    """Parameters and buffers by the model's size, or the peak that was seen.

    Attributes:
        capability: Of the study's GPU, where it has one and the driver tells it.
    """

    capability: tuple[int, int] | None = None

    def forecast(self, settings: ServerSettings, moment: Moment) -> WhisperForecast:
        """What it will hold of the study's device."""
        if settings.device == "cpu" and moment.kind == "cuda":
            return WhisperForecast()
        dtype = settings.args.get("dtype")
        model = WhisperModel(
            name=settings.model,
            dtype=None if dtype is None else str(dtype),
            capability=self.capability,
            fp16_weights=settings.args.get("fp16-weights") is True,
            beam_size=_whole(settings.args.get("beam-size")),
        )
        unknown = WhisperForecast(key=model.key, uuid=moment.uuid)
        try:
            held = model.expect(moment.kind, moment.calibration, moment.uuid)
        except UnsupportedShapeError as error:
            return replace(unknown, doubts=(f"Whisper's memory was not predicted: {error}",))
        return replace(unknown, held=held)


@dataclass(frozen=True, kw_only=True)
class WhisperKind(ServerKind):
    """A Whisper of a study.

    Attributes:
        paths: Model as people name it, to what the worker is given.
        fixed_tokens: Tokens of every answer, whatever is heard; None: as the model likes.
    """

    role: ClassVar[LoadedServer | None] = "stt"
    family: ClassVar[str] = "whisper"

    paths: Mapping[str, str]
    fixed_tokens: int | None = None

    def launch(
        self, settings: ServerSettings, device: Device, *, port: int, key: str, log: Path
    ) -> Launch:
        """How Whisper is started for a candidate."""
        kind = self.device_kind(settings, device)
        path = self.paths.get(settings.model, settings.model)
        argv = [
            *self.engine.whisper_command(),
            *("--model", path),
            *("--device", "cuda:0" if kind == "cuda" else "cpu"),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--api-key-env", "WHISPER_API_KEY"),
        ]
        if self.fixed_tokens is not None:
            argv += ["--fixed-tokens", str(self.fixed_tokens)]
        argv += self._for_its_device(settings, kind).options()
        hidden = {"CUDA_VISIBLE_DEVICES": ""}
        env = {
            **self.engine.environment(kind, role="whisper", offline=Path(path).exists()),
            **(self._placed(settings, device) if kind == device.kind else hidden),
            **settings.env,
            "WHISPER_API_KEY": key,
        }
        return Launch(name=self.name, argv=tuple(argv), env=env, log=log)

    def _placed(self, settings: ServerSettings, device: Device) -> dict[str, str]:
        return {**device.environment(), **allocator_environment(settings, device)}

    def target(self, settings: ServerSettings, server: Up) -> Target:
        """Where clips go."""
        return Target(url=server.url, model=settings.model, api_key=server.key)

    def prove(self, settings: ServerSettings, device: Device, server: Up) -> Proof:
        """Whisper's own word about the device that it computes on."""
        try:
            health = http_json(f"{server.url}/health", api_key=server.key)
        except (OSError, ValueError) as error:
            trouble = "does not answer" if isinstance(error, OSError) else "is no JSON"
            return Proof(failure=BenchError(f"{self.name}'s /health {trouble}: {error}"))
        if not isinstance(health, dict):
            said = f"{self.name}'s /health says {str(health)[:80]!r}, not what it computes on"
            return Proof(failure=BenchError(said))
        failure = self._misplacement(settings, device, health)
        doubts = self._type_doubts(settings, device)
        if failure is not None or self.device_kind(settings, device) == "cpu":
            said = f"it says that it computes on {health.get('compute_device')}"
            said = "" if failure else said
            return Proof(health=health, failure=failure, said=said, doubts=doubts)
        which = self._which(device, health, server)
        return replace(which, health=health, doubts=(*which.doubts, *doubts))

    def _type_doubts(self, settings: ServerSettings, device: Device) -> tuple[str, ...]:
        """A doubt where it got another type than the candidate asks for."""
        if self._for_its_device(settings, self.device_kind(settings, device)) == settings:
            return ()
        return (
            f"{self.name}'s dtype float16 is for a GPU; on the CPU it computed in float32. Leave "
            "dtype out, and it goes by the device",
        )

    def _for_its_device(self, settings: ServerSettings, kind: DeviceKind) -> ServerSettings:
        """The settings as the worker gets them: a type for GPUs does not go to a CPU."""
        asked = settings.args.get("dtype")
        if asked is None or (dtype := whisper_dtype(str(asked), kind)) == asked:
            return settings
        return replace(settings, args={**settings.args, "dtype": dtype})

    def _which(self, device: Device, health: Mapping[str, Any], server: Up) -> Proof:
        """Which GPU it is on: torch knows the UUID; where it is too old for that, the driver."""
        uuid, held = health.get("uuid"), health.get("parameters_bytes")
        if not isinstance(uuid, str):
            least = int(held) if is_number(held) else None
            return prove_by_driver(self.name, device, server, least)
        if uuid.lower() == device.uuid.lower():
            return Proof(said=f"torch's UUID of its device is that of {device.spoken}")
        return Proof(
            failure=BenchError(
                f"{self.name} computes on {health.get('device_name')} ({uuid}), not on "
                f"{device.spoken}"
            )
        )

    def _misplacement(
        self, settings: ServerSettings, device: Device, health: Mapping[str, Any]
    ) -> ServingError | None:
        asked = self.device_kind(settings, device)
        said = str(health.get("compute_device") or "")
        computed = said.split(":", maxsplit=1)[0]
        if computed == asked:
            return None
        if (asked, computed) != ("cuda", "cpu"):
            return BenchError(f"{self.name} says that it computes on {said!r}, asked was {asked}")
        dtype = health.get("compute_dtype")
        return WrongDeviceError(
            "cpu_fallback",
            f"{self.name} computes on {said} ({dtype}), not on {asked}",
            remedy=remedy_of("cpu_fallback", {}, self.family),
            excess=_misplaced(health),
        )


def _misplaced(health: Mapping[str, Any]) -> dict[str, float]:
    """The constraint of a model on the wrong device: its GiB that are not where they belong."""
    held = health.get("parameters_bytes")
    return {"placement_gib": held / GIB} if is_number(held) and held > 0 else {}


def _whole(value: Scalar | None) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 1
