"""Shared memory that a killed server leaves behind in /dev/shm.

Standard library only, and quick to import: the guard, too, lives on it.
"""

# pathlib would double the time that a guard needs to start:
# ruff: noqa: PTH108, PTH116, PTH208
from __future__ import annotations

import os
from collections.abc import Collection

from objectives.process_table import pids, read_file

_FOLDER = "/dev/shm"
_PREFIX = "psm_"  # of multiprocessing.shared_memory


def segments() -> set[str]:
    """Names of the shared-memory segments of Python programs on this machine."""
    try:
        return {name for name in os.listdir(_FOLDER) if name.startswith(_PREFIX)}
    except OSError:
        return set()


def sweep(new: Collection[str]) -> list[str]:
    """Unlink those of the segments `new` that are this user's and that no living process maps.

    Returns:
        The names that were removed.
    """
    swept = []
    for name in sorted(set(new) - _mapped()) if new else ():
        path = f"{_FOLDER}/{name}"
        try:
            if os.stat(path).st_uid == os.getuid():
                os.unlink(path)
                swept.append(name)
        except OSError:
            continue  # somebody was quicker
    return swept


def _mapped() -> set[str]:
    folder = f"{_FOLDER}/".encode()
    found = set()
    for pid in pids():
        for line in read_file(f"/proc/{pid}/maps").splitlines():
            if folder in line:
                found.add(line.partition(folder)[2].decode(errors="replace"))
    return found
