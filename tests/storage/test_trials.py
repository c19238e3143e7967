"""Opening studies, and whose worker is gone."""

import multiprocessing
import os
import subprocess
import sys
import warnings

import optuna
import pytest
from optuna.storages import RDBStorage

from storage import trials
from storage.trials import (
    StorageError,
    is_abandoned,
    masked,
    open_storage,
    open_study,
    put_attrs,
    sqlite_path,
    study_at,
    this_worker,
)
from tests.stores import open_files

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/deep/study.db"


def ask(study, value=0.5):
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    return trial


def test_a_study_is_made_once_and_found_again(url):
    made = open_study(url, "s", directions=["minimize", "maximize"])
    made.set_user_attr("schema", 1)
    assert open_study(url, "s").user_attrs == {"schema": 1}
    assert len(open_study(url, "s", directions=["minimize", "maximize"]).directions) == 2


def test_reading_a_study_that_is_not_there_makes_nothing(url, tmp_path):
    with pytest.raises(StorageError, match="no such file"):
        open_study(url, "s")
    assert not (tmp_path / "deep").exists()


def test_an_unknown_name_is_refused_with_those_there_are(url):
    open_study(url, "mine", directions=["minimize"])
    with pytest.raises(StorageError, match="there are: mine"):
        open_study(url, "yours")


def test_other_objectives_are_refused(url):
    open_study(url, "s", directions=["minimize"])
    with pytest.raises(StorageError, match="another name"):
        open_study(url, "s", directions=["minimize", "maximize"])


@pytest.mark.parametrize("bad", ["mongodb://x/y", "nonsense", "postgresql+nodriver://h/d"])
def test_a_url_that_cannot_be_opened_is_one_line(bad):
    with pytest.raises(StorageError) as caught:
        open_storage(bad)
    assert "\n" not in str(caught.value)


def test_no_password_is_ever_shown():
    assert masked("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert masked("redis://:secret@host:6379") == "redis://:***@host:6379"
    assert masked("sqlite:///a.db") == "sqlite:///a.db"


def test_a_journal_file_is_a_storage_too(tmp_path):
    url = f"journal:///{tmp_path}/study.journal"
    open_study(url, "s", directions=["minimize"])
    assert open_study(url, "s").study_name == "s"
    assert sqlite_path(url) == tmp_path / "study.journal"


def take(url, count, numbers):
    warnings.simplefilter("ignore")
    study = open_study(url, "s")
    for _ in range(count):
        numbers.put(study.ask().number)


def test_two_workers_are_never_handed_the_same_waiting_trial(url):
    study = open_study(url, "s", directions=["minimize"])
    for index in range(20):
        study.enqueue_trial({"x": index / 20})
    spawn = multiprocessing.get_context("spawn")
    numbers = spawn.Queue()
    workers = [spawn.Process(target=take, args=(url, 10, numbers)) for _ in range(2)]
    for worker in workers:
        worker.start()
    taken = [numbers.get(timeout=60) for _ in range(20)]
    for worker in workers:
        worker.join()
    assert sorted(taken) == list(range(20))


def vanished_worker():
    """The identity of a process that was here a moment ago."""
    code = "from storage.trials import this_worker; import json; print(json.dumps(this_worker()))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    return __import__("json").loads(out.stdout)


def test_a_worker_is_abandoned_if_its_process_is_gone(url):
    study = open_study(url, "s", directions=["minimize"])
    found = []
    for worker in (vanished_worker(), this_worker(), {"host": "elsewhere", "pid": 1, "began": 0.0}):
        trial = ask(study)
        trial.set_user_attr("worker", worker)
        found.append(is_abandoned(study.trials[trial.number]))
    assert found == [True, False, False]
    assert this_worker()["pid"] == os.getpid()


def test_attributes_that_are_there_already_are_not_written_again(url):
    study = open_study(url, "s", directions=["minimize"])
    put_attrs(study, {"a": {"b": 1}})
    put_attrs(study, {"a": {"b": 1}, "c": 2})
    assert study.user_attrs == {"a": {"b": 1}, "c": 2}


class TestNothingStaysOpen:
    """From Python 3.13 on, a connection that nobody closed is a warning, and here an error."""

    def test_sqlite_has_no_connection_beyond_a_transaction(self, url, tmp_path):
        study = open_study(url, "s", directions=["minimize"])
        study.tell(ask(study), 0.5)
        assert open_files(tmp_path) == []

    def test_a_file_that_is_no_database_is_closed_again(self, tmp_path):
        (tmp_path / "notes.db").write_text("these are notes, and no database at all\n" * 40)
        with pytest.raises(StorageError, match=r"notes\.db: .*not a database"):
            open_storage(f"sqlite:///{tmp_path}/notes.db")
        assert open_files(tmp_path) == []

    def test_a_pool_of_connections_ends_with_the_block(self, url, tmp_path, monkeypatch):
        """As databases with a server have one; a file stands for the server."""
        (tmp_path / "deep").mkdir()
        monkeypatch.setattr(trials, "open_storage", lambda url, **_: RDBStorage(url))
        with study_at(url, "s", directions=["minimize"]) as study:
            study.set_user_attr("schema", 1)
            assert open_files(tmp_path) != []
        assert open_files(tmp_path) == []

    def test_it_ends_with_an_error_too(self, url, tmp_path, monkeypatch):
        (tmp_path / "deep").mkdir()
        monkeypatch.setattr(trials, "open_storage", lambda url, **_: RDBStorage(url))
        with pytest.raises(StorageError, match="no study 'none'"), study_at(url, "none"):
            pass
        assert open_files(tmp_path) == []
