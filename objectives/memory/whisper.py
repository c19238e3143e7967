"""What a Whisper model takes beside vLLM, before it was ever measured here.

The weights follow from the official dimensions to the last parameter. The rest (a context, the
decoder's cross-attention cache, work space) is estimated and has a wide margin until a trial has
seen the real peak (`Calibration.learn_whisper`).

Sources: openai-whisper `model.py` (layers, `ModelDimensions`); resident sizes of `tiny`, `base`
and `small` on a CPU, measured after one decoded window of 30 s.
"""

from __future__ import annotations

from dataclasses import dataclass

from objectives.memory.calibration import Calibration
from objectives.memory.estimate import Estimate
from objectives.models import whisper_dims
from objectives.units import MIB, DeviceKind

_CPU_BYTES = (352 + 72) * MIB
_CUDA_BYTES = (320 + 112) * MIB
"""A process or a context, and work space."""

_BEAM_BYTES = 8 * MIB
_LEAST_HALF = (7, 0)
"""The oldest GPU that computes float16 faster than float32; Pascal takes 64 times as long.

Source: CUDA C++ Programming Guide, throughput of native arithmetic instructions.
"""


def whisper_dtype(
    asked: str | None, device_kind: DeviceKind, capability: tuple[int, int] | None = None
) -> str:
    """What a Whisper worker computes in.

    Where nothing is asked for: float16 on a GPU from capability 7.0 on (also where the driver does
    not tell it), else float32; the worker decides so itself. float16 is for a GPU: on a CPU it is
    never asked of the worker, and float32 stands for it.
    """
    if device_kind == "cpu":
        return "float32" if asked in (None, "float16") else asked
    if asked is not None:
        return asked
    return "float32" if capability is not None and capability < _LEAST_HALF else "float16"


@dataclass(frozen=True, kw_only=True)
class WhisperModel:
    """A speech model as one worker runs it.

    Attributes:
        name: An official name, or whatever the worker loads.
        dtype: What it is asked to compute in; None: by the device, see `whisper_dtype`.
        capability: Of the GPU, where it is one and the driver tells it.
        fp16_weights: Weights are kept in 16 bits; openai-whisper keeps 32 whatever it computes in.
        beam_size: Hypotheses it follows.
    """

    name: str
    dtype: str | None = None
    capability: tuple[int, int] | None = None
    fp16_weights: bool = False
    beam_size: int = 1

    @property
    def key(self) -> str:
        """The name its peak is remembered under: the model, and what its memory depends on."""
        weights = ", 16-bit weights" if self.fp16_weights else ""
        beams = f"{self.beam_size} beam{'s' if self.beam_size > 1 else ''}"
        return f"{self.name}, {self.dtype or 'default'}, {beams}{weights}"

    def expect(
        self, device_kind: DeviceKind, calibration: Calibration | None = None, device: str = ""
    ) -> Estimate:
        """What its worker will hold while it transcribes; on a CPU, the process's resident size.

        A peak that was seen in an earlier trial, on the device of this UUID, stands before the
        estimate.

        Raises:
            UnsupportedShapeError: for a name that is not official, and was never measured.
        """
        known = calibration or Calibration()
        return known.whisper(model=self.key, device=device) or self._estimate(device_kind)

    def _estimate(self, device_kind: DeviceKind) -> Estimate:
        dims = whisper_dims(self.name)
        computes = whisper_dtype(self.dtype, device_kind, self.capability)
        narrow = computes == "bfloat16" or (self.fp16_weights and computes == "float16")
        weights = dims.parameters * (2 if narrow else 4)
        cache = dims.cross_cache_values * (4 if computes == "float32" else 2)
        fixed = _CUDA_BYTES if device_kind == "cuda" else _CPU_BYTES
        value = fixed + weights + cache + _BEAM_BYTES * (self.beam_size - 1)
        note = f"{dims.parameters / 1e6:.0f} M parameters"
        return Estimate(value_bytes=value, margin_bytes=value // 4 + 160 * MIB, note=note)
