"""Tenants of the device that nobody tunes, but who are there while a candidate is judged.

A candidate that was measured alone says nothing about the day when it stands beside the others.
Who they are is read from the process table as the guard reads it: 6 ms of CPU for 92 processes, of
which psutil takes 18 ms.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from objectives import workers
from objectives.errors import (
    EngineError,
    NeighbourError,
    NotReadyError,
    ServerDiedError,
    UsageError,
)
from objectives.servers import process_table
from objectives.servers.http_get import http_ready
from objectives.servers.server import Launch, Server, serve
from objectives.telemetry import pss_bytes, rss_bytes

_FRESH_S = 2.0
"""Seconds for which a list of a running neighbour's processes is good enough."""
_HOLD_STOP_S, _COMMAND_STOP_S = 5.0, 20.0
_TOLERANCE = 0.98
"""Of a promised size: what a neighbour may lack of it, for drivers and people round."""

ByPid = Callable[[], Mapping[int, int | None]]


@dataclass(frozen=True, kw_only=True)
class Running:
    """One that runs already, and must.

    Raises: UsageError, if `match` is no regular expression.
    """

    name: str
    match: str  # searched in command lines and process names
    min_bytes: int | None = None  # of the device, that it must hold at least; None: any amount

    def __post_init__(self) -> None:
        try:
            re.compile(self.match)
        except re.error as error:
            raise UsageError(
                f"neighbour {self.name}: match {self.match!r} is no regular expression: {error}"
            ) from None


@dataclass(frozen=True, kw_only=True)
class Command:
    """One that we start, and end."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)  # over the study's and the device's
    ready_s: float = 60.0  # until it must be up
    url: str | None = None  # answers with success once it is up; None: up as soon as it runs


@dataclass(frozen=True, kw_only=True)
class Hold:
    """A process of ours in the place of one that is not here: it really holds memory."""

    name: str
    bytes_: int  # of the device; a GPU's context comes on top
    ready_s: float = 120.0  # until it must hold all of it


Neighbour = Running | Command | Hold


@dataclass(frozen=True, kw_only=True)
class Present:
    """The neighbours of one trial, all there."""

    pids: Mapping[str, Callable[[], list[int]]]  # name to what tells those of living processes
    doubts: Sequence[str]  # what could not be established about them, in sentences
    _checks: Sequence[Callable[[], object]]

    def check(self) -> None:
        """Raises: NeighbourError, if one left or holds less than it must."""
        for check in self._checks:
            check()


@contextmanager
def present(
    neighbours: Sequence[Neighbour],
    *,
    device_env: Mapping[str, str],
    device_kind: str,
    folder: Path,
    by_pid: ByPid | None = None,
    around: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> Iterator[Present]:
    """All neighbours, there inside the block; those that we started are gone after it.

    They start one after the other, in the order given: none while another is still coming up.
    `device_env` shows a process the device, and no other; logs go to `folder`; `by_pid` gives
    device bytes by process id, as the driver tells them, and is None where it does not. `around`
    gives, by name, the block in which one that we start comes up.

    Raises: NeighbourError, if one is not there, does not come up, or holds less than it must.
    """
    pids: dict[str, Callable[[], list[int]]] = {}
    checks: list[Callable[[], object]] = []
    doubts: list[str] = []
    with ExitStack() as stack:
        for index, neighbour in enumerate(neighbours):
            if isinstance(neighbour, Running):
                found = _Found(neighbour, device_kind, by_pid)
                if doubt := found.check():
                    doubts.append(doubt)
                pids[neighbour.name] = found.pids
                checks.append(found.check)
                continue
            slug = re.sub(r"[^\w.-]+", "_", neighbour.name)
            log = folder / f"neighbour-{index}-{slug}.log"
            with around(neighbour.name):
                server = stack.enter_context(_started(neighbour, device_env, device_kind, log))
            pids[neighbour.name] = server.members
            checks.append(partial(_see, server))
        yield Present(pids=pids, doubts=doubts, _checks=checks)


@contextmanager
def _started(
    neighbour: Command | Hold, device_env: Mapping[str, str], device_kind: str, log: Path
) -> Iterator[Server]:
    ready: Callable[[], bool]
    if isinstance(neighbour, Hold):
        worker = (sys.executable, "-I", "-S", str(workers.HOLD_MEMORY))
        sized = ("--kind", device_kind, "--bytes", str(neighbour.bytes_))
        command = Command(name=neighbour.name, argv=worker + sized, ready_s=neighbour.ready_s)
        ready, stop_s = partial(_holds, log), _HOLD_STOP_S
    else:
        command, stop_s = neighbour, _COMMAND_STOP_S
        ready = (lambda: True) if command.url is None else http_ready(command.url, path="")
    launch = Launch(
        name=command.name,
        argv=command.argv,
        env={**os.environ, **device_env, **command.env},
        log=log,
        oom_score_adj=0,  # as likely a victim as any other: not the one that is judged
    )
    owned = serve(launch, url=command.url, ready=ready, ready_s=command.ready_s, stop_s=stop_s)
    with ExitStack() as stack:
        with _named(command.name, log):
            server = stack.enter_context(owned)
        yield server


def _holds(log: Path) -> bool:
    return log.read_text(errors="replace").startswith(workers.HOLD_MEMORY_READY)


def _see(server: Server) -> None:
    with _named(server.name, server.log):
        server.check()


@contextmanager
def _named(name: str, log: Path) -> Iterator[None]:
    """What goes wrong with a server inside is a neighbour's fault, told with its last line."""
    try:
        yield
    except (ServerDiedError, NotReadyError, EngineError) as error:
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        last = f"; its last line: {lines[-1]}" if lines else ""
        raise NeighbourError(f"neighbour {name}: {error}{last}") from error


