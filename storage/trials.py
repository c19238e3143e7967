"""Opening a study: SQLite, PostgreSQL, MySQL, a journal file, Redis, or a gRPC proxy.

Everything that is stored goes through Optuna's public storages; this module only makes each of
them safe for our use. SQLite gets one writer at a time (without it, two workers can be handed the
same waiting trial). Databases with a server get a heartbeat, so that a worker that vanished with
its host is noticed by the others.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import optuna
import psutil
import sqlalchemy
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalRedisBackend
from optuna.trial import FrozenTrial
from sqlalchemy import NullPool, event

Direction = Literal["minimize", "maximize"]

OnStale = Callable[[optuna.Study, FrozenTrial], None]
"""Called with a trial whose worker vanished with its host, and is FAIL now."""

WORKER_ATTR = "worker"


class StorageError(Exception):
    """A storage or a study in it cannot be opened; one line says why."""


def masked(url: str) -> str:
    """The URL without its password."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", url)


def sqlite_path(url: str) -> Path | None:
    """The file behind a SQLite or a journal URL, else None."""
    for prefix in ("sqlite:///", "journal:///"):
        if url.startswith(prefix):
            return Path(url.removeprefix(prefix).split("?", 1)[0])
    return None


def open_storage(url: str, *, create: bool = True, on_stale: OnStale | None = None) -> BaseStorage:
    """Open a storage by URL.

    Args:
        url: `sqlite:///FILE`, `postgresql://...`, `mysql://...`, `journal:///FILE`,
            `redis://...` or `grpc://HOST:PORT`.
        create: Make the file, and its folder, if they are not there.
        on_stale: What to do about the trials of vanished workers, where a heartbeat tells.

    Raises:
        StorageError: The scheme is unknown, a driver is missing, or the server does not answer.
    """
    path = sqlite_path(url)
    if path is not None:
        if not create and not path.exists():
            raise StorageError(f"{path}: there is no such file")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{path.parent}: cannot be made: {error.strerror}") from error
    try:
        return _open(url, path, on_stale)
    except (ImportError, sqlalchemy.exc.SQLAlchemyError, OSError, ValueError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StorageError(f"{masked(url)}: {line}") from error


@contextmanager
def storage_at(
    url: str, *, create: bool = True, on_stale: OnStale | None = None
) -> Iterator[BaseStorage]:
    """A storage that is open as long as the block lasts; see `open_storage`."""
    storage = open_storage(url, create=create, on_stale=on_stale)
    try:
        yield storage
    finally:  # whoever uses it again makes new connections
        if isinstance(storage, RDBStorage):
            storage.remove_session()
            storage.engine.dispose()
        elif isinstance(storage, GrpcStorageProxy):
            storage.close()


def _open(url: str, path: Path | None, on_stale: OnStale | None) -> BaseStorage:
    scheme = url.split(":", 1)[0]
    if scheme == "sqlite":
        return _sqlite(url)
    if scheme == "journal":
        return JournalStorage(JournalFileBackend(str(path)))
    if scheme == "redis":
        return JournalStorage(JournalRedisBackend(url))
    if scheme == "grpc":
        where = urlsplit(url)
        return GrpcStorageProxy(host=where.hostname or "localhost", port=where.port or 13000)
    if scheme.startswith(("postgresql", "mysql")):
        return RDBStorage(
            url,
            heartbeat_interval=60,
            grace_period=180,
            heartbeat_stale_trial_callback=on_stale,
        )
    raise StorageError(
        f"{masked(url)}: unknown scheme {scheme!r}; allowed: sqlite, postgresql, mysql, journal, "
        "redis, grpc"
    )


def _sqlite(url: str) -> RDBStorage:
    """SQLite with one writer at a time, and readers that are never in its way.

    A connection lives for one transaction: a pool would keep it, open and unseen, until somebody
    disposes of the engine, which nobody can whose `RDBStorage` failed to open. Opening a file is
    cheap.
    """
    in_file = sqlite_path(url) not in {Path(), Path(":memory:")}  # else it is gone with its pool
    pool = {"poolclass": NullPool} if in_file else {}
    storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}, **pool})

    @event.listens_for(storage.engine, "connect")
    def _connected(connection: Any, _: object) -> None:  # noqa: ANN401 - a DBAPI connection
        # sqlite3 would begin a transaction at the first write, too late: two workers could both
        # have read the same waiting trial by then.
        connection.isolation_level = None  # we begin transactions ourselves
        connection.execute("PRAGMA journal_mode=WAL")

    @event.listens_for(storage.engine, "begin")
    def _begun(connection: sqlalchemy.Connection) -> None:
        # The writer's lock is taken before anything is read.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return storage


def open_study(
    url: str,
    name: str,
    *,
    directions: Sequence[Direction] | None = None,
    sampler: optuna.samplers.BaseSampler | None = None,
    storage: BaseStorage | None = None,
) -> optuna.Study:
    """Open a study by name; with `directions`, make it if it is not there.

    Raises:
        StorageError: There is no such study, or it has other directions.
    """
    store = storage or open_storage(url, create=directions is not None)
    if directions is None:
        try:
            return optuna.load_study(study_name=name, storage=store, sampler=sampler)
        except KeyError as error:
            known = ", ".join(optuna.get_all_study_names(store)) or "none"
            raise StorageError(f"{masked(url)}: no study {name!r}; there are: {known}") from error
    study = optuna.create_study(
        study_name=name,
        storage=store,
        sampler=sampler,
        directions=list(directions),
        load_if_exists=True,
    )
    found = [direction.name.lower() for direction in study.directions]
    if found != list(directions):
        raise StorageError(
            f"{masked(url)}: study {name!r} has objectives {found}, this configuration "
            f"{list(directions)}; give it another name"
        )
    return study


@contextmanager
def study_at(
    url: str,
    name: str,
    *,
    directions: Sequence[Direction] | None = None,
    sampler: optuna.samplers.BaseSampler | None = None,
    on_stale: OnStale | None = None,
) -> Iterator[optuna.Study]:
    """A study that is open as long as the block lasts; see `open_study` and `open_storage`."""
    with storage_at(url, create=directions is not None, on_stale=on_stale) as storage:
        yield open_study(url, name, directions=directions, sampler=sampler, storage=storage)


def this_worker() -> dict[str, object]:
    """Who runs a trial: host, process, and when that process began (seconds since the epoch)."""
    me = psutil.Process()
    return {"host": socket.gethostname(), "pid": me.pid, "began": me.create_time()}


def is_abandoned(trial: FrozenTrial) -> bool:
    """Whether a running trial's worker was on this host and is no more."""
    worker = trial.user_attrs.get(WORKER_ATTR)
    if not isinstance(worker, Mapping) or worker.get("host") != socket.gethostname():
        return False
    try:
        return abs(psutil.Process(int(worker["pid"])).create_time() - float(worker["began"])) > 1
    except psutil.NoSuchProcess:
        return True


def put_attrs(study: optuna.Study, attrs: Mapping[str, object]) -> None:
    """Write study attributes that are not there yet or differ; the rest costs no write."""
    known = study.user_attrs
    for key, value in attrs.items():
        if key not in known or json.dumps(known[key], sort_keys=True) != json.dumps(
            value, sort_keys=True
        ):
            study.set_user_attr(key, value)
