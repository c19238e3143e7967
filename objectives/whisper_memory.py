"""What a Whisper model takes beside vLLM, before it was ever measured here.

The weights follow from the official dimensions to the last parameter. The rest (a context, the
decoder's cross-attention cache, work space) is estimated and has a wide margin until a trial has
seen the real peak (`Calibration.learn_whisper`).

Sources: openai-whisper `model.py` (layers, `ModelDimensions`); resident sizes of `tiny`, `base`
and `small` on a CPU, measured after one decoded window of 30 s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from objectives.footprint import MIB, Figure
from objectives.model_config import UnsupportedShapeError
from objectives.vllm_rules import DeviceKind

if TYPE_CHECKING:
    from objectives.calibration import Calibration

_CPU_PROCESS_BYTES = 352 * MIB
_CUDA_CONTEXT_BYTES = 320 * MIB
_WORK_BYTES = 72 * MIB
_CUDA_WORK_BYTES = 112 * MIB
_BEAM_BYTES = 8 * MIB


@dataclass(frozen=True, kw_only=True)
class WhisperDims:
    """The official dimensions, under the names a checkpoint gives them."""

    n_mels: int = 80
    n_audio_ctx: int = 1500
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_vocab: int = 51865
    n_text_ctx: int = 448
    n_text_state: int
    n_text_head: int
    n_text_layer: int

    @property
    def parameters(self) -> int:
        """Weights, exactly: the embedding is also the output head; positions of sound are none."""
        return self._encoder + self._decoder

    @property
    def _encoder(self) -> int:
        d = self.n_audio_state
        stem = 3 * d * (self.n_mels + d) + 2 * d  # two convolutions of width 3
        block = _attention(d) + _feed_forward(d) + 4 * d
        return stem + self.n_audio_layer * block + 2 * d

    @property
    def _decoder(self) -> int:
        d = self.n_text_state
        embeddings = (self.n_vocab + self.n_text_ctx) * d
        block = 2 * _attention(d) + _feed_forward(d) + 6 * d
        return embeddings + self.n_text_layer * block + 2 * d

    @property
    def cross_cache_values(self) -> int:
        """Keys and values of the sound that the decoder keeps while it decodes one window."""
        return 2 * self.n_text_layer * self.n_audio_ctx * self.n_text_state


def _attention(d: int) -> int:
    return 4 * d * d + 3 * d  # keys have no bias


def _feed_forward(d: int) -> int:
    return 8 * d * d + 5 * d


def _official(
    state: int, heads: int, layers: int, *, text_layers: int = 0, v3: bool = False
) -> WhisperDims:
    return WhisperDims(
        n_mels=128 if v3 else 80,
        n_vocab=51866 if v3 else 51865,
        n_audio_state=state,
        n_audio_head=heads,
        n_audio_layer=layers,
        n_text_state=state,
        n_text_head=heads,
        n_text_layer=text_layers or layers,
    )


_TURBO = _official(1280, 20, 32, text_layers=4, v3=True)
_LARGE_V3 = _official(1280, 20, 32, v3=True)
OFFICIAL: Mapping[str, WhisperDims] = {
    "tiny": _official(384, 6, 4),
    "base": _official(512, 8, 6),
    "small": _official(768, 12, 12),
    "medium": _official(1024, 16, 24),
    "large-v1": _official(1280, 20, 32),
    "large-v2": _official(1280, 20, 32),
    "large-v3": _LARGE_V3,
    "large": _LARGE_V3,
    "large-v3-turbo": _TURBO,
    "turbo": _TURBO,
}
"""By name; `.en` models differ by one token of vocabulary, which changes nothing here."""


def whisper_dims(model: str | Mapping[str, int] | WhisperDims) -> WhisperDims:
    """A model's dimensions, by its name or as its checkpoint states them.

    Raises:
        UnsupportedShapeError: for a name that is not official.
    """
    if isinstance(model, WhisperDims):
        return model
    if isinstance(model, Mapping):
        return WhisperDims(**{key: int(value) for key, value in model.items()})
    found = OFFICIAL.get(model.removesuffix(".en"))
    if found is None:
        known = ", ".join(OFFICIAL)
        raise UnsupportedShapeError(f"Whisper model {model!r} is none of {known}")
    return found


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
) -> Figure:
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
    return Figure(
        value_bytes=value,
        source="estimated",
        margin_bytes=value // 4 + 160 * MIB,
        note=f"{dims.parameters / 1e6:.0f} M parameters",
    )
