"""The servers' environments: found, built, checked."""

from __future__ import annotations

from study.engines.build import build_engine
from study.engines.devices import objection_of, with_known_total
from study.engines.find import capability_of, check_engine, find_engine

__all__ = [
    "build_engine",
    "capability_of",
    "check_engine",
    "find_engine",
    "objection_of",
    "with_known_total",
]
