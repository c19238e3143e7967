"""Kinds of servers that are tuned: each is one file with all that a trial needs of it."""

from __future__ import annotations

from objectives.kinds.forecast import Forecast, Moment, ServerMemory
from objectives.kinds.kind import ServerKind, Up
from objectives.kinds.vllm_kind import LATEST_VLLM, VllmKind, VllmMemory
from objectives.kinds.whisper_kind import WhisperKind, WhisperMemory

__all__ = [
    "LATEST_VLLM",
    "Forecast",
    "Moment",
    "ServerKind",
    "ServerMemory",
    "Up",
    "VllmKind",
    "VllmMemory",
    "WhisperKind",
    "WhisperMemory",
]
