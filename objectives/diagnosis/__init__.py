"""Why did a server die? Its log, its end and the kernel's reports, read once, name the cause."""

from __future__ import annotations

from objectives.diagnosis.decision import DeviceEvidence, Ended
from objectives.diagnosis.diagnosis import Diagnosis, diagnose

__all__ = [
    "DeviceEvidence",
    "Diagnosis",
    "Ended",
    "diagnose",
]
