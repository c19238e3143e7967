"""Control groups: the memory limit that we live under, and the kernel's count of kills.

Both versions are read, and the hybrid of them in which only version 1 has the memory controller.
Every function takes the root of the file system, so that a folder can stand in for a machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

_NO_LIMIT_BYTES = 1 << 60
"""Version 1 writes "no limit" as the largest page-aligned number; nobody owns an exbibyte."""


@dataclass(frozen=True, kw_only=True)
class MemoryGroup:
    """The control group of this process, as far as memory is concerned.

    `path` is its folder, `top` the one in which the hierarchy that we can see begins.
    """

    version: Literal[1, 2]
    path: Path
    top: Path

    def limit_bytes(self) -> int | None:
        """The tightest limit on the way up; None if there is none."""
        return min((limit for limit, _ in self._limits()), default=None)

    def headroom_bytes(self) -> int | None:
        """What may still be taken before the nearest limit; None if there is none.

        Page cache counts as taken, though the kernel would give it back: a careful figure.
        """
        return min((max(0, limit - used) for limit, used in self._limits()), default=None)

    def events(self) -> dict[str, int]:
        """Counts since the group was made: at least "oom_kill" where the kernel keeps it.

        Version 2 tells more, among it "oom" (an allocation failed at the limit) and "max" (the
        limit was reached); of version 1, failures at the limit are given as "max".
        """
        if self.version == 2:
            return _table(self.path / "memory.events")
        counts = _table(self.path / "memory.oom_control")
        events = {"oom_kill": counts["oom_kill"]} if "oom_kill" in counts else {}
        failures = _number(self.path / "memory.failcnt")
        return events if failures is None else {**events, "max": failures}

    def _limits(self) -> Iterator[tuple[int, int]]:
        """Limit and use, in bytes, of each limited group from ours to the top."""
        names = ("memory.max", "memory.current")
        if self.version == 1:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        for folder in (self.path, *self.path.parents):
            limit = _number(folder / names[0])
            if limit is not None and limit < _NO_LIMIT_BYTES:
                yield limit, _number(folder / names[1]) or 0
            if folder == self.top:
                return


def own_group(root: Path = Path("/")) -> MemoryGroup | None:
    """The memory control group of this process; None where there is none, or none to be seen."""
    memberships = _memberships(root)
    for version, fstype, controller in ((1, "cgroup", "memory"), (2, "cgroup2", "")):
        if controller not in memberships:
            continue
        mount = _mount(root, fstype, controller)
        if mount is None:
            continue
        inside, top = mount
        path = _below(top, inside, memberships[controller])
        marks = "memory.limit_in_bytes" if version == 1 else "memory.events"
        if (path / marks).exists() or (top / marks).exists():
            return MemoryGroup(version=1 if version == 1 else 2, path=path, top=top)
    return None


def oom_kills(root: Path = Path("/")) -> int | None:
    """Processes that the kernel killed for memory, in our group or, failing that, anywhere here.

    A kill for the whole machine's sake is counted in the group of the killed process, too.
    None where the kernel counts nothing that we may read. Only differences mean anything.
    """
    group = own_group(root)
    count = group.events().get("oom_kill") if group else None
    return _table(root / "proc/vmstat").get("oom_kill") if count is None else count


def engine_limit_bytes(root: Path = Path("/")) -> int | None:
    """The limit that vLLM's CPU backend sees; None if it sees none.

    It looks at two fixed files, not at the group of its process: inside a container these are
    the container's own; outside they are the root's, which has no limit.

    Source: vLLM 0.32 `utils/cpu_resource_utils.py`, `get_cgroup_memory_limit`.
    """
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        limit = _number(root / "sys/fs/cgroup" / name)
        if limit is not None:
            return limit if limit < _NO_LIMIT_BYTES else None
    return None


def engine_usage_bytes(root: Path = Path("/")) -> int | None:
    """The use that vLLM's CPU backend sets against `engine_limit_bytes`; None if not known.

    Source: vLLM 0.32 `utils/cpu_resource_utils.py`, `get_cgroup_memory_usage`.
    """
    mount = root / "sys/fs/cgroup"
    if _number(mount / "memory.max") is not None:
        return _number(mount / "memory.current")
    return _number(mount / "memory/memory.usage_in_bytes")


def _memberships(root: Path) -> dict[str, str]:
    """Controller to path of our group; version 2 is the controller named ""."""
    found: dict[str, str] = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


def _mount(root: Path, fstype: str, controller: str) -> tuple[str, Path] | None:
    """Where a hierarchy is mounted: (its group at the mount point, the mount point)."""
    for line in _lines(root / "proc/self/mountinfo"):
        place, _, kind = line.partition(" - ")
        words = kind.split()
        if words[0] != fstype or (controller and controller not in words[-1].split(",")):
            continue
        inside, point = place.split()[3:5]
        return inside, root / point.lstrip("/")
    return None


def _below(top: Path, inside: str, membership: str) -> Path:
    """The folder of a group, in a mount that may show only a part of the hierarchy."""
    try:
        relative = PurePosixPath(membership).relative_to(inside)
    except ValueError:  # another part of it is mounted: a container without its own namespace
        return top
    path = top / relative
    return path if ".." not in relative.parts and path.is_dir() else top


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # not there, or not for us
        return []


def _number(path: Path) -> int | None:
    """A file's only number; None if there is no such file, or it says "max"."""
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].strip().isdecimal() else None


def _table(path: Path) -> dict[str, int]:
    """A file of lines "name number"."""
    words = [line.split() for line in _lines(path)]
    return {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdecimal()}
