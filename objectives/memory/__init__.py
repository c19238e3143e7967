"""Will it fit? The arithmetic of weights, activations, CUDA graphs and the KV cache."""

from __future__ import annotations

from objectives.memory.advice import BreakEven, Gain, break_even, cheapest_gains, overhead_note
from objectives.memory.calibration import Calibration
from objectives.memory.explain import gib
from objectives.memory.footprint import Estimate, add, given
from objectives.memory.observed_start import EngineKey, Start
from objectives.memory.predict import Prediction, predict_vllm
from objectives.memory.whisper import whisper_bytes, whisper_key

__all__ = [
    "BreakEven",
    "Calibration",
    "EngineKey",
    "Estimate",
    "Gain",
    "Prediction",
    "Start",
    "add",
    "break_even",
    "cheapest_gains",
    "gib",
    "given",
    "overhead_note",
    "predict_vllm",
    "whisper_bytes",
    "whisper_key",
]
