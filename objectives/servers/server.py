"""Own a server and all that it starts, from the first byte of its log to its last process.

    with Port() as port, serve(launch, url=port.url, ready=http_ready(port.url), ready_s=600) as s:
        ...  # it is healthy, and s.check() says at once when it is not there any more
    # by whatever door the block was left, nothing of it runs

The server is not a child of this process but of a guard (`guard.py` beside this file), which
outlives the study by the seconds that it takes to end the server when the study is killed.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from objectives.errors import EngineError, NotReadyError, OrphanError, ServerDiedError
from objectives.servers import guard, process_table

POLL_S = 0.25
"""Seconds between two questions whether a starting server is ready; fewer in its first two."""
_GUARD_START_S = 60.0  # a guard needs 0.03 s, and more only on a machine that does not respond
_MEMBERS_FRESH_S = 1.0
_OVERHEAD_S = process_table.TRACKER_S + process_table.KILL_S + guard.LOST_GRACE_S + 10.0


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How a server is started.

    Attributes:
        env: Its complete environment. Added to it are `process_table.MARK` and, if it names no
            TMPDIR, one of its own, which is removed afterwards.
        oom_score_adj: How much likelier a victim of the kernel's out-of-memory killer it is than
            the study itself, in thousandths of the memory: the bench must outlive its candidate.
    """

    name: str  # what people call it: "vllm", "whisper", a neighbour's name
    argv: tuple[str, ...]  # a program without a slash is looked up in `env`'s PATH
    env: Mapping[str, str]
    log: Path  # takes both of its outputs; what was there is lost
    cwd: Path | None = None  # None: the study's
    oom_score_adj: int = 500


class Server:
    """A running server, seen from the study. Made by `serve`."""

    def __init__(self, launch: Launch, url: str | None, guarded: _Guarded, pid: int) -> None:
        self.name = launch.name
        self.log = launch.log
        self.url = url
        self.pid = pid  # of the process that was started; its group has the same number
        self._guarded = guarded
        self._members: dict[int, int] = {}  # pid to its start
        self._members_at_s = float("-inf")

    @property
    def ended(self) -> int | None:
        """Its exit code once its leader ended, negative for a signal; None while it runs."""
        self._guarded.listen(0)
        return self._guarded.returncode

    def check(self) -> None:
        """Raises: ServerDiedError, if its leader ended or its guard was killed."""
        if self.ended is not None or self._guarded.is_lost:
            raise ServerDiedError(self.name, log=self.log, returncode=self._guarded.returncode)

    def members(self) -> list[int]:
        """Pids of all its living processes, ascending; children up to a second old may lack."""
        if self._guarded.is_over:
            return sorted(self._guarded.find())
        now_s = time.monotonic()
        if now_s - self._members_at_s >= _MEMBERS_FRESH_S:
            rows = {pid: process_table.read_process(pid) for pid in self._guarded.find()}
            self._members = {pid: row.started_ticks for pid, row in rows.items() if row}
            self._members_at_s = now_s
        return sorted(
            pid for pid, since in self._members.items() if process_table.still_lives(pid, since)
        )


@contextmanager
def serve(
    launch: Launch,
    *,
    url: str | None,
    ready: Callable[[], bool],
    ready_s: float,
    stop_s: float = 20.0,
    alive_of_others: Callable[[], None] | None = None,
) -> Iterator[Server]:
    """A server that is ready inside the block and gone after it.

    Its output goes to `launch.log`, never to a pipe: a pipe that nobody drains stalls a server.
    However the block is left - its end, an exception, Ctrl-C, even twice - all of the server's
    processes are ended before the next line runs; if this process is killed, they are ended too.

    Args:
        launch: What to start.
        url: Where it will answer; only carried along.
        ready: Asked again and again; True once the server does its work.
        ready_s: Seconds until it must be ready.
        stop_s: Seconds that it is given between SIGTERM and SIGKILL.
        alive_of_others: Called while waiting; raises to give up the start.

    Raises:
        EngineError: The program cannot be started.
        ServerDiedError: It ended before it was ready.
        NotReadyError: It was not ready in time.
        OrphanError: Something of it cannot be killed.
    """
    guarded = _Guarded(launch)  # starts nothing yet but the guard
    try:
        server = Server(launch, url, guarded, guarded.start())
        _wait_until_ready(server, guarded, ready, ready_s, alive_of_others)
        yield server
    finally:
        guarded.end(stop_s)


def _wait_until_ready(
    server: Server,
    guarded: _Guarded,
    ready: Callable[[], bool],
    ready_s: float,
    alive_of_others: Callable[[], None] | None,
) -> None:
    begun_s = time.monotonic()
    while True:
        server.check()
        if alive_of_others is not None:
            alive_of_others()
        if ready():
            return
        waited_s = time.monotonic() - begun_s
        if waited_s >= ready_s:
            server.check()
            raise NotReadyError(server.name, log=server.log, waited_s=waited_s)
        # Asked often at first, when a fake or a cached server is ready in no time, then ever less:
        # a server that loads for minutes is not slowed by being asked.
        pause_s = min(POLL_S, 0.05 + waited_s / 10, ready_s - waited_s)
        guarded.listen(pause_s)  # its death ends this wait at once


