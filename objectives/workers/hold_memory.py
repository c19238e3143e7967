"""Hold memory of a device, as a neighbour would, until a signal ends this process.

    python hold_memory.py --kind cpu --bytes 1073741824

Launched, never imported by a study; the standard library only. On a CPU every page is written, so
that it is resident; on an NVIDIA GPU the driver's own API allocates and writes, no torch needed,
on the first device that `CUDA_VISIBLE_DEVICES` shows. Prints one line, beginning with "holding",
once it really holds. Exit codes: 1 memory is short; 2 bad usage; 3 there is no such device.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from objectives.workers import cuda_driver as cuda
else:  # run by path: `-I` keeps even the script's own folder off the path
    sys.path.append(str(Path(__file__).resolve().parent))
    import cuda_driver as cuda

_PROGRAM = "hold_memory"
_CHUNK_BYTES = 64 << 20


def hold_node(size_bytes: int) -> mmap.mmap:
    """Ordinary memory, every page of it written."""
    told = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    if told is not None and size_bytes > (available_bytes := int(told[1]) << 10):
        short = f"{cuda.gib(size_bytes)} wanted, and only {cuda.gib(available_bytes)} are available"
        cuda.give_up(_PROGRAM, 1, short)
    held = mmap.mmap(-1, size_bytes)
    chunk = b"\xa5" * _CHUNK_BYTES  # no page is like a page of zeros, which need not be kept
    for offset in range(0, size_bytes, _CHUNK_BYTES):
        end = min(offset + _CHUNK_BYTES, size_bytes)
        held[offset:end] = chunk[: end - offset]
    return held


def hold_gpu(size_bytes: int) -> int:
    """Allocate and write; the address on the device."""
    driver = cuda.CudaDriver(_PROGRAM)
    free, total = driver.memory()
    address = driver.alloc(size_bytes)
    if address is None:
        room = f"{cuda.gib(free)} of {cuda.gib(total)} are free"
        cuda.give_up(_PROGRAM, 1, f"{cuda.gib(size_bytes)} wanted on the GPU, and {room}")
    size, value = ctypes.c_size_t(size_bytes), ctypes.c_ubyte(0xA5)
    driver.call("cuMemsetD8_v2", ctypes.c_uint64(address), value, size)
    driver.call("cuCtxSynchronize")
    return address


def main(argv: Sequence[str] | None = None) -> int:
    """Hold until a signal comes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--bytes", type=int, required=True, metavar="N")
    options = parser.parse_args(argv)
    if options.bytes <= 0:
        parser.error(f"--bytes must be at least 1, not {options.bytes}")
    held = hold_gpu(options.bytes) if options.kind == "cuda" else hold_node(options.bytes)
    sys.stdout.write(f"holding {options.bytes} bytes of {options.kind}\n")
    sys.stdout.flush()
    while held:
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
