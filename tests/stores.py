"""Databases that tests open, what is still open of them afterwards, and what a trial kept."""

from __future__ import annotations

import tempfile
from pathlib import Path

from optuna.artifacts import ArtifactMeta, download_artifact, get_all_artifact_meta
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from storage.artifacts import ArtifactStore
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


def kept(storage: BaseStorage, trial: FrozenTrial) -> dict[str, ArtifactMeta]:
    """The artifacts of a trial, by file name."""
    return {meta.filename: meta for meta in get_all_artifact_meta(trial, storage=storage)}


def read(store: ArtifactStore, storage: BaseStorage, trial: FrozenTrial, name: str) -> bytes:
    """The bytes of one artifact.

    Raises:
        KeyError: The trial has no artifact of that name.
    """
    meta = kept(storage, trial)[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "artifact"
        download_artifact(artifact_store=store, file_path=str(path), artifact_id=meta.artifact_id)
        return path.read_bytes()
