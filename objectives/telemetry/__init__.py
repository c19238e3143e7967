"""Watching device and processes while servers run."""

from __future__ import annotations

from objectives.telemetry.ownership import Ownership
from objectives.telemetry.processes import pss_bytes, rss_bytes
from objectives.telemetry.record import TelemetryRecord, TelemetrySummary
from objectives.telemetry.watch import Telemetry

__all__ = [
    "Ownership",
    "Telemetry",
    "TelemetryRecord",
    "TelemetrySummary",
    "pss_bytes",
    "rss_bytes",
]
