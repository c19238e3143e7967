"""The servers' environments: found, built, checked."""

from __future__ import annotations

from study.engines.build import build_engine
from study.engines.check import check_engine, gpu_of
from study.engines.devices import asked_of, objection_of, with_known_total
from study.engines.find import find_engine, missing_recipe
from study.engines.recipes import refusal

__all__ = [
    "asked_of",
    "build_engine",
    "check_engine",
    "find_engine",
    "gpu_of",
    "missing_recipe",
    "objection_of",
    "refusal",
    "with_known_total",
]
