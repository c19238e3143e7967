"""What does a telling line itself say of its cure, and in whose words?"""

from __future__ import annotations

from objectives.diagnosis.cures.remedy import FALLS_BACK, kinds_of, remedy_for, server_of

__all__ = [
    "FALLS_BACK",
    "kinds_of",
    "remedy_for",
    "server_of",
]
