"""The first users' format: one experiment block of `dream.yaml`, turned into ours.

Pure: mappings in, a mapping out. What the block does not say is taken from the bundled study
that the caller hands over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from objectives.errors import UsageError
from objectives.units import Scalar, is_number
from study.config.refusals import kind_of, nearest
from study.config.schema import Document

BINDINGS = {
    "vllm_memory_util": "vllm.args.gpu-memory-utilization",
    "whisper_model_size": "whisper.model",
}
"""What the two legacy parameters are bound to."""

BOUNDS = {"vllm_memory_util": (0.30, 0.70)}
"""Their hard bounds."""

BASELINE: dict[str, Scalar] = {"vllm_memory_util": 0.50, "whisper_model_size": "small"}
"""What ran when the first users began."""

TARGETS = {"gpu_utilization": 70.0}
"""Where a neutral objective wants to be, percent."""

_KEYS = {"enabled", "template", "evaluator", "metrics"}
_BUDGET = ("wallclock_sec", "max_candidates", "max_generations", "allow_gpu")
_DIRECTIONS = {"down": "minimize", "up": "maximize", "neutral": "neutral"}


def is_legacy(block: Mapping[str, Any]) -> bool:
    """Whether a block is of the legacy format."""
    budget = block.get("budget")
    return bool(_KEYS & set(block)) or (
        isinstance(budget, dict) and bool(set(_BUDGET) & set(budget))
    )


def from_legacy(
    block: Mapping[str, Any], *, source: str, bundled: Callable[[bool], dict[str, Any]]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A `dream.yaml` block over a bundled study; `bundled` is told whether a GPU may be used.

    Returns:
        The same in our format, and what a person has to read once.

    Raises:
        UsageError: The block says something that is not allowed.
    """
    if block.get("enabled") is False:
        raise UsageError(f"{source}: enabled: found false; the experiment is switched off")
    allowed = sorted(_KEYS | set(Document.model_fields))
    for key in sorted(set(block) - set(allowed)):
        raise UsageError(f"{source}: {key}: unknown key{nearest(key, allowed)}")
    budget = _mapping(block, "budget", source)
    for key in budget:
        if key not in _BUDGET:
            raise UsageError(f"{source}: budget.{key}: unknown key{nearest(str(key), _BUDGET)}")
    data = bundled(budget.get("allow_gpu") is not False)
    if budget.get("allow_gpu") is False:
        data["device"] = "cpu"
    data.pop("baseline", None)
    data |= {key: value for key, value in block.items() if key not in {*_KEYS, "budget"}}
    data["budget"] = {**data.get("budget", {}), **_legacy_budget(budget, source)}
    directions = _mapping(_mapping(block, "metrics", source), "target_direction", source)
    if directions:
        data["objectives"] = {
            str(name): _legacy_objective(str(name), way, source) for name, way in directions.items()
        }
    notes = ["the block is of the legacy format; models and load are the bundled study's"]
    if block.get("evaluator"):
        notes.append(
            "its evaluator is replaced by ours, which launches both servers and loads them"
        )
    return data, tuple(notes)


def _legacy_budget(budget: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Legacy limits in our words: an epoch is a generation, and no trial's load outlasts it."""
    for key in _BUDGET[:3]:
        value = budget.get(key)
        if value is None:
            continue
        if not is_number(value) or value <= 0:
            raise UsageError(f"{source}: budget.{key}: found {value!r}, allowed: a number above 0")
    seconds, candidates, generations = map(budget.get, _BUDGET[:3])
    found = {
        "generations": generations,
        "candidates": candidates,
        "trials": candidates and generations and candidates * generations,
        "trial_timeout_s": seconds,
        "timeout_s": seconds and seconds * (generations or 1),
    }
    return {key: value for key, value in found.items() if value is not None}


def _legacy_objective(name: str, way: object, source: str) -> dict[str, Any]:
    if way not in _DIRECTIONS:
        raise UsageError(
            f"{source}: metrics.target_direction.{name}: found {way!r}, "
            f"allowed: {', '.join(_DIRECTIONS)}"
        )
    direction = _DIRECTIONS[str(way)]
    if direction != "neutral":
        return {"direction": direction}
    if name not in TARGETS:
        raise UsageError(
            f"{source}: metrics.target_direction.{name}: neutral needs a target, "
            f"known only for {', '.join(TARGETS)}"
        )
    return {"direction": direction, "target": TARGETS[name]}


def _mapping(block: Mapping[str, Any], key: str, source: str) -> dict[str, Any]:
    value = block.get(key) or {}
    if not isinstance(value, dict):
        raise UsageError(f"{source}: {key}: found {kind_of(value)}, allowed: a mapping")
    return value
