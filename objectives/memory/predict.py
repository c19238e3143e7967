"""Will it fit? One server's memory on a shared device, predicted before it is launched.

Pure arithmetic over a model's shape, a server's settings, a version's rules and what a device has
free; it reads nothing and starts nothing. A candidate is *certainly* too big only where it
exceeds what there is by more than the margin of every number that entered; inside the margin it
deserves a launch, which then teaches the next prediction (`objectives.memory.calibration`).

Constraints are graded and set for every candidate, in GiB: > 0 is missing, <= 0 is to spare.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from objectives.causes import remedy_of
from objectives.constraints import MEMORY_CONSTRAINTS
from objectives.memory import explain as words
from objectives.memory.calibration import Calibration
from objectives.memory.estimates import estimate_parts, weights_on_device
from objectives.memory.footprint import (
    NOTHING,
    Available,
    Budget,
    Estimate,
    Footprint,
    Parts,
    Source,
    budget_of,
    given,
)
from objectives.memory.kv_cache import KVCacheShape
from objectives.memory.observed_start import EngineKey
from objectives.models import ModelShape, UnsupportedShapeError, weight_bytes
from objectives.vllm import GIB, DeviceKind, VllmRules, VllmSettings

__all__ = [
    "Calibration",
    "Estimate",
    "Footprint",
    "KVCacheShape",
    "ModelShape",
    "Prediction",
    "Source",
    "UnsupportedShapeError",
    "VllmSettings",
    "given",
    "predict_vllm",
    "weight_bytes",
]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What will become of a server's memory.

    Attributes:
        footprint: Its memory by part.
        excess: Constraint to what is missing, in GiB; negative is to spare.
        margins: Constraint to how far that may be wrong, in GiB.
        certain: It does not fit, by more than the margin: a launch would be wasted.
        cause: Why it does not fit, of `objectives.causes.CAUSES`; None where it fits.
        evidence: The arithmetic in one sentence.
        remedy: What to change, in one sentence; empty where it fits.
        kv: How the cache is laid out.
        needed_bytes: Of KV cache, below which the engine refuses to start.
        max_model_len: Tokens of the longest request.
        unmodelled: Options whose memory is not in these numbers.
        charged_bytes: Of vLLM's share, what its version charges for memory that others hold.
    """

    footprint: Footprint
    excess: Mapping[str, float]
    margins: Mapping[str, float]
    certain: bool
    cause: str | None
    evidence: str
    remedy: str
    kv: KVCacheShape
    needed_bytes: int
    max_model_len: int
    unmodelled: tuple[str, ...] = ()
    charged_bytes: int = 0

    @property
    def fits(self) -> bool:
        """Whether it is expected to start, and to find room beside the others."""
        return self.cause is None

    @property
    def excess_bytes(self) -> int:
        """What is missing of the constraint that is worst off; negative is to spare."""
        return round(max(self.excess.values()) * GIB)

    def to_dict(self) -> dict[str, object]:
        """The prediction as JSON, as it is kept with a trial."""
        return {
            **self.footprint.to_dict(),
            "max_concurrency": self.footprint.max_concurrency,
            "fits": self.fits,
            "certain": self.certain,
            "cause": self.cause,
            "excess_gib": dict(self.excess),
            "margin_gib": dict(self.margins),
        }


def predict_vllm(
    shape: ModelShape,
    settings: VllmSettings,
    *,
    device_kind: DeviceKind,
    total_bytes: int,
    free_bytes: int,
    version: str,
    calibration: Calibration | None = None,
    model: str = "",
    device: str = "",
    weights_bytes: int | Estimate | None = None,
    overhead_bytes: int | Estimate | None = None,
    whisper: Estimate | None = None,
    headroom_bytes: int = 0,
    total_margin_bytes: int = 0,
    free_margin_bytes: int = 0,
    free_after_context: bool = False,
) -> Prediction:
    """Predict one vLLM server beside everything else on its device.

    Args:
        shape: The model.
        settings: The server's.
        device_kind: "cuda" or "cpu".
        total_bytes: Of the device, as the engine sees it: a driver's own reserve left out.
        free_bytes: Of it, free before Whisper and vLLM start.
        version: vLLM's.
        calibration: What earlier starts taught; it stands before every estimate.
        model: The model's name, under which the calibration knows it.
        device: The device's UUID, likewise.
        weights_bytes: Bytes of all the model's files; or a figure for one device; None for an
            estimate from the shape.
        overhead_bytes: Activation, non-torch and graphs together, where they are known.
        whisper: What the speech model will hold; it starts first.
        headroom_bytes: What must stay free on the device.
        total_margin_bytes: How far `total_bytes` may be wrong.
        free_margin_bytes: How far `free_bytes` may be wrong.
        free_after_context: `free_bytes` is what vLLM's own check sees, as its log prints it.

    Raises:
        UnsupportedShapeError: if the arithmetic does not describe this model or setting.
    """
    rules = VllmRules.of(version, device_kind)
    speech = whisper or NOTHING
    key = EngineKey.of(settings, version=version, model=model, device=device, kind=device_kind)
    parts = _parts(
        shape,
        settings,
        rules,
        key=key,
        calibration=calibration,
        weights=weights_on_device(shape, settings, weights_bytes),
        overhead=overhead_bytes,
        total_bytes=total_bytes,
        context_known=free_after_context,
    )
    held_bytes = total_bytes - free_bytes + speech.value_bytes  # not by vLLM, when it measures
    charged = held_bytes if rules.charges_neighbours else 0
    budget = budget_of(
        shape, settings, rules, parts, total_bytes=total_bytes, charged_bytes=charged
    )
    available = Available(
        free_bytes=free_bytes - speech.value_bytes,
        margin_bytes=speech.margin_bytes + free_margin_bytes,
        headroom_bytes=headroom_bytes,
        total_margin_bytes=int(total_margin_bytes * settings.utilization),
    )
    return _judge(settings, rules, parts, budget, available=available, speech=speech)


