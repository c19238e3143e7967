"""Where published logs and records lie that are never copied into this repository."""

from __future__ import annotations

import os
from pathlib import Path

from tests.paths import ROOT


def corpus_folder() -> Path | None:
    """The folder that `GAS_CORPUS` names, or the one beside the repository; None if absent."""
    return _folder("GAS_CORPUS", "corpus")


def seeds_folder() -> Path | None:
    """The same for the first users' documents: `GAS_SEEDS`."""
    return _folder("GAS_SEEDS", "seeds")


def _folder(variable: str, name: str) -> Path | None:
    named = os.environ.get(variable)
    folder = Path(named) if named else ROOT.parent / "shared" / name
    return folder if folder.is_dir() else None
