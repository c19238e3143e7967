"""Where published logs and records lie that are never copied into this repository."""

from __future__ import annotations

import os
from pathlib import Path

_BESIDE_THE_REPOSITORY = Path(__file__).resolve().parents[2] / "shared" / "corpus"


def corpus_folder() -> Path | None:
    """The folder that `GAS_CORPUS` names, or the one beside the repository; None if absent."""
    named = os.environ.get("GAS_CORPUS")
    folder = Path(named) if named else _BESIDE_THE_REPOSITORY
    return folder if folder.is_dir() else None
