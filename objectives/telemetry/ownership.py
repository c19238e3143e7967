"""Whose are the bytes of a GPU? Its driver's process list tells, or what became less at a start.

The list has process ids of this machine, of a container's host, or none; bytes for each, or not.
What it tells of our processes stands before everything; what they took when they started, one
after the other, comes second and is said to be that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import psutil

from objectives.device import DeviceState, Own
from objectives.units import gib

FRESH_S = 1.0
"""Seconds in which a tenant that is in no list yet may still come into it."""


@dataclass(frozen=True, kw_only=True)
class Stranger:
    """A process of nobody in the study that came to the device meanwhile.

    Attributes:
        name: Of its program; None where its number means nothing here.
        most_bytes: The most that it held; None where the driver does not tell.
        looks: In how many looks it was there.
    """

    pid: int
    name: str | None
    most_bytes: int | None = None
    looks: int = 1

    def __str__(self) -> str:
        held = "" if self.most_bytes is None else f" and held up to {gib(self.most_bytes)}"
        return f"process {self.pid} ({self.name or 'of another namespace'}){held}"


class Ownership:
    """Keeps, look by look, whose the memory of a GPU is; single-threaded.

    Attributes:
        lists_ours: Whether the driver ever listed a process of the study by its number here.
        differences: Tenants whose bytes were ever told by what became less at their start.
    """

    def __init__(self) -> None:
        self.lists_ours = False
        self.differences: set[str] = set()
        self._before: frozenset[int] | None = None
        self._members: dict[str, set[int]] = {}
        self._since_s: dict[str, float] = {}
        self._held: dict[str, int] = {}
        self._strangers: dict[int, Stranger] = {}

    def see(
        self, state: DeviceState, members: Mapping[str, Collection[int] | None], at_s: float
    ) -> None:
        """One look: what the driver lists, and which processes every tenant has."""
        for name, pids in members.items():
            if pids:
                self._since_s.setdefault(name, at_s)
                self._members.setdefault(name, set()).update(pids)
        listed = state.by_pid.keys()
        if self._before is None:
            self._before = frozenset(listed)
        known = set().union(*self._members.values())
        self.lists_ours = self.lists_ours or not known.isdisjoint(listed)
        for pid in listed - known - self._before:
            self._meet(pid, state.by_pid[pid], known)

    def held(
        self,
        name: str,
        pids: Collection[int] | None,
        state: DeviceState,
        *,
        at_s: float,
        grown_bytes: int | None = None,
    ) -> int | None:
        """Bytes of a tenant.

        Args:
            name: The tenant's.
            pids: Its processes; None where they are not known, as while it starts.
            state: The device.
            at_s: When, on the clock of `see`.
            grown_bytes: What became less as it started; None where nobody looked.
        """
        if pids is None:
            return None
        told = listed_bytes(pids, state)
        if told is None and pids and grown_bytes is not None:
            self.differences.add(name)
            told = grown_bytes
        if told is None and self._must_be_nothing(name, pids, state, at_s):
            told = 0
        if told is not None:
            self._held[name] = told
        return told

    def strangers(self) -> tuple[Stranger, ...]:
        """Who came meanwhile and is none of the study's; only where that can be told."""
        known = set().union(*self._members.values())
        return tuple(
            each
            for pid, each in sorted(self._strangers.items())
            if pid not in known
            # Without a name and seen once, it may be a child of ours that ended in that moment.
            and (each.name is not None or (self.lists_ours and each.looks > 1))
        )

    def of(self, tenants: Collection[str]) -> Own:
        """What these tenants had of the device."""
        return Own(
            pids=frozenset().union(*(self._members.get(name, ()) for name in tenants)),
            is_listed=self.lists_ours,
            held_bytes=tuple(self._held[name] for name in tenants if self._held.get(name)),
        )

    def _must_be_nothing(
        self, name: str, pids: Collection[int], state: DeviceState, at_s: float
    ) -> bool:
        """No process, no memory; and a process that a good list lacks for long has none."""
        if not pids:
            return True
        is_untold = any(pid in state.by_pid for pid in pids)
        is_fresh = at_s - self._since_s.get(name, at_s) < FRESH_S
        return self.lists_ours and not is_untold and not is_fresh

    def _meet(self, pid: int, held: int | None, known: Collection[int]) -> None:
        before = self._strangers.get(pid)
        if before is None:
            name = None
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                name = process.name()
                above = {each.pid for each in process.parents()} | {pid}
                if above & {*known, psutil.Process().pid}:
                    return  # a child that a slower look has not seen yet
            before = Stranger(pid=pid, name=name, looks=0)
        most = max(filter(None, (held, before.most_bytes)), default=None)
        self._strangers[pid] = replace(before, most_bytes=most, looks=before.looks + 1)


def listed_bytes(pids: Collection[int], state: DeviceState) -> int | None:
    """Device memory of `pids` by the driver's process list, in bytes.

    None where the list has none of them, or the driver does not tell the bytes of one.
    """
    listed = [state.by_pid[pid] for pid in pids if pid in state.by_pid]
    known = [held for held in listed if held is not None]
    return sum(known) if listed and len(known) == len(listed) else None