def _parts(
    shape: ModelShape,
    settings: VllmSettings,
    rules: VllmRules,
    *,
    key: EngineKey,
    calibration: Calibration | None,
    weights: Estimate,
    overhead: int | Estimate | None,
    total_bytes: int,
    context_known: bool,
) -> Parts:
    estimated = estimate_parts(
        shape,
        settings,
        rules,
        weights,
        total_bytes=total_bytes,
        context_known=context_known,
    )
    if overhead is not None:
        note = "activation, non-torch and graphs"
        whole = overhead if isinstance(overhead, Estimate) else given(overhead, note)
        return replace(estimated, activation=whole, non_torch=NOTHING, graphs=NOTHING, late=NOTHING)
    # A start that was seen stands before every estimate, and its margin is its rounding.
    if calibration is not None:
        learned = calibration.parts(key, settings, estimated, shape=shape, rules=rules)
        if learned is not None:
            return learned
    return estimated


def _judge(
    settings: VllmSettings,
    rules: VllmRules,
    parts: Parts,
    budget: Budget,
    *,
    available: Available,
    speech: Estimate,
) -> Prediction:
    missing, margins = _constraints(rules, parts, budget, available)
    if budget.sized_outright:
        margins["kv_cache_gib"] = 0
    # In the order in which the engine meets them: the first that is surely violated is the one
    # whose words its log would have.
    over = [name for name in MEMORY_CONSTRAINTS if missing[name] > 0]
    sure = [name for name in over if missing[name] > margins[name]]
    certain = bool(sure) and not settings.unmodelled
    violated = next(iter(sure or over), None)
    cause = _cause(violated, budget)
    footprint = Footprint(
        weights=parts.weights,
        activation=parts.activation,
        non_torch=parts.non_torch,
        graphs=parts.graphs,
        outside=parts.outside,
        whisper=speech,
        requested_bytes=budget.own_bytes if budget.sized_outright else budget.share_bytes,
        available_bytes=budget.available_bytes,
        kv_cache_bytes=max(0, budget.available_bytes),
        kv_cache_tokens=budget.capacity.tokens,
        max_concurrency=budget.capacity.max_concurrency,
        margin_bytes=margins["kv_cache_gib"],
    )
    story = words.Story(
        footprint=footprint,
        utilization=settings.utilization,
        share_bytes=budget.share_bytes,
        free_bytes=available.free_bytes,
        needed_bytes=budget.needed_bytes,
        max_model_len=budget.length,
        sized_outright=budget.sized_outright,
        missing_bytes=missing[violated] if violated else 0,
    )
    return Prediction(
        footprint=footprint,
        excess={name: missing[name] / GIB for name in MEMORY_CONSTRAINTS},
        margins={name: margins[name] / GIB for name in MEMORY_CONSTRAINTS},
        certain=certain,
        cause=cause,
        evidence=words.evidence(cause, story),
        remedy="" if cause is None else remedy_of(cause, {}, rules.device_kind),
        kv=budget.kv,
        needed_bytes=budget.needed_bytes,
        max_model_len=budget.length,
        unmodelled=settings.unmodelled,
        charged_bytes=budget.charged_bytes,
    )


def _constraints(
    rules: VllmRules, parts: Parts, budget: Budget, available: Available
) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes missing of each constraint, and how far each may be wrong."""
    inside = parts.margin_bytes
    context, outside = parts.context, parts.outside
    checked = rules.checks_start and not (rules.device_kind == "cpu" and budget.sized_outright)
    start = budget.share_bytes + context.value_bytes if checked else parts.inside_bytes
    start_margin = available.total_margin_bytes + context.margin_bytes if checked else inside
    everything = budget.own_bytes + outside.value_bytes + available.headroom_bytes
    exact = not budget.sized_outright and budget.available_bytes > 0
    missing = {
        "start_memory_gib": start - available.free_bytes,
        "kv_cache_gib": budget.needed_bytes - budget.available_bytes,
        "device_memory_gib": everything - available.free_bytes,
    }
    margins = {
        "start_memory_gib": available.margin_bytes + start_margin,
        "kv_cache_gib": inside + available.total_margin_bytes + budget.kv.block_bytes,
        "device_memory_gib": available.margin_bytes
        + outside.margin_bytes
        + (available.total_margin_bytes if exact else inside),
    }
    if rules.charges_neighbours:
        margins["kv_cache_gib"] += available.margin_bytes
    return missing, margins


def _cause(violated: str | None, budget: Budget) -> str | None:
    if violated is None:
        return None
    if violated == "start_memory_gib":
        return "gpu_memory_insufficient_at_start"
    if violated == "device_memory_gib":
        return "device_memory"
    none = budget.kv.null_blocks * budget.kv.block_bytes
    return "kv_cache_no_blocks" if budget.available_bytes <= none else "kv_cache_too_small"
