"""What `study.fit` was asked and answered, and the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from objectives.memory import BreakEven, Gain, Prediction
from objectives.models import ModelShape
from objectives.vllm import VllmSettings

if TYPE_CHECKING:
    from study.setup import Predicted


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What the answers of one question have in common.

    Attributes:
        model: Its name.
        shape: Its shape.
        device_name: Empty where only numbers were given.
        device_kind: "cuda" or "cpu".
        total_bytes: Of the device.
        free_bytes: Free before Whisper and vLLM start.
        free_known: It was given or read; else the device is taken as empty.
        version: vLLM's.
        whisper: The size that runs beside it; None for none.
    """

    model: str
    shape: ModelShape
    device_name: str
    device_kind: str
    total_bytes: int
    free_bytes: int
    free_known: bool
    version: str
    whisper: str | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One utilisation, and what came out.

    Attributes:
        utilization: The fraction.
        settings: The server's.
        prediction: What came out.
        break_even: The least fractions that work; None where the fraction sizes nothing.
        gains: Flags that make room, the cheapest first.
        note: What a given overhead says of the server; empty for nothing.
    """

    utilization: float
    settings: VllmSettings
    prediction: Prediction
    break_even: BreakEven | None
    gains: Sequence[Gain]
    note: str = ""


def answers_to_json(scene: Scene, answers: Sequence[Answer]) -> dict[str, object]:
    """One answer as it is; several under `candidates`."""
    if len(answers) == 1:
        return _answer_to_dict(scene, answers[0])
    return {
        "fits": any(answer.prediction.fits for answer in answers),
        "candidates": [_answer_to_dict(scene, answer) for answer in answers],
    }


def _answer_to_dict(scene: Scene, answer: Answer) -> dict[str, object]:
    prediction = answer.prediction
    even = answer.break_even
    return {
        **prediction_to_dict(prediction),
        "utilization": answer.utilization,
        "device": {
            "name": scene.device_name or None,
            "kind": scene.device_kind,
            "total_bytes": scene.total_bytes,
            "free_bytes": scene.free_bytes,
        },
        "vllm_version": scene.version,
        "max_num_seqs": answer.settings.max_num_seqs,
        "break_even": None if even is None else even.to_dict(),
        "room": [gain.to_dict() for gain in answer.gains],
        "note": answer.note or None,
    }


def prediction_to_dict(prediction: Prediction) -> dict[str, object]:
    """A prediction under the names that `study.fit --json` promises, and more."""
    footprint = prediction.footprint
    return {
        "fits": prediction.fits,
        "cause": prediction.cause,
        "kv_cache_bytes": footprint.kv_cache_bytes,
        "kv_cache_tokens": footprint.kv_cache_tokens,
        "max_concurrency": footprint.max_concurrency,
        "footprint": {
            "weights_bytes": footprint.weights.value_bytes,
            "activation_bytes": footprint.activation.value_bytes,
            "non_torch_bytes": footprint.non_torch.value_bytes,
            "graph_bytes": footprint.graphs.value_bytes,
            "kv_cache_bytes": footprint.kv_cache_bytes,
            "outside_bytes": footprint.outside.value_bytes,
            "whisper_bytes": footprint.whisper.value_bytes,
        },
        "figures": {name: part.to_dict() for name, part in footprint.parts.items()},
        "excess_bytes": prediction.excess_bytes,
        "excess_gib": dict(prediction.excess),
        "margin_gib": dict(prediction.margins),
        "certain": prediction.certain,
        "evidence": prediction.evidence,
        "remedy": prediction.remedy,
        "requested_bytes": footprint.requested_bytes,
        "available_bytes": footprint.available_bytes,
        "needed_bytes": prediction.needed_bytes,
        "max_model_len": prediction.max_model_len,
        "unmodelled": list(prediction.unmodelled),
    }


def candidates_to_list(rows: Sequence[Predicted]) -> dict[str, object]:
    """A study's candidates as JSON."""
    return {"fits": any(row.fits for row in rows), "candidates": [_candidate(row) for row in rows]}


def _candidate(row: Predicted) -> dict[str, object]:
    prediction = row.prediction
    start = next(iter(prediction.starts.values()), None)
    known = {} if start is None else prediction_to_dict(start)
    return {
        "params": dict(row.params),
        **known,
        "fits": row.fits,
        "doubts": list(prediction.doubts),
    }
