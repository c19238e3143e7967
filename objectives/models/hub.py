"""Where the Hugging Face hub's cache on this machine keeps a model; nothing is fetched."""

from __future__ import annotations

import os
import re
from pathlib import Path

_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def hub_cache() -> Path:
    """The cache's folder, as `huggingface_hub` finds it (`constants.py`)."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser()
    home = os.environ.get("HF_HOME")
    if not home:
        home = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")  # noqa: PTH118
    return Path(home).expanduser() / "hub"


def hub_entry(name: str) -> Path:
    """Where the cache keeps a model, or would."""
    return hub_cache() / f"models--{name.replace('/', '--')}"


def hub_folder(name: str) -> Path | None:
    """Folder of a model that was downloaded before, by its name on the hub; None without one.

    The snapshot that `refs/main` names, else the youngest that has a configuration.
    """
    if not is_hub_name(name):
        return None
    model = hub_entry(name)
    try:
        named = model / "snapshots" / (model / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        named = None
    if named is not None and (named / "config.json").is_file():
        return named
    found = sorted(model.glob("snapshots/*/config.json"), key=lambda path: path.stat().st_mtime)
    return found[-1].parent if found else None


def is_hub_name(name: str) -> bool:
    """Whether this can be a model's name on the hub: one word, or two with a slash between."""
    return _NAME.fullmatch(name) is not None
