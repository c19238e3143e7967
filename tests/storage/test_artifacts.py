"""Logs and samples outlive the trial, whatever became of it."""

import optuna
import pytest

from storage.artifacts import artifact_place, keep, open_artifacts
from storage.trials import StorageError, open_storage, open_study
from tests.stores import kept, read

optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_artifacts_lie_beside_the_database():
    assert artifact_place("sqlite:///studies/a.db") == "studies/a.db.artifacts"
    assert artifact_place("sqlite:///a.db", "s3://bucket") == "s3://bucket"
    assert artifact_place("postgresql://h/db") == "studies/artifacts"


def test_what_a_pruned_trial_leaves_can_be_read_again(tmp_path):
    url = f"sqlite:///{tmp_path}/a.db"
    storage = open_storage(url)
    study = open_study(url, "s", directions=["minimize"], storage=storage)
    store = open_artifacts(artifact_place(url))
    log = tmp_path / "vllm.log"
    log.write_text("No available memory\n")
    trial = study.ask()
    assert keep(store, trial, log)
    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    frozen = study.trials[0]
    assert read(store, storage, frozen, "vllm.log") == b"No available memory\n"
    assert kept(storage, frozen)["vllm.log"].mimetype == "text/plain"


def test_an_empty_log_is_not_kept(tmp_path):
    url = f"sqlite:///{tmp_path}/a.db"
    study = open_study(url, "s", directions=["minimize"])
    store = open_artifacts(artifact_place(url))
    (tmp_path / "empty.log").touch()
    trial = study.ask()
    assert keep(store, trial, tmp_path / "empty.log") is None
    assert keep(store, trial, tmp_path / "missing.log") is None


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be made"):
        open_artifacts(str(tmp_path / "file" / "folder"))
