"""What the kernel tells about processes: memory, and time on the CPU.

A process may end between two lines of any function here; then it counts as not there. Every
function takes the root of the file system, so that a folder can stand in for a machine.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, kw_only=True)
class ProcessTimes:
    """One process: its parent, when it began (ticks since boot), and its CPU seconds so far."""

    parent: int
    began_ticks: int
    cpu_s: float


@dataclass(frozen=True, kw_only=True)
class MachineTimes:
    """CPU seconds of all CPUs since boot.

    Attributes:
        busy_s: In programs, in the kernel, and stolen by other virtual machines.
        stolen_s: Of these, the stolen.
        cpus: How many CPUs these are.
    """

    busy_s: float
    stolen_s: float
    cpus: int


def rss_bytes(pid: int, root: Path = Path("/")) -> int | None:
    """Resident memory, shared pages counted in full; cheap. None if the process is gone."""
    words = _read(root / "proc" / str(pid) / "statm").split()
    return int(words[1]) * _PAGE_BYTES if len(words) > 1 else None


def pss_bytes(pid: int, root: Path = Path("/")) -> int | None:
    """Resident memory, each shared page divided among those who share it.

    Costs milliseconds for each GiB. None if the process is gone, or is another user's.
    """
    return _kib(_read(root / "proc" / str(pid) / "smaps_rollup"), "Pss")


def peak_rss_bytes(pid: int, root: Path = Path("/")) -> int | None:
    """The most resident memory that the process ever had. None if it is gone."""
    return _kib(_read(root / "proc" / str(pid) / "status"), "VmHWM")


def process_table(root: Path = Path("/")) -> dict[int, ProcessTimes]:
    """Every process there is."""
    table = {}
    for folder in (root / "proc").iterdir():
        if folder.name.isdecimal() and (times := _times(folder / "stat")):
            table[int(folder.name)] = times
    return table


def tree(pid: int, table: Mapping[int, ProcessTimes]) -> set[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for other, times in table.items():
        children.setdefault(times.parent, []).append(other)
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += children.get(one, [])
    return found


def machine_times(root: Path = Path("/")) -> MachineTimes | None:
    """What all CPUs did since boot; None where the kernel does not tell."""
    lines = _read(root / "proc/stat").splitlines()
    if not lines or not lines[0].startswith("cpu "):
        return None
    ticks = [int(word) for word in lines[0].split()[1:]]
    user, nice, system, _idle, _waiting, irq, softirq, stolen = (ticks + [0] * 8)[:8]
    cpus = sum(1 for line in lines if re.match(r"cpu\d", line))
    busy = user + nice + system + irq + softirq + stolen
    return MachineTimes(busy_s=busy * _TICK_S, stolen_s=stolen * _TICK_S, cpus=cpus)


def cpu_pressure(root: Path = Path("/")) -> float | None:
    """Share of the last 10 s, 0 to 1, in which somebody waited for a CPU; None if unknown."""
    found = re.search(r"^some avg10=([\d.]+)", _read(root / "proc/pressure/cpu"))
    return float(found[1]) / 100 if found else None


class CpuLedger:
    """Adds up the CPU seconds of processes that come and go.

    A process that began after the ledger was opened counts from its birth, any other from when it
    was first entered. What a process used after its last entry is lost: enter often.

    Args:
        opened_ticks: When the ledger was opened, in ticks since boot; now, by default.
    """

    def __init__(self, opened_ticks: int | None = None) -> None:
        now = int(time.clock_gettime(time.CLOCK_BOOTTIME) / _TICK_S)
        self.used_s = 0.0
        self._opened_ticks = now if opened_ticks is None else opened_ticks
        self._last: dict[tuple[int, int], float] = {}

    def enter(self, pids: Iterable[int], table: Mapping[int, ProcessTimes]) -> float:
        """Account for `pids` as they are in `table`.

        Returns:
            CPU seconds since the ledger was opened.
        """
        for pid in pids:
            if times := table.get(pid):
                key = (pid, times.began_ticks)
                at_birth = 0.0 if times.began_ticks > self._opened_ticks else times.cpu_s
                self.used_s += times.cpu_s - self._last.get(key, at_birth)
                self._last[key] = times.cpu_s
        return self.used_s


class ResidentMeter:
    """Memory of a group of processes, often and cheaply.

    The proportional set size is right but costly, the resident set cheap but counts shared pages
    again and again. So the one is read now and then, and moved by what the other moved since.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.source: str | None = None
        self._root = root
        self._known: dict[int, tuple[int, int]] = {}

    def read(self, pids: Collection[int], *, careful: bool) -> int | None:
        """Bytes that `pids` hold now; None if there are processes and none can be read.

        Args:
            pids: The group now.
            careful: Read the proportional set size of every process, not only of new ones.
        """
        held = []
        for pid in pids:
            rss = rss_bytes(pid, self._root)
            if rss is None:
                continue
            if careful or pid not in self._known:
                pss = pss_bytes(pid, self._root)
                self.source = "rss" if pss is None or self.source == "rss" else "pss"
                self._known[pid] = (rss if pss is None else pss, rss)
            proportional, resident = self._known[pid]
            held.append(min(rss, max(0, proportional + rss - resident)))
        return sum(held) if held or not pids else None


def _times(path: Path) -> ProcessTimes | None:
    """The fields of /proc/PID/stat that matter; the name in it may hold blanks and brackets."""
    words = _read(path).rpartition(")")[2].split()
    if len(words) < 20:
        return None
    return ProcessTimes(
        parent=int(words[1]),
        began_ticks=int(words[19]),
        cpu_s=(int(words[11]) + int(words[12])) * _TICK_S,
    )


def _kib(text: str, name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) << 10 if found else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # gone, or not for us
        return ""
