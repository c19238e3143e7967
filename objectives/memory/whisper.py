"""What a Whisper model takes beside vLLM, before it was ever measured here.

The weights follow from the official dimensions to the last parameter. The rest (a context, the
decoder's cross-attention cache, work space) is estimated and has a wide margin until a trial has
seen the real peak (`Calibration.learn_whisper`).

Sources: openai-whisper `model.py` (layers, `ModelDimensions`); resident sizes of `tiny`, `base`
and `small` on a CPU, measured after one decoded window of 30 s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from objectives.memory.footprint import MIB, Estimate
from objectives.models import WhisperDims, whisper_dims
from objectives.vllm import DeviceKind

if TYPE_CHECKING:
    from objectives.memory.calibration import Calibration

_CPU_PROCESS_BYTES = 352 * MIB
_CUDA_CONTEXT_BYTES = 320 * MIB
_WORK_BYTES = 72 * MIB
_CUDA_WORK_BYTES = 112 * MIB
_BEAM_BYTES = 8 * MIB


def whisper_key(
    model: str, *, dtype: str | None = None, fp16_weights: bool = False, beam_size: int = 1
) -> str:
    """The name under which a peak is remembered: the model, and what its memory depends on."""
    weights = ", 16-bit weights" if fp16_weights else ""
    return f"{model}, {dtype or 'default'}, {beam_size} beam{'s' if beam_size > 1 else ''}{weights}"


def whisper_bytes(
    model: str | Mapping[str, int] | WhisperDims,
    *,
    device_kind: DeviceKind,
    dtype: str | None = None,
    fp16_weights: bool = False,
    beam_size: int = 1,
    calibration: Calibration | None = None,
    device: str = "",
) -> Estimate:
    """What a speech worker will hold on its device while it transcribes.

    Args:
        model: An official name, or dimensions.
        device_kind: "cuda" for device memory; "cpu" for the process's resident size.
        dtype: What it computes in; None for its default: float16 on CUDA, float32 on a CPU.
        fp16_weights: Weights are kept in 16 bits; openai-whisper keeps 32 whatever it computes in.
        beam_size: Hypotheses it follows.
        calibration: Peaks of earlier trials; one that was seen stands before the estimate.
        device: The device's UUID, for the calibration.

    Raises:
        UnsupportedShapeError: for a name that is not official, and was never measured.
    """
    if calibration is not None and isinstance(model, str):
        key = whisper_key(model, dtype=dtype, fp16_weights=fp16_weights, beam_size=beam_size)
        seen = calibration.whisper(model=key, device=device)
        if seen is not None:
            return seen
    dims = whisper_dims(model)
    computes = dtype or ("float16" if device_kind == "cuda" else "float32")
    narrow = computes == "bfloat16" or (fp16_weights and computes == "float16")
    weights = dims.parameters * (2 if narrow else 4)
    cache = dims.cross_cache_values * (4 if computes == "float32" else 2)
    fixed = (
        _CUDA_CONTEXT_BYTES + _CUDA_WORK_BYTES
        if device_kind == "cuda"
        else _CPU_PROCESS_BYTES + _WORK_BYTES
    )
    value = fixed + weights + cache + _BEAM_BYTES * (beam_size - 1)
    return Estimate(
        value_bytes=value,
        source="estimated",
        margin_bytes=value // 4 + 160 * MIB,
        note=f"{dims.parameters / 1e6:.0f} M parameters",
    )
