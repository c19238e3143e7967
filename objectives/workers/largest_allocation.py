"""What is the largest single allocation that an NVIDIA GPU still gives? Launched, never imported.

    python largest_allocation.py --leave-bytes 268435456

The standard library only; the driver's own API allocates, with no allocator's cache between, on the
first device that `CUDA_VISIBLE_DEVICES` shows. It asks for all that is free less what must be left
to others, then halves what it does not know; every piece is given back before the next is asked
for, and nothing is written to it. Prints one line of JSON:

    uuid            the device's
    total_bytes     of the device
    free_bytes      free beside this process's own context, before the first try
    free_after      the same after the last: another figure means that somebody else moved
    asked_bytes     the largest that was asked for
    granted_bytes   the largest that was granted
    refused_bytes   the least that was refused; null where all that was asked for was granted
    tries           how often it asked

Once its time is up it says what it knows by then. Exit codes: 1 memory is short; 2 bad usage;
3 there is no such device; ended by SIGALRM where the driver does not answer.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from objectives.workers import cuda_driver as cuda
else:  # run by path: `-I` keeps even the script's own folder off the path
    sys.path.append(str(Path(__file__).resolve().parent))
    import cuda_driver as cuda

GRANULE_BYTES = 2 << 20
"""Pages of a large allocation: what the driver hands out is a multiple of it."""

_SILENCE_S = 15.0
"""Seconds beyond the search's own after which a driver that does not answer is given up."""


def search(
    grants: Callable[[int], bool], most_bytes: int, *, is_over: Callable[[], bool]
) -> tuple[int, int | None, int]:
    """Halve what is unknown.

    Args:
        grants: Whether an allocation of so many bytes is granted; it is given back at once.
        most_bytes: The first to be asked for.
        is_over: Whether the time is up.

    Returns:
        The largest that was granted, the least that was refused (None: nothing was), and the
        tries. The two differ by `GRANULE_BYTES` unless the time was up.
    """
    granted, refused, tries = 0, None, 0
    size = most_bytes // GRANULE_BYTES * GRANULE_BYTES
    while size > granted:
        tries += 1
        if grants(size):
            granted = size
        else:
            refused = size
        if refused is None or is_over():
            break
        size = (granted + refused) // (2 * GRANULE_BYTES) * GRANULE_BYTES
    return granted, refused, tries


def answer(driver: cuda.CudaDriver, *, leave_bytes: int, search_s: float) -> dict[str, object]:
    """Ask the driver, for `search_s` seconds at most; the keys are those of the line printed."""

    def grants(size_bytes: int) -> bool:
        address = driver.alloc(size_bytes)
        if address is not None:
            driver.call("cuMemFree_v2", ctypes.c_uint64(address))
        return address is not None

    deadline = time.monotonic() + search_s
    free, total = driver.memory()
    asked = max(0, free - leave_bytes) // GRANULE_BYTES * GRANULE_BYTES
    granted, refused, tries = search(grants, asked, is_over=lambda: time.monotonic() >= deadline)
    return {
        "uuid": driver.uuid,
        "total_bytes": total,
        "free_bytes": free,
        "free_after": driver.memory()[0],
        "asked_bytes": asked,
        "granted_bytes": granted,
        "refused_bytes": refused,
        "tries": tries,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Ask, and print the answer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--leave-bytes", type=int, default=0, metavar="N", help="asked for never")
    parser.add_argument("--search-s", type=float, default=5.0, metavar="S", help="default: 5")
    options = parser.parse_args(argv)
    if options.leave_bytes < 0 or not 0 <= options.search_s <= 600:
        parser.error("--leave-bytes must be at least 0, and --search-s 0 to 600")
    signal.alarm(math.ceil(options.search_s + _SILENCE_S))  # also where whoever asked is dead
    driver = cuda.CudaDriver("largest_allocation")
    found = answer(driver, leave_bytes=options.leave_bytes, search_s=options.search_s)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
