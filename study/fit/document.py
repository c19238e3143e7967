"""What `study.fit` was asked and answered, and the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from objectives.memory import Prediction, break_even, cheapest_gains, overhead_note

if TYPE_CHECKING:
    from study.setup import Predicted


_PARTS = (
    "weights_bytes",
    "activation_bytes",
    "non_torch_bytes",
    "graph_bytes",
    "kv_cache_bytes",
    "outside_bytes",
    "whisper_bytes",
)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What the answers of one question have in common, and no prediction knows."""

    model: str  # for people
    device_name: str = ""  # empty where only numbers were given
    free_known: bool = False  # given or read; else the device is taken as empty
    whisper: str | None = None  # the size that runs beside it


def answers_to_json(scene: Scene, answers: Sequence[Prediction]) -> dict[str, object]:
    """One answer as it is; several under `candidates`."""
    if len(answers) == 1:
        return _answer_to_dict(scene, answers[0])
    return {
        "fits": any(answer.fits for answer in answers),
        "candidates": [_answer_to_dict(scene, answer) for answer in answers],
    }


def _answer_to_dict(scene: Scene, prediction: Prediction) -> dict[str, object]:
    server, memory = prediction.server, prediction.footprint.memory
    even = break_even(prediction)
    return {
        **prediction_to_dict(prediction),
        "utilization": server.settings.utilization,
        "device": {
            "name": scene.device_name or None,
            "kind": server.rules.device_kind,
            "total_bytes": memory.total_bytes,
            "free_bytes": memory.free_bytes,
        },
        "vllm_version": server.rules.version,
        "max_num_seqs": server.settings.max_num_seqs,
        "break_even": None if even is None else asdict(even),
        "room": [asdict(gain) for gain in cheapest_gains(prediction)],
        "note": overhead_note(prediction) or None,
    }


def prediction_to_dict(prediction: Prediction) -> dict[str, object]:
    """A prediction under the names that `study.fit --json` promises, and more."""
    footprint, server = prediction.footprint, prediction.server
    held = {**footprint.bytes_by_part, "kv_cache_bytes": footprint.kv_cache_bytes}
    return {
        "fits": prediction.fits,
        "cause": prediction.cause,
        "kv_cache_bytes": footprint.kv_cache_bytes,
        "kv_cache_tokens": footprint.capacity.tokens,
        "max_concurrency": footprint.capacity.max_concurrency,
        "footprint": {name: held[name] for name in _PARTS},
        "figures": {name: part.to_dict() for name, part in footprint.figures.items()},
        "excess_bytes": prediction.excess_bytes,
        "excess_gib": dict(prediction.excess),
        "margin_gib": dict(prediction.margins),
        "certain": prediction.certain,
        "evidence": prediction.evidence,
        "remedy": prediction.remedy,
        "requested_bytes": footprint.requested_bytes,
        "available_bytes": footprint.available_bytes,
        "needed_bytes": server.needed_bytes,
        "max_model_len": server.max_model_len,
        "unmodelled": list(server.unmodelled),
    }


def candidates_to_list(rows: Sequence[Predicted]) -> dict[str, object]:
    """A study's candidates as JSON."""
    return {
        "fits": any(row.prediction.fits for row in rows),
        "candidates": [_candidate(row) for row in rows],
    }


def _candidate(row: Predicted) -> dict[str, object]:
    prediction = row.prediction
    start = next(iter(prediction.starts.values()), None)
    known = {} if start is None else prediction_to_dict(start)
    return {
        "params": dict(row.params),
        **known,
        "fits": prediction.fits,
        "doubts": list(prediction.doubts),
    }
