"""Will it fit? The arithmetic of weights, activations, CUDA graphs and the KV cache."""

from __future__ import annotations

from objectives.memory.advice import break_even, cheapest_gains, overhead_note
from objectives.memory.calibration import Calibration
from objectives.memory.estimate import NOTHING, Estimate, add, given
from objectives.memory.observed_start import Start
from objectives.memory.predict import Prediction, predict_vllm
from objectives.memory.server_model import DeviceMemory, EngineKey, ServerModel
from objectives.memory.whisper import WhisperModel, whisper_dtype

__all__ = [
    "NOTHING",
    "Calibration",
    "DeviceMemory",
    "EngineKey",
    "Estimate",
    "Prediction",
    "ServerModel",
    "Start",
    "WhisperModel",
    "add",
    "break_even",
    "cheapest_gains",
    "given",
    "overhead_note",
    "predict_vllm",
    "whisper_dtype",
]
