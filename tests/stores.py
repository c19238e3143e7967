"""Databases that tests open, and what is still open of them afterwards."""

from __future__ import annotations

from pathlib import Path

from optuna.storages import BaseStorage

from storage.trials import open_storage


def opened(storage: BaseStorage | str | None) -> BaseStorage | None:
    """A storage as the program opens it: by Optuna's own way, SQLite's connections stay open."""
    return open_storage(storage) if isinstance(storage, str) else storage


def open_files(folder: Path) -> list[str]:
    """Files below a folder that this process has open now."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:  # it was the listing's own
            continue
        if target.startswith(f"{folder}/"):
            found.append(target)
    return sorted(found)
