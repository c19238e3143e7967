"""The real engine that tests marked `engines` run with: named by hand, else built, once."""

from __future__ import annotations

import os
from pathlib import Path

from objectives.servers.engine import Engine, probe
from study.engines.build import build_engine


def real_engine() -> Engine:
    """What `GAS_ENGINE_PYTHON` names, else the built engine for the CPU; made if it is missing."""
    if named := os.environ.get("GAS_ENGINE_PYTHON"):
        return probe(Path(named))
    return build_engine("cpu", log=print)