class _Guarded:
    """The study's end of the two pipes to a guard; `guard.py` says what goes through."""

    def __init__(self, launch: Launch) -> None:
        """Start the guard, and only the guard: it dies with this object."""
        launch.log.parent.mkdir(parents=True, exist_ok=True)
        own = process_table.read_process(os.getpid())
        self.token = f"{os.getpid()}.{own.started_ticks if own else 0}.{secrets.token_hex(8)}"
        self.pid: int | None = None  # of the server
        self.returncode: int | None = None  # of the server
        self.is_lost = False  # the guard is gone and did not say goodbye
        self.is_over = False  # `end` came to its end
        self._failed: str | None = None
        self._left: set[int] | None = None
        self._unread = b""
        self._lock = threading.Lock()
        self._temporary = None if "TMPDIR" in launch.env else _temporary(self.token)
        self._launch = launch
        launch.log.write_bytes(b"")  # emptied here; below, several processes append to it
        # O_APPEND: the server, its children and the guard write to one file, and no line of one
        # overwrites a line of another.
        with launch.log.open("ab") as log:
            self._guard = subprocess.Popen(
                (sys.executable, "-I", "-S", guard.__file__, launch.name),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                # Ctrl-C of a terminal reaches the study alone, which then ends its servers in
                # order.
                start_new_session=True,
            )

    def start(self) -> int:
        """Have the server started; its pid. Raises: EngineError, if it cannot be."""
        launch = self._launch
        env = {**launch.env, process_table.MARK: self.token}
        if self._temporary is not None:
            env["TMPDIR"] = self._temporary
        self._order(
            argv=list(launch.argv),
            env=env,
            cwd=None if launch.cwd is None else str(launch.cwd),
            oom_score_adj=launch.oom_score_adj,
            token=self.token,
            temporary=self._temporary,
        )
        until_s = time.monotonic() + _GUARD_START_S
        while self.pid is None and self._failed is None and not self.is_lost:
            if time.monotonic() >= until_s:
                raise EngineError(f"{launch.name}: its guard does not answer")
            self.listen(POLL_S)
        if self.pid is None:
            reason = self._failed or "its guard was killed"
            raise EngineError(f"{launch.name} cannot be started: {reason}")
        return self.pid

    def listen(self, at_most_s: float) -> None:
        """Take in what the guard reported; wait for a report if there is none."""
        with self._lock:
            if self.is_lost or self._guard.stdout is None or self._guard.stdout.closed:
                return
            heard, _, _ = select.select([self._guard.stdout], [], [], at_most_s)
            if not heard:
                return
            data = os.read(self._guard.stdout.fileno(), 1 << 16)
            self.is_lost = not data and self._left is None
            *lines, self._unread = (self._unread + data).split(b"\n")
            for line in lines:
                self._note(json.loads(line))

    def _note(self, report: Mapping[str, object]) -> None:
        match report:
            case {"pid": int(pid)}:
                self.pid = pid
            case {"failed": str(reason)}:
                self._failed = reason
            case {"ended": int(returncode)}:
                self.returncode = returncode
            case {"gone": list(left)}:
                self._left = {int(pid) for pid in left}

    def _order(self, **order: object) -> None:
        if self._guard.stdin is None or self._guard.stdin.closed:
            return
        with suppress(BrokenPipeError):  # `listen` learns that the guard is lost
            self._guard.stdin.write(json.dumps(order).encode() + b"\n")

    def find(self) -> set[int]:
        """Pids of the server's living processes."""
        table = process_table.read_table()
        found = {pid for pid, row in table.items() if row.group == self.pid and row.is_alive}
        if self.is_over or self.is_lost:
            return found | process_table.marked(self.token)
        return found | process_table.below(self._guard.pid, table)

    def end(self, stop_s: float) -> None:
        """End the server and its guard; an interrupt meanwhile only makes it quicker.

        Raises: OrphanError, if some of its processes live on.
        """
        interrupt: BaseException | None = None
        while True:
            try:
                left = self._end(0.0 if interrupt else stop_s)
                break
            except Exception:
                raise
            # A second Ctrl-C while servers are being ended must not leave them running: it is kept,
            # the ending goes on without any grace, and the interrupt is raised when all are gone.
            except BaseException as signalled:  # noqa: BLE001 - raised below, when all is gone
                interrupt = signalled
        if left:
            pids = ", ".join(str(pid) for pid in sorted(left))
            raise OrphanError(f"{self._launch.name}: pid {pids} cannot be killed") from interrupt
        if interrupt is not None:
            raise interrupt

    def _end(self, grace_s: float) -> set[int]:
        self._order(stop=grace_s)
        until_s = time.monotonic() + grace_s + _OVERHEAD_S
        while self._left is None and not self.is_lost and time.monotonic() < until_s:
            self.listen(POLL_S)
        if self._left is None:
            self._left = self._end_without_guard(grace_s)
        self._close()
        return self._left

    def _end_without_guard(self, grace_s: float) -> set[int]:
        """For a guard that was killed, or that does not answer."""
        self._guard.kill()
        self.is_lost = True
        if self.pid is None:
            return set()
        return process_table.end(
            self.find, leader=self.pid, grace_s=lambda: grace_s, wait=time.sleep
        )

    def _close(self) -> None:
        for pipe in (self._guard.stdin, self._guard.stdout):
            if pipe is not None:
                pipe.close()
        self._guard.wait()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
        self.is_over = True


def end_leftovers() -> list[int]:
    """End servers that live although both their study and their guard were killed.

    To be called before a study begins, so that it begins on a quiet machine.

    Returns: The pids that were found.
    Raises:  OrphanError, if some cannot be killed.
    """
    marks = process_table.marks()
    found = sorted(process_table.leftovers())
    if left := process_table.kill(process_table.leftovers, time.sleep):
        raise OrphanError(f"pid {sorted(left)} of an earlier study cannot be killed")
    for token in {marks[pid] for pid in found if pid in marks}:
        shutil.rmtree(_temporary(token), ignore_errors=True)
    return found


def _temporary(token: str) -> str:
    return f"{tempfile.gettempdir()}/gas-{token.rpartition('.')[2]}"
