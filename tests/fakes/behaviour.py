"""What every fake server can do wrong, and the HTTP server that both share."""

from __future__ import annotations

import errno
import json
import mmap
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any, ClassVar

from knobs import Knobs

_CHILD = """
import os, signal, sys, time
_, kind, obeys = sys.argv
if obeys != "1":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if kind == "double_fork":
    if os.fork():
        os._exit(0)
    os.setsid()
while True:
    time.sleep(3600)
"""
_KEPT: list[object] = []  # what must not be given back before the process ends


def misbehave_early(knobs: Knobs) -> None:
    """All that a server does before it would load its model."""
    _obey_or_not(knobs)
    for kind in filter(None, (knobs.text("CHILD") or "").split(",")):
        _start_child(kind, knobs)
    if size_bytes := knobs.whole("SHARED_MEMORY_BYTES"):
        _KEPT.append(shared_memory.SharedMemory(create=True, size=size_bytes))
    if size_bytes := knobs.whole("RESIDENT_BYTES"):
        held = mmap.mmap(-1, size_bytes)
        for offset in range(0, size_bytes, mmap.PAGESIZE):
            held[offset] = 1
        _KEPT.append(held)
    if (code := knobs.text("CRASH_AT_START")) is not None:
        die(int(code))
    if knobs.is_on("HANG"):
        while True:
            time.sleep(3600)


def port_was_in_use(knobs: Knobs) -> bool:
    """True the first time, if the knob is set."""
    name = knobs.text("PORT_IN_USE_ONCE")
    if name is None or Path(name).exists():
        return False
    Path(name).touch()
    return True


def die(code: int) -> None:
    """End at once, as told; a negative code is a signal."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code)


def _obey_or_not(knobs: Knobs) -> None:
    def leave(*_: object) -> None:
        time.sleep(knobs.number("STOP_S"))
        die(0)

    deaf = knobs.is_on("DEAF")
    signal.signal(signal.SIGTERM, signal.SIG_IGN if deaf else leave)


def _start_child(kind: str, knobs: Knobs) -> None:
    own_session = kind in ("session", "cleared")
    child = subprocess.Popen(
        (sys.executable, "-I", "-S", "-c", _CHILD, kind, knobs.text("CHILD_OBEYS") or "0"),
        start_new_session=own_session,
        env={} if kind == "cleared" else None,
    )
    if kind == "double_fork":
        child.wait()
    _KEPT.append(child)


class Requests:
    """Counts requests, and knows which of them go wrong."""

    def __init__(self, knobs: Knobs) -> None:
        self._knobs = knobs
        self._lock = threading.Lock()
        self.count = 0

    def next_fails(self) -> bool:
        """Count one more; crash if this is the one; True if it shall be answered with 500."""
        with self._lock:
            self.count += 1
            count = self.count
        limit = self._knobs.text("CRASH_AFTER_REQUESTS")
        if limit is not None and count > int(limit):
            die(self._knobs.whole("CRASH_CODE", 1))
        every = self._knobs.whole("FAIL_EVERY")
        return bool(every) and count % every == 0


class Handler(BaseHTTPRequestHandler):
    """One connection; the fakes fill in `get` and `post`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    api_key: ClassVar[str | None] = None
    health_s: ClassVar[float] = 0.0
    get: ClassVar[Mapping[str, Callable[[Handler], None]]] = {}
    post: ClassVar[Mapping[str, Callable[[Handler, bytes], None]]] = {}

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/health":
            time.sleep(self.health_s)
        route = self.get.get(path)
        if route is None:
            self.answer(404, {"error": "Not Found"})
        elif self._may(path):
            route(self)

    def do_POST(self) -> None:
        body = self._body()
        path = self.path.partition("?")[0]
        route = self.post.get(path)
        if route is None:
            self.answer(404, {"error": "Not Found"})
        elif self._may(path):
            route(self, body)

    def _may(self, path: str) -> bool:
        given = self.headers.get("Authorization", "")
        if not path.startswith("/v1") or not self.api_key or given == f"Bearer {self.api_key}":
            return True
        self.answer(401, {"error": "Unauthorized"})
        return False

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return b"".join(self._chunks())
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def answer(
        self, status: int, body: object = None, *, headers: dict[str, str] | None = None
    ) -> None:
        """A whole answer: JSON, or text as it stands; None: an empty body."""
        is_text = isinstance(body, str)
        data = b"" if body is None else (str(body) if is_text else json.dumps(body)).encode()
        self.send_response(status)
        kind = "text/plain; version=0.0.4; charset=utf-8" if is_text else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def begin_events(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def event(self, data: str) -> None:
        text = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(text), text))

    def end_events(self) -> None:
        self.event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        """No access log."""


class Listener(ThreadingHTTPServer):
    """Binds as uvicorn does, with SO_REUSEADDR; takes many connections at once."""

    daemon_threads = True
    request_queue_size = 512

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # without a look-up of the host's name
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of ours."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def handler(
    *,
    get: Mapping[str, Callable[[Handler], None]],
    post: Mapping[str, Callable[[Handler, bytes], None]],
    api_key: str | None,
    health_s: float,
) -> type[Handler]:
    """The handler class of one server."""
    routes = {"get": get, "post": post, "api_key": api_key, "health_s": health_s}
    return type("Routed", (Handler,), routes)


def listen(host: str, port: int, handler: type[Handler]) -> Listener | None:
    """A listening server; None if the port is taken."""
    try:
        return Listener((host, port), handler)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return None


def serve(server: Listener, knobs: Knobs) -> None:
    """Answer until a signal ends the process, or a knob does."""
    if (after_s := knobs.number("DIE_AFTER_S")) > 0:
        timer = threading.Timer(after_s, die, (knobs.whole("CRASH_CODE", 1),))
        timer.daemon = True
        timer.start()
    server.serve_forever(poll_interval=0.05)
