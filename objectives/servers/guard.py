"""The guard of one server: a small process that stands between a study and all that it started.

Run by path (`python -I -S guard.py NAME`), so that it is up in some 30 ms and needs nothing but
the standard library. It starts the server in a session of its own, and it ends the server: when
the study says so, and also when the study is dead, by `kill -9` too, for then its standard input
ends. As a *subreaper* it inherits every orphan, so whatever a server starts - a child that
outlives it, one with its own session, one that cleared its environment - stays below the guard
in the process table and is found there.

    stdin   orders of the study, a line of JSON each: the launch, then {"stop": grace_s}
    stdout  reports to it: {"pid"} or {"failed"}, {"ended": returncode}, {"gone": [pids left]}
    stderr  the server's log: both outputs of the server go there

Signals of a terminal or of a service manager do not end a guard: they end the study, and the
study, or its death, ends the guard.
"""

# pathlib would double the time that a guard needs to start:
# ruff: noqa: PTH100, PTH102, PTH120, PTH123
from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from objectives.servers import process_table
else:  # run by path: `-I` keeps even the script's own folder off the path
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    import process_table

LOST_GRACE_S = 3.0
"""Seconds between SIGTERM and SIGKILL when the study died."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_DEFAULTED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGPIPE", "SIGXFSZ", "SIGCHLD")


class _Orders:
    """What the study says, as it comes; its silence after the end of the pipe is an order, too."""

    def __init__(self) -> None:
        self._unread = b""
        self._wake, sleeper = os.pipe()
        # A signal may come between the look at its flag and the wait; a pipe that is written by the
        # signal's own machinery is seen by select() whenever it came.
        os.set_blocking(self._wake, False)
        os.set_blocking(sleeper, False)
        signal.set_wakeup_fd(sleeper, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # the wake-up needs a handler
        self.is_lost = False  # the study is dead
        self.grace_s: float | None = None  # None: not told to stop

    def launch(self) -> dict[str, object] | None:
        """The first order; None if the study died, or changed its mind, before it gave one."""
        while b"\n" not in self._unread and not self.is_lost:
            self._receive()
        line, _, self._unread = self._unread.partition(b"\n")
        if self.is_lost:
            return None
        self._obey()  # what came in the same breath
        order: dict[str, object] = json.loads(line)
        return order if "argv" in order else None

    def wait(self, at_most_s: float | None) -> None:
        """Until an order comes, a child ends, or the time is over."""
        listened = [self._wake] if self.is_lost else [0, self._wake]
        heard, _, _ = select.select(listened, [], [], at_most_s)
        if self._wake in heard:
            os.read(self._wake, 4096)
        if 0 in heard:
            self._receive()
            self._obey()

    def _receive(self) -> None:
        data = os.read(0, 1 << 16)
        self._unread += data
        self.is_lost = not data

    def _obey(self) -> None:
        *lines, self._unread = self._unread.split(b"\n")
        graces_s = [float(json.loads(line)["stop"]) for line in lines]
        if self.is_lost:
            graces_s.append(LOST_GRACE_S)
        if graces_s:
            self.grace_s = min(graces_s if self.grace_s is None else [self.grace_s, *graces_s])


class _Leader:
    """The server's own process."""

    def __init__(self, order: dict[str, object]) -> None:
        """Raises: OSError, if the program or its working folder cannot be used."""
        failure, notice = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _become(order, parent, notice)
        os.close(notice)
        with os.fdopen(failure, "rb") as pipe:
            text = pipe.read()
        if text:
            os.waitpid(self.pid, 0)
            raise OSError(text.decode())
        self.returncode: int | None = None  # negative: the signal that ended it

    def reap(self) -> bool:
        """Collect all that ended below this process; True if the leader was among it."""
        was_running = self.returncode is None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == self.pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return was_running and self.returncode is not None


def _become(order: dict[str, object], parent: int, notice: int) -> None:
    """In the child: turn into the server, or tell why not. Never returns."""
    try:
        os.setsid()
        # Should the guard itself be killed, a server that obeys takes its children along.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        for name in _DEFAULTED:
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        _offer_to_oom_killer(int(str(order["oom_score_adj"])))
        # The guard's own standard input carries the study's orders; a server must not read them.
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        if order["cwd"] is not None:
            os.chdir(str(order["cwd"]))
        argv, env = order["argv"], order["env"]
        assert isinstance(argv, list) and isinstance(env, dict)
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        os.write(notice, f"{error.strerror}: {error.filename or order['argv']}".encode())
    finally:
        os._exit(127)


def _offer_to_oom_killer(score: int) -> None:
    """Make this process a likelier victim than the study, the guard and the neighbours."""
    try:
        with open("/proc/self/oom_score_adj", "r+", encoding="ascii") as file:
            if score > int(file.read()):
                file.seek(0)
                file.write(str(score))
    except (OSError, ValueError):
        return  # the kernel's own choice stands


def _say(**report: object) -> None:
    """Tell the study; if it is dead, nobody listens, and that is no fault."""
    try:
        os.write(1, json.dumps(report).encode() + b"\n")
    except BrokenPipeError:
        return


def _attend(orders: _Orders, leader: _Leader, token: str) -> set[int]:
    """Watch the server until its end is ordered, end it, and return the pids that live on."""

    def wait(at_most_s: float | None) -> None:
        orders.wait(at_most_s)
        if leader.reap():
            _say(ended=leader.returncode)

    def find() -> set[int]:
        return process_table.below(os.getpid(), process_table.read_table())

    while orders.grace_s is None:
        wait(None)
    left = process_table.end(
        find, leader=leader.pid, grace_s=lambda: orders.grace_s or 0.0, wait=wait
    )
    # The environment's mark is searched last: reading every process's environment is slow, and only
    # what left the tree on purpose needs it: a daemon's child that slipped out from below.
    left |= process_table.kill(lambda: process_table.marked(token), wait)
    wait(0)
    return left


def main() -> int:
    """Guard one server; exit 0 when it is gone, 1 when something of it lives on."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    orders = _Orders()
    # Nothing is started before the whole order is there: a study that dies while it writes leaves
    # no half-started server.
    order = orders.launch()
    if order is None:
        return 0
    # Whoever loses its parent below this process becomes its child, not init's, and is found.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    temporary, before = order["temporary"], process_table.segments()
    left: set[int] = set()
    try:
        if temporary is not None:
            os.mkdir(str(temporary), 0o700)
        leader = _Leader(order)
    except OSError as error:
        _say(failed=str(error))
    else:
        _say(pid=leader.pid)
        left = _attend(orders, leader, str(order["token"]))
        process_table.sweep(process_table.segments() - before)
    if temporary is not None:
        import shutil  # noqa: PLC0415 - at the end, where its import delays nobody

        shutil.rmtree(str(temporary), ignore_errors=True)
    _say(gone=sorted(left))
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
