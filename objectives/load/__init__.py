"""What is sent, when, and what came back: the load profile, its trace, the open-loop client."""

from __future__ import annotations

from objectives.load.client import drive
from objectives.load.exchange import Target, call
from objectives.load.profile import LlmLoad, LoadedServer, LoadProfile, SttLoad, Trace, plan
from objectives.load.samples import ClientCost, Driven, Sample, Span

__all__ = [
    "ClientCost",
    "Driven",
    "LlmLoad",
    "LoadProfile",
    "LoadedServer",
    "Sample",
    "Span",
    "SttLoad",
    "Target",
    "Trace",
    "call",
    "drive",
    "plan",
]
