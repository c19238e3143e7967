"""Look at a study in a browser: optuna-dashboard with the right storage, artifacts and port.

It listens on this machine only, and answers only those who address it as this machine: the
dashboard knows no passwords and can delete studies. To look from elsewhere, forward the port:
`ssh -L 8080:127.0.0.1:8080 gpu-box`.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
import optuna_dashboard
from optuna.storages import BaseStorage

from objectives.errors import UsageError
from storage.artifacts import artifact_place, open_artifacts
from storage.trials import StorageError, masked, storage_at
from study.command import only, quiet_libraries, refused
from study.config import read_config
from study.reports import annotate
from study.results import read_study

HOST = "127.0.0.1"
INTERRUPTED = 130

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class _Server(ThreadingMixIn, WSGIServer):
    """Answers several requests at once; a browser that hangs keeps nobody waiting."""

    daemon_threads = True


class _Silent(WSGIRequestHandler):
    """Writes no line for every request."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; it runs until it is interrupted."""
    args = _parser().parse_args(argv)
    quiet_libraries()
    try:
        url, artifacts = _places(args)
        for number in (signal.SIGINT, signal.SIGTERM):  # a background job ignores the first
            signal.signal(number, signal.default_int_handler)
        with (
            storage_at(url, create=False) as storage,
            make(storage, url, artifacts=artifacts, port=args.port) as server,
        ):
            said = f"{masked(url)} at {address(server)} (Ctrl-C ends it)"
            print(said, file=sys.stderr, flush=True)
            server.serve_forever()
    except (UsageError, StorageError) as error:
        return refused("study.dashboard", error)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


_port = only(int, lambda port: 0 <= port <= 65535, "0 to 65535")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m study.dashboard",
        description=__doc__.split("\n\n", maxsplit=1)[0] if __doc__ else "",
        epilog="example: python -m study.dashboard sqlite:///studies/gpu-allocation.db",
    )
    parser.add_argument(
        "place",
        nargs="?",
        metavar="CONFIG|STORAGE",
        help="a configuration, or a storage URL; default: the bundled study for this machine",
    )
    parser.add_argument("--experiment", metavar="NAME", help="which block of a file with several")
    parser.add_argument(
        "--artifacts", metavar="PLACE", help="where logs are kept; default: beside the storage"
    )
    parser.add_argument(
        "--port", type=_port, default=8080, metavar="N", help="default: 8080; 0: any that is free"
    )
    return parser


def _places(args: argparse.Namespace) -> tuple[str, str]:
    """The storage's URL, and where its artifacts are."""
    if args.place and "://" in args.place:
        return args.place, artifact_place(args.place, args.artifacts)
    config = read_config(Path(args.place) if args.place else None, experiment=args.experiment)
    configured = args.artifacts or config.document.artifacts
    return config.storage_url, artifact_place(config.storage_url, configured)


def make(storage: BaseStorage, url: str, *, artifacts: str, port: int) -> WSGIServer:
    """A server that is bound and not running yet; notes and figures are brought up to date.

    Whoever opened the storage closes it. Port 0 takes any that is free.

    Raises:
        UsageError: The port is taken.
    """
    for name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage)
        if "schema" in study.user_attrs:
            annotate(study, read_study(study, url))
    application = optuna_dashboard.wsgi(storage, artifact_store=open_artifacts(artifacts))
    try:
        return make_server(
            HOST, port, for_this_machine(application), server_class=_Server, handler_class=_Silent
        )
    except OSError as error:
        raise UsageError(f"--port: found {port}: {error.strerror}; allowed: a free one") from error


def address(server: WSGIServer) -> str:
    """Where a browser finds it."""
    return f"http://{HOST}:{server.server_port}/dashboard"


def for_this_machine(application: Application) -> Application:
    """Answer only requests that name this machine: a page from elsewhere cannot reach in."""
    names = {"127.0.0.1", "localhost", "[::1]"}

    def guarded(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:  # noqa: ANN401
        asked_for = str(environ.get("HTTP_HOST", "")).rsplit(":", maxsplit=1)[0]
        if asked_for in names:
            return application(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"Open this dashboard as localhost.\n"]

    return guarded


if __name__ == "__main__":
    sys.exit(main())
