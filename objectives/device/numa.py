"""The memory node that vLLM's CPU backend counts its fraction of, read as that backend reads it.

Pure reading and arithmetic. Every function takes the root of the file system, so that a folder can
stand in for a machine.

Source: vLLM 0.32, `utils/cpu_resource_utils.py` and `v1/worker/cpu_worker.py`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from objectives.device.cgroup import engine_limit_bytes, engine_usage_bytes

RESERVE_BYTES = 2 << 30
RESERVE_SHARE = 0.10
"""Of the machine's memory, what growing a node never touches: the larger of the two."""

_SETTLED_SHARE = 0.01
"""A node this close to the machine's total has its size."""

_FIELD = re.compile(r"^(?:Node\s+\d+\s+)?(?P<name>[\w()]+):\s+(?P<kib>\d+)\s+kB", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class NodeMemory:
    """What a server on this node would read now.

    Attributes:
        total_bytes: What `--gpu-memory-utilization` is a fraction of: the node, or the limit of
            the control group if that is less.
        available_bytes: Free, page cache and reclaimable slab; what a server's start is checked
            against.
        free_bytes: Untouched by anything.
        limited: The control group's limit is the smaller one.
    """

    total_bytes: int
    available_bytes: int
    free_bytes: int
    limited: bool


def parse_ids(text: str) -> tuple[int, ...]:
    """The kernel's lists of numbers: "0-2,4" is 0, 1, 2, 4."""
    found: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(found))


def node_of(cpus: Collection[int], root: Path = Path("/")) -> int:
    """The node that a server which may run on `cpus` takes its memory from.

    It is the first CPU's node, unless memory of that node is forbidden: then the first allowed.
    """
    folder = root / f"sys/devices/system/cpu/cpu{min(cpus)}"
    links = sorted(folder.glob("node[0-9]*"))
    node = int(links[0].name.removeprefix("node")) if links else 0
    allowed = _allowed_nodes(root)
    return node if not allowed or node in allowed else allowed[0]


def read_node(node: int, root: Path = Path("/")) -> NodeMemory:
    """A node's memory now; the machine's where the kernel knows no nodes."""
    path = root / f"sys/devices/system/node/node{node}/meminfo"
    known = path.exists()
    table = _meminfo(path if known else root / "proc/meminfo")
    total, free = table["MemTotal"], table["MemFree"]
    available = free + sum(
        table.get(name, 0) for name in ("Active(file)", "Inactive(file)", "SReclaimable")
    )
    if not known:
        available = table.get("MemAvailable", available)
    limit = engine_limit_bytes(root)
    limit = total if limit is None else limit
    limited = limit < total
    if limited:
        left = max(0, limit - (engine_usage_bytes(root) or 0))
        total, available, free = limit, min(available, left), min(free, left)
    return NodeMemory(
        total_bytes=total, available_bytes=available, free_bytes=free, limited=limited
    )


def machine_memory(root: Path = Path("/")) -> tuple[int, int]:
    """Total and available bytes of the whole machine, as /proc/meminfo has them."""
    table = _meminfo(root / "proc/meminfo")
    return table["MemTotal"], table.get("MemAvailable", table["MemFree"])


def unborn_bytes(node: int, root: Path = Path("/")) -> int:
    """Memory of the machine that its only node does not count yet, 0 on most machines.

    Some virtual machines put memory into the node only as it is first touched, so that the node,
    and with it every fraction of it, grows while a study runs. It never shrinks again.
    """
    if len(_nodes_with_memory(root)) != 1:
        return 0
    memory = read_node(node, root)
    if memory.limited:
        return 0
    total, _ = machine_memory(root)
    missing = total - memory.total_bytes
    return missing if missing > _SETTLED_SHARE * total else 0


def reserve_bytes(machine_total_bytes: int) -> int:
    """What growing a node leaves alone, so that nobody else on the machine runs short."""
    return max(RESERVE_BYTES, int(RESERVE_SHARE * machine_total_bytes))


def bytes_to_touch(
    *,
    unborn_bytes: int,
    node_free_bytes: int,
    machine_total_bytes: int,
    machine_available_bytes: int,
    headroom_bytes: int | None = None,
) -> int:
    """How much a process must touch, and give back, for the node to have its size.

    What is free already is handed out first; the node grows by what is touched beyond that. 0 where
    nothing is to be gained, or not safely; a `headroom_bytes` of None is a group without a limit.
    """
    if unborn_bytes <= 0:
        return 0
    safe = machine_available_bytes - reserve_bytes(machine_total_bytes)
    if headroom_bytes is not None:
        safe = min(safe, int(headroom_bytes * (1 - RESERVE_SHARE)))
    touched = min(node_free_bytes + unborn_bytes, safe)
    return touched if touched > node_free_bytes else 0


def _allowed_nodes(root: Path) -> tuple[int, ...]:
    status = root / "proc/self/status"
    text = status.read_text() if status.exists() else ""
    found = re.search(r"^Mems_allowed_list:\s*(\S+)", text, re.MULTILINE)
    return parse_ids(found[1]) if found else ()


def _nodes_with_memory(root: Path) -> tuple[int, ...]:
    path = root / "sys/devices/system/node/has_memory"
    return parse_ids(path.read_text()) if path.exists() else ()


def _meminfo(path: Path) -> dict[str, int]:
    """Bytes by field of a `meminfo` file, a node's or the machine's."""
    return {found["name"]: int(found["kib"]) << 10 for found in _FIELD.finditer(path.read_text())}
