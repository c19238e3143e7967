"""The CPU as a device: its memory node is what servers share.

vLLM's CPU backend takes `--gpu-memory-utilization` as a fraction of the memory node of the first
CPU it may run on, and compares it with what is available there. This device reads the same.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

from objectives import workers
from objectives.device.cgroup import own_group
from objectives.device.numa import (
    bytes_to_touch,
    machine_memory,
    node_of,
    read_node,
    reserve_bytes,
    unborn_bytes,
)
from objectives.device.state import Device, DeviceState

_LOOK_S = 0.1


class CpuNode(Device):
    """One memory node of this machine, with the CPUs that servers may run on.

    `cpus` are those that this process may use where they are not given.
    """

    kind = "cpu"

    def __init__(self, *, root: Path = Path("/"), cpus: Collection[int] | None = None) -> None:
        self.root = root
        self._cpus = tuple(sorted(os.sched_getaffinity(0) if cpus is None else cpus))
        self.node = node_of(self._cpus, root)
        self.index: int | None = None
        self._model = _cpu_model(root)
        self.name = f"{self._model}, memory node {self.node}"
        self.uuid = f"cpu-node{self.node}-{_machine_digest(root, self._model)}"

    @property
    def total_bytes(self) -> int:
        """What a memory fraction is a fraction of, read now."""
        return read_node(self.node, self.root).total_bytes

    def read(self) -> DeviceState:
        """The node's memory now; no process list, for reading every process is costly.

        `free_bytes` counts page cache and reclaimable slab, as the server's own check does.
        """
        memory = read_node(self.node, self.root)
        return DeviceState(
            total_bytes=memory.total_bytes,
            free_bytes=memory.available_bytes,
            used_bytes=memory.total_bytes - memory.available_bytes,
        )

    def describe(self) -> dict[str, object]:
        """Processor, node, limits of the control group, and whether the node has its size."""
        group = own_group(self.root)
        machine_total, machine_available = machine_memory(self.root)
        return {
            **self._identity(),
            "node": self.node,
            "cpus": len(self._cpus),
            "machine": platform.machine(),
            "kernel": platform.release(),
            "machine_total_bytes": machine_total,
            "machine_available_bytes": machine_available,
            "settled": self.settled,
            "unborn_bytes": unborn_bytes(self.node, self.root),
            "cgroup_version": group.version if group else None,
            "cgroup_limit_bytes": group.limit_bytes() if group else None,
        }

    def environment(self) -> dict[str, str]:
        """No CUDA device is visible: a server that looks for one finds none."""
        return {"CUDA_VISIBLE_DEVICES": ""}

    @property
    def settled(self) -> bool:
        """Whether the node has its size, up to the reserve that `settle` leaves alone."""
        total, _ = machine_memory(self.root)
        return unborn_bytes(self.node, self.root) <= reserve_bytes(total)

    def settle(self, *, deadline_s: float = 300.0) -> tuple[DeviceState, DeviceState]:
        """Make the node as large as it will be, so that a fraction of it means the same later.

        Some virtual machines add memory to the node only as it is first touched. There, a child
        touches memory and ends; a reserve is left alone (`numa.reserve_bytes`), and the
        memory that a control group's limit leaves is respected. Elsewhere nothing is done.
        """
        before = self.read()
        unborn = unborn_bytes(self.node, self.root)
        total, available = machine_memory(self.root)
        group = own_group(self.root)
        amount = bytes_to_touch(
            unborn_bytes=unborn,
            node_free_bytes=read_node(self.node, self.root).free_bytes,
            machine_total_bytes=total,
            machine_available_bytes=available,
            headroom_bytes=group.headroom_bytes() if group else None,
        )
        if amount:
            goal = before.total_bytes + unborn
            self._touch(amount, goal_bytes=goal, deadline=time.monotonic() + deadline_s)
        return before, self.read()

    def _touch(self, amount_bytes: int, *, goal_bytes: int, deadline: float) -> None:
        """Let a child touch memory until the node has grown to the goal; then it is gone."""
        total, _ = machine_memory(self.root)
        words = (amount_bytes, reserve_bytes(total), self.root / "proc/meminfo")
        child = subprocess.Popen(
            [sys.executable, "-I", str(workers.TOUCH_MEMORY), *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while child.poll() is None and self.total_bytes < goal_bytes:
                if time.monotonic() > deadline:
                    return
                time.sleep(_LOOK_S)
        finally:  # an interrupt, too, must give the memory back
            child.kill()
            child.wait()


def _cpu_model(root: Path) -> str:
    """The processor's name; the architecture where the kernel does not give one."""
    path = root / "proc/cpuinfo"
    found = re.search(r"^model name\s*:\s*(.+)$", path.read_text() if path.exists() else "", re.M)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _machine_digest(root: Path, model: str) -> str:
    """Twelve hex digits that stay with the machine and give its id away to nobody."""
    paths = (root / "etc/machine-id", root / "var/lib/dbus/machine-id")
    ids = (path.read_text().strip() for path in paths if path.exists())
    known = next(filter(None, ids), platform.node())
    return hashlib.sha256(f"gpu-allocation-study {known} {model}".encode()).hexdigest()[:12]
