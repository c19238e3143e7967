"""What real starts taught: a study's memory of its engines' memory.

The log of an engine that started once says what it holds beside the KV cache. The next
prediction for the same engine, model and device rests on that; only what changed since (another
`max_num_seqs`, say) is still estimated, as a difference. Nothing is ever carried from one version,
model or device to another.

`Calibration` is immutable and JSON-able, so that it can be kept with the study.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from objectives.memory.estimate import Estimate
from objectives.memory.observed_start import Start, observe_start
from objectives.memory.parts import GRAPHS, Parts
from objectives.memory.server_model import EngineKey, ServerModel
from objectives.units import MIB
from objectives.vllm import StartupFacts

SCHEMA = 1

_KEPT_STARTS = 8
"""Starts of the same settings that are remembered; older ones are forgotten."""

_CUDA_MARGIN_BYTES = 64 * MIB
_CPU_MARGIN_BYTES = 96 * MIB
"""A worker's resident size differs by about 40 MiB from start to start: what its heap keeps."""

_CHANGE_MARGIN = 0.5
"""Of an estimated difference, what may be wrong."""


@dataclass(frozen=True, kw_only=True)
class WhisperPeak:
    """The most that a speech model, by `WhisperModel.key`, held on a device, by UUID."""

    device: str
    model: str
    peak_bytes: int
    trials: int = 1


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Everything learned so far; start with `Calibration()`."""

    starts: tuple[Start, ...] = ()
    whispers: tuple[WhisperPeak, ...] = ()

    def learn(
        self,
        server: ServerModel,
        facts: StartupFacts,
        *,
        total_bytes: int,
        charged_bytes: int = 0,
    ) -> Calibration:
        """This, and what one start's log says; itself, where the log tells nothing of use.

        `total_bytes` are the device's, read right before the launch; `charged_bytes` what the
        version charged, of vLLM's share, for memory that others held (`Footprint.charged_bytes`).
        """
        start = observe_start(server, facts, total_bytes=total_bytes, charged_bytes=charged_bytes)
        if start is None:
            return self
        alike = [at for at, known in enumerate(self.starts) if known.same_settings(start)]
        forgotten = alike[: max(0, len(alike) + 1 - _KEPT_STARTS)]
        kept = [known for at, known in enumerate(self.starts) if at not in forgotten]
        return replace(self, starts=(*kept, start))

    def learn_whisper(self, *, model: str, device: str, peak_bytes: int) -> Calibration:
        """This, and what a speech model's processes held in one trial; on a CPU, resident."""
        known = self._whisper(model, device)
        others = tuple(w for w in self.whispers if (w.device, w.model) != (device, model))
        seen = WhisperPeak(device=device, model=model, peak_bytes=peak_bytes)
        if known is not None:
            most = max(peak_bytes, known.peak_bytes)
            seen = replace(known, peak_bytes=most, trials=known.trials + 1)
        return replace(self, whispers=(*others, seen))

    def whisper(self, *, model: str, device: str) -> Estimate | None:
        """The peak that was seen of a speech model on a device; None if it never ran there."""
        known = self._whisper(model, device)
        if known is None:
            return None
        share = 8 if known.trials < 3 else 16
        return Estimate(
            value_bytes=known.peak_bytes,
            source="calibrated",
            margin_bytes=known.peak_bytes // share + 64 * MIB,
            note=f"highest of {known.trials}",
        )

    def _whisper(self, model: str, device: str) -> WhisperPeak | None:
        return next((w for w in self.whispers if (w.device, w.model) == (device, model)), None)

    def parts(self, server: ServerModel, estimated: Parts) -> Parts:
        """The parts of an engine that started before; what was estimated if it never did.

        A start that was seen stands before every estimate, and its margin is its rounding. Starts
        with the same settings are averaged (median). Without any, the nearest one is taken and the
        estimated difference added, with half of it as margin. A given overhead stands before all.
        """
        known = [start for start in self.starts if start.key == server.key]
        if not known or server.overhead is not None:
            return estimated
        change = {start: start.change_bytes(server) for start in known}
        nearest = min(
            known, key=lambda start: (abs(change[start]), not start.matches(server.settings))
        )
        alike = [start for start in known if start.same_settings(nearest)]
        held = int(median(start.inside_bytes for start in alike)) + change[nearest]
        margin = _margin(alike, on_cpu=server.on_cpu) + int(_CHANGE_MARGIN * abs(change[nearest]))
        return _split(held, margin, nearest, estimated, len(alike))

    def to_dict(self) -> dict[str, Any]:
        """The whole as JSON."""
        return {
            "schema": SCHEMA,
            "starts": [asdict(start) for start in self.starts],
            "whispers": [asdict(peak) for peak in self.whispers],
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Calibration:
        """Read what `to_dict` wrote; entries that are not understood are left out."""
        return cls(
            starts=tuple(_understood(document.get("starts") or (), _start)),
            whispers=tuple(_understood(document.get("whispers") or (), WhisperPeak)),
        )


def _margin(alike: Iterable[Start], *, on_cpu: bool) -> int:
    held = [start.inside_bytes for start in alike]
    least = _CPU_MARGIN_BYTES if on_cpu else _CUDA_MARGIN_BYTES
    return max(least, max(held) - min(held)) + max(start.rounding_bytes for start in alike)


def _split(held: int, margin: int, nearest: Start, estimated: Parts, starts: int) -> Parts:
    """Divide what was learned as a sum into parts that people can read."""
    note = f"from {starts} start{'s' if starts > 1 else ''}"

    def learned(value: int, margin: int = 0) -> Estimate:
        return Estimate(value_bytes=value, source="calibrated", margin_bytes=margin, note=note)

    weights = min(held, nearest.weights_bytes or estimated.weights.value_bytes)
    graphs = min(held - weights, nearest.graph_estimate_bytes)
    rest = held - weights - graphs
    on_cpu = nearest.key.device_kind == "cpu"
    non_torch = rest if on_cpu else min(rest, estimated.non_torch.value_bytes)
    late = estimated.late
    if late.note == GRAPHS and nearest.graph_bytes is not None:
        late = learned(nearest.graph_bytes, nearest.graph_bytes // 8 + 32 * MIB)
    return Parts(
        weights=learned(weights),
        activation=learned(rest - non_torch, margin),
        non_torch=learned(non_torch),
        graphs=learned(graphs),
        context=estimated.context,
        late=late,
    )


def _start(*, key: Mapping[str, Any], **rest: Any) -> Start:  # noqa: ANN401 - as it was stored
    return Start(key=EngineKey(**key), **rest)


def _understood(entries: Iterable[Any], make: Callable[..., Any]) -> Iterator[Any]:
    for entry in entries:
        with contextlib.suppress(TypeError):
            yield make(**entry)
