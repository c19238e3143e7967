"""A trial's logs and samples: beside the database, or in a bucket.

Optuna keeps a list of artifacts with each trial; this module decides where the bytes are.
"""

from __future__ import annotations

from pathlib import Path

from optuna.artifacts import (
    Backoff,
    Boto3ArtifactStore,
    FileSystemArtifactStore,
    upload_artifact,
)
from optuna.trial import Trial

from storage.trials import StorageError, sqlite_path

MIMETYPES = {
    ".log": "text/plain",
    ".txt": "text/plain",
    ".jsonl": "application/jsonl",
    ".json": "application/json",
    ".csv": "text/csv",
    ".png": "image/png",
}


ArtifactStore = FileSystemArtifactStore | Backoff
"""A folder, or a bucket that is asked again when it does not answer."""


def artifact_place(storage_url: str, configured: str | None = None) -> str:
    """Where the artifacts of a storage are: as configured, else a folder beside the file.

    Returns:
        A folder's path, or `s3://BUCKET`.
    """
    if configured:
        return configured
    path = sqlite_path(storage_url)
    return f"{path}.artifacts" if path else "studies/artifacts"


def open_artifacts(place: str) -> ArtifactStore:
    """Open an artifact store, and make its folder if it is not there.

    Raises:
        StorageError: The folder cannot be made, or boto3 is missing.
    """
    if place.startswith("s3://"):
        try:
            return Backoff(Boto3ArtifactStore(place.removeprefix("s3://").rstrip("/")))
        except ImportError as error:
            raise StorageError(f"{place}: needs the extra s3 (boto3)") from error
    folder = Path(place)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made: {error.strerror}") from error
    return FileSystemArtifactStore(base_path=folder)


def keep(store: ArtifactStore, trial: Trial, path: Path) -> str | None:
    """Keep a file with a running trial; an empty or missing file is not kept.

    Returns:
        The artifact's id.
    """
    if not path.exists() or path.stat().st_size == 0:
        return None
    return upload_artifact(
        artifact_store=store,
        file_path=str(path),
        study_or_trial=trial,
        mimetype=MIMETYPES.get(path.suffix, "application/octet-stream"),
    )