class _Found:
    """The processes of a neighbour that was not started by us."""

    def __init__(self, neighbour: Running, device_kind: str, by_pid: ByPid | None) -> None:
        self._neighbour = neighbour
        self._device_kind = device_kind
        self._by_pid = by_pid
        self._pids: list[int] = []
        self._looked_s = float("-inf")
        self._was_seen = False

    def pids(self) -> list[int]:
        """Of its living processes, with their children; up to `_FRESH_S` old."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= _FRESH_S:
            self._pids = matching(self._neighbour.match)
            self._looked_s = now_s
        return list(self._pids)

    def check(self) -> str | None:
        """See that it is there, now; a doubt if what it holds is unknown, or nobody can see it.

        Raises: NeighbourError, if it is not, or holds less than it must.
        """
        self._looked_s = float("-inf")
        pids, wanted = self.pids(), self._neighbour.min_bytes
        name = self._neighbour.name
        if not pids and not self._was_seen and _sees_own_processes_only():
            return _left_out(name)
        self._was_seen = True
        if not pids:
            raise NeighbourError(
                f"neighbour {name} is not running: no process matches {self._neighbour.match!r}"
            )
        if wanted is None:
            return None
        held = self._held_bytes(pids)
        if held is None:
            return f"what neighbour {name} holds is not known: the driver does not tell"
        if held < _TOLERANCE * wanted:
            raise NeighbourError(f"neighbour {name} holds {held} bytes of at least {wanted}")
        return None

    def _held_bytes(self, pids: Sequence[int]) -> int | None:
        if self._device_kind == "cpu":
            sizes = [pss_bytes(pid) or rss_bytes(pid) for pid in pids]
        else:
            held = {} if self._by_pid is None else self._by_pid()
            sizes = [held.get(pid) for pid in pids]
        known = [size for size in sizes if size is not None]
        return sum(known) if known else None


_FIRST_PID_NAMESPACE = "pid:[4026531836]"
"""The machine's own: its number never changes (Linux, PROC_PID_INIT_INO in proc_ns.h)."""


def unseen(neighbour: Neighbour) -> str | None:
    """A sentence where a neighbour that must be there already cannot be seen from here, else None.

    A container with process ids of its own does not show others'; a trial then goes on without it.
    """
    if not isinstance(neighbour, Running) or not _sees_own_processes_only():
        return None
    return None if matching(neighbour.match) else _left_out(neighbour.name)


def _sees_own_processes_only() -> bool:
    try:
        return str(Path("/proc/self/ns/pid").readlink()) != _FIRST_PID_NAMESPACE
    except OSError:
        return False


def _left_out(name: str) -> str:
    return (
        f"neighbour {name} is left out: no process matches, and this container shows its own only; "
        "what it holds counts as used memory (--pid=host shows it)"
    )


def matching(pattern: str) -> list[int]:
    """Pids whose command line or name matches, with all their descendants, ascending.

    This process, those that it descends from and those that descend from it are left out: the
    pattern may stand on the study's own command line.
    """
    table, above = process_table.read_table(), os.getpid()
    ours = process_table.below(above, table)
    while above in table.keys() - ours:
        ours.add(above)
        above = table[above].parent
    wanted = re.compile(pattern)
    hits = {pid for pid in table.keys() - ours if table[pid].is_alive and _is_match(wanted, pid)}
    for pid in tuple(hits):
        hits |= process_table.below(pid, table)
    return sorted(hits - ours)


def _is_match(pattern: re.Pattern[str], pid: int) -> bool:
    texts = (process_table.read_file(f"/proc/{pid}/{file}") for file in ("cmdline", "comm"))
    plain = (text.replace(b"\0", b" ").strip().decode(errors="replace") for text in texts)
    return any(map(pattern.search, plain))
