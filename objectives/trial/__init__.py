"""One trial: predict, start, load, measure, stop, conclude."""

from __future__ import annotations

from objectives.trial.bench import Bench, Objective
from objectives.trial.evidence import Seen
from objectives.trial.launch import shown
from objectives.trial.prediction import LATEST_VLLM, Outlook, Prospect, look, look_ahead
from objectives.trial.stages import Walk
from objectives.trial.stopwatch import Stopwatch

__all__ = [
    "LATEST_VLLM",
    "Bench",
    "Objective",
    "Outlook",
    "Prospect",
    "Seen",
    "Stopwatch",
    "Walk",
    "look",
    "look_ahead",
    "shown",
]
