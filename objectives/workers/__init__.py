"""Programs that run in another interpreter. They are launched by path and never imported.

The paths are all that the study's own process may know of them: the engine that runs a program
has other packages than the study has.
"""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "DUMMY_WEIGHTS",
    "ENGINE_PROBE",
    "HOLD_MEMORY",
    "HOLD_MEMORY_READY",
    "LARGEST_ALLOCATION",
    "TOUCH_MEMORY",
    "WHISPER_WORKER",
]

_HERE = Path(__file__).resolve().parent

DUMMY_WEIGHTS = _HERE / "dummy_weights.py"
"""Writes random weights at a real architecture's sizes; needs an engine's torch."""

ENGINE_PROBE = _HERE / "engine_probe.py"
"""Says in JSON what an interpreter has; needs nothing but the standard library."""

HOLD_MEMORY = _HERE / "hold_memory.py"
"""Holds memory of a device as a neighbour would; the standard library is enough."""

HOLD_MEMORY_READY = "holding"
"""What `HOLD_MEMORY` prints first once it holds everything."""

LARGEST_ALLOCATION = _HERE / "largest_allocation.py"
"""Says in JSON what a GPU still gives in one piece; the standard library is enough."""

TOUCH_MEMORY = _HERE / "touch_memory.py"
"""Touches a CPU node's memory once, so that the node shows all it has."""

WHISPER_WORKER = _HERE / "whisper_worker.py"
"""Serves openai-whisper behind OpenAI's transcription route; needs an engine."""
