"""A configuration file becomes one checked `StudyConfig`, or one line of refusal."""

from __future__ import annotations

from study.config.files import read_config
from study.config.legacy import BINDINGS
from study.config.schema import DummyModel, NeighbourSection
from study.config.study_config import StudyConfig, fixed_settings

__all__ = [
    "BINDINGS",
    "DummyModel",
    "NeighbourSection",
    "StudyConfig",
    "fixed_settings",
    "read_config",
]
