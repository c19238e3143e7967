"""A folder that stands in for a machine: the files of /proc and /sys that are read of it."""

from __future__ import annotations

from pathlib import Path

MIB = 1 << 20
GIB = 1 << 30


class FakeMachine:
    """Writes the files; what is not written is not there, as on a real machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str) -> Path:
        """One file, with the folders above it."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def processor(self, model: str = "Some CPU @ 2 GHz", *, machine_id: str = "c0ffee") -> None:
        """Its name, and the machine's."""
        self.write("proc/cpuinfo", f"processor\t: 0\nmodel name\t: {model}\n")
        self.write("etc/machine-id", f"{machine_id}\n")

    def memory(self, *, total: int, available: int) -> None:
        """Of the whole machine, in bytes."""
        self.write(
            "proc/meminfo",
            f"MemTotal: {total >> 10} kB\nMemFree: {available >> 10} kB\n"
            f"MemAvailable: {available >> 10} kB\n",
        )

    def node(self, number: int, *, total: int, free: int, cache: int = 0) -> Path:
        """A memory node, in bytes; half of the cache is active, a quarter is slab."""
        lines = {
            "MemTotal": total,
            "MemFree": free,
            "Active(file)": cache // 2,
            "Inactive(file)": cache // 4,
            "SReclaimable": cache // 4,
        }
        text = "".join(f"Node {number} {name}: {size >> 10} kB\n" for name, size in lines.items())
        return self.write(f"sys/devices/system/node/node{number}/meminfo", text)

    def nodes_with_memory(self, listed: str) -> None:
        """As the kernel lists them: "0-1"."""
        self.write("sys/devices/system/node/has_memory", f"{listed}\n")

    def cpu_in_node(self, cpu: int, node: int) -> None:
        """Where a CPU belongs."""
        folder = self.root / f"sys/devices/system/cpu/cpu{cpu}/node{node}"
        folder.mkdir(parents=True, exist_ok=True)

    def cgroup_v2(self, group: str = "/", *, below: str = "") -> None:
        """Version 2 alone, this process in `group`, mounted from `below` on."""
        self.write("proc/self/cgroup", f"0::{group}\n")
        self.write(
            "proc/self/mountinfo",
            f"30 24 0:27 {below or '/'} /sys/fs/cgroup rw - cgroup2 cgroup rw,nsdelegate\n",
        )

    def cgroup_hybrid(self, group: str) -> None:
        """Memory in version 1, and version 2 mounted without controllers."""
        self.write("proc/self/cgroup", f"9:name=systemd:/\n4:memory:{group}\n0::/\n")
        self.write(
            "proc/self/mountinfo",
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
            "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
            "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        )
        (self.root / "sys/fs/cgroup/unified").mkdir(parents=True, exist_ok=True)
