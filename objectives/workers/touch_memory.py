"""A short-lived child: touches memory and ends, so that a virtual machine's node grows to its size.

Usage: python touch_memory.py BYTES RESERVE_BYTES MEMINFO

It stops by itself when the machine has no more than RESERVE_BYTES available, and when its parent is
gone. The kernel is told to end this process first, should memory run short all the same. What it
touched is free again as soon as it has ended. Only the standard library, and nothing of ours.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
from pathlib import Path

_PIECE_BYTES = 32 << 20


def available_bytes(meminfo: Path) -> int:
    """What the machine has available now."""
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


def touch(wanted_bytes: int, reserve_bytes: int, meminfo: Path) -> int:
    """Touch anonymous memory, keep it until the process ends, and tell how many bytes it is."""
    parent = os.getppid()
    zeros = bytes(_PIECE_BYTES)
    pieces: list[mmap.mmap] = []
    touched = 0
    while touched < wanted_bytes and os.getppid() == parent:
        size = min(_PIECE_BYTES, wanted_bytes - touched)
        if available_bytes(meminfo) - size < reserve_bytes:
            break
        piece = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # huge pages, where there are any, cost a fourth
            piece.madvise(mmap.MADV_HUGEPAGE)
        piece.write(zeros[:size])
        pieces.append(piece)
        touched += size
    return touched


def main() -> None:
    """Offer this process to the kernel's OOM killer, then touch."""
    Path("/proc/self/oom_score_adj").write_text("1000")
    os.nice(5)
    print(touch(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))  # noqa: T201


if __name__ == "__main__":
    main()
