"""The process table: who is below whom, who carries a server's mark, and how to end them.

Standard library only, and quick to import: the guard, too, lives on it.
"""

# pathlib would double the time that a guard needs to start:
# ruff: noqa: PTH108, PTH115, PTH116, PTH123, PTH208
from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

MARK = "GPU_ALLOCATION_STUDY_TRIAL"
"""The environment variable that every process of a server inherits."""

ORPHAN_GRACE_S = 2.0
"""Seconds that children are given, once told to end, after the server itself is gone."""
TRACKER_S = 1.0
"""Seconds that multiprocessing's resource tracker has, once alone, to unlink shared memory."""
KILL_S = 10.0
"""Seconds after which what survives SIGKILL is reported and waited for no longer."""
POLL_S = 0.03
"""Seconds between two looks at processes that are to go."""


class Process(NamedTuple):
    """One row of the kernel's process table."""

    parent: int  # pid of the parent, or of who inherited the process
    group: int
    state: str  # one letter, see proc(5)
    started_ticks: int  # when it began, in clock ticks after boot: with the pid, its identity

    @property
    def is_alive(self) -> bool:
        """False for a zombie: it holds no memory and runs no code."""
        return self.state not in "ZX"


def read_process(pid: int) -> Process | None:
    """The row of `pid`, or None if there is no such process."""
    text = read_file(f"/proc/{pid}/stat")
    if not text:
        return None
    fields = text[text.rindex(b")") + 2 :].split()  # the name before may hold anything
    return Process(int(fields[1]), int(fields[2]), fields[0].decode(), int(fields[19]))


def still_lives(pid: int, started_ticks: int) -> bool:
    """Whether the very process of that pid and that start lives."""
    row = read_process(pid)
    return row is not None and row.is_alive and row.started_ticks == started_ticks


def pids() -> list[int]:
    """Of all processes that this one can see."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def read_table() -> dict[int, Process]:
    """All rows, by pid."""
    rows = ((pid, read_process(pid)) for pid in pids())
    return {pid: row for pid, row in rows if row is not None}


def below(root: int, table: dict[int, Process]) -> set[int]:
    """Pids of all living descendants of `root`, which itself is not among them."""
    children: dict[int, list[int]] = {}
    for pid, row in table.items():
        children.setdefault(row.parent, []).append(pid)
    found: set[int] = set()
    todo = [root]
    while todo:
        born = [pid for pid in children.get(todo.pop(), ()) if pid not in found]
        found.update(born)
        todo += born
    return {pid for pid in found if table[pid].is_alive}


def marks() -> dict[int, str]:
    """Value of the mark of every living process that carries one and may be read, by pid.

    A program that writes a long title over its environment loses it.
    """
    found = {}
    wanted = MARK.encode() + b"="
    for pid in pids():
        for variable in read_file(f"/proc/{pid}/environ").split(b"\0"):
            if variable.startswith(wanted):
                found[pid] = variable.removeprefix(wanted).decode(errors="replace")
    return found


def marked(token: str) -> set[int]:
    """Pids of the living processes that carry this mark, the caller left out."""
    return {pid for pid, value in marks().items() if value == token and pid != os.getpid()}


def leftovers() -> set[int]:
    """Pids of marked processes whose study is dead: their guard was killed with it.

    The mark begins with the study's pid and start. Only of this process's own pid namespace: what
    a container runs is not judged from outside.
    """
    return {pid for pid, token in marks().items() if _is_left(pid, token)}


def _is_left(pid: int, token: str) -> bool:
    study, started, *_ = (*token.split("."), "", "")
    if not (study.isdecimal() and started.isdecimal()):
        return False
    try:
        is_here = os.readlink("/proc/self/ns/pid") == os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return False
    return is_here and not still_lives(int(study), int(started))


def end(
    find: Callable[[], set[int]],
    *,
    leader: int,
    grace_s: Callable[[], float],
    wait: Callable[[float], object],
) -> set[int]:
    """End processes: ask with SIGTERM, wait, then SIGKILL until none is left.

    Once `leader`, the server itself, is gone, the others have `ORPHAN_GRACE_S` at most.

    Args:
        find: Pids that are to go and still live.
        leader: Its whole group is asked at once.
        grace_s: Seconds between SIGTERM and SIGKILL; asked again and again, for it may shrink.
        wait: Waits at most so many seconds.

    Returns: As `kill`.
    """
    begun_s = time.monotonic()
    alone_s: float | None = None  # since when the leader is gone
    left = find()
    _ask(left, leader)
    while left:
        now_s = time.monotonic()
        alone_s = now_s if alone_s is None and leader not in left else alone_s
        if now_s - begun_s >= grace_s() or (alone_s and now_s - alone_s >= ORPHAN_GRACE_S):
            return kill(find, wait)
        wait(POLL_S)
        left = find()
    return set()


def kill(find: Callable[[], set[int]], wait: Callable[[float], object]) -> set[int]:
    """SIGKILL what `find` finds until it finds nothing.

    Resource trackers are spared for `TRACKER_S`: they unlink shared memory when they are alone.

    Returns: Pids that live on after `KILL_S`: empty unless the kernel holds them.
    """
    begun_s = time.monotonic()
    while left := find():
        waited_s = time.monotonic() - begun_s
        if waited_s >= KILL_S:
            return left
        spared = {pid for pid in left if waited_s < TRACKER_S and _is_tracker(pid)}
        _signal(left - spared, signal.SIGKILL)
        wait(POLL_S)
    return set()


def _ask(those: set[int], leader: int) -> None:
    """SIGTERM: to the leader's group at once, to the others one by one."""
    others = set(those)
    if leader in those:
        others = {pid for pid in those if (row := read_process(pid)) and row.group != leader}
        try:
            os.killpg(leader, signal.SIGTERM)
        except (ProcessLookupError, PermissionError):
            others.add(leader)  # it has no group of its own
    _signal(others, signal.SIGTERM)


def _signal(those: Iterable[int], number: int) -> None:
    for pid in those:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue  # gone already; or not ours, and then it stays in what is left


def _is_tracker(pid: int) -> bool:
    return b"multiprocessing.resource_tracker" in read_file(f"/proc/{pid}/cmdline")


def read_file(path: str) -> bytes:
    """A file of /proc; empty if the process is gone or belongs to somebody else."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


_FOLDER = "/dev/shm"
_PREFIX = "psm_"  # of multiprocessing.shared_memory


def segments() -> set[str]:
    """Names of the shared-memory segments of Python programs on this machine."""
    try:
        return {name for name in os.listdir(_FOLDER) if name.startswith(_PREFIX)}
    except OSError:
        return set()


def sweep(new: set[str]) -> None:
    """Unlink those of the segments `new` that are this user's and that no living process maps."""
    for name in new - _mapped() if new else ():
        path = f"{_FOLDER}/{name}"
        try:
            if os.stat(path).st_uid == os.getuid():
                os.unlink(path)
        except OSError:
            continue  # somebody was quicker


def _mapped() -> set[str]:
    folder = f"{_FOLDER}/".encode()
    found = set()
    for pid in pids():
        for line in read_file(f"/proc/{pid}/maps").splitlines():
            if folder in line:
                found.add(line.partition(folder)[2].decode(errors="replace"))
    return found
