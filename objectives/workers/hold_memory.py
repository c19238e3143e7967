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
from typing import NoReturn

_GIB = 1 << 30
_CHUNK_BYTES = 64 << 20
_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY, cuda.h


def hold_node(size_bytes: int) -> mmap.mmap:
    """Ordinary memory, every page of it written."""
    told = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    if told is not None and size_bytes > (available_bytes := int(told[1]) << 10):
        _give_up(1, f"{_gib(size_bytes)} wanted, and only {_gib(available_bytes)} are available")
    held = mmap.mmap(-1, size_bytes)
    chunk = b"\xa5" * _CHUNK_BYTES  # no page is like a page of zeros, which need not be kept
    for offset in range(0, size_bytes, _CHUNK_BYTES):
        end = min(offset + _CHUNK_BYTES, size_bytes)
        held[offset:end] = chunk[: end - offset]
    return held


class Cuda:
    """The few functions of the CUDA driver that holding memory takes."""

    def __init__(self) -> None:
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            _give_up(3, f"no NVIDIA driver on this machine: {error}")
        self._call("cuInit", ctypes.c_uint(0))
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)

    def hold(self, size_bytes: int) -> int:
        """Allocate and write; the address on the device."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        address = ctypes.c_uint64()
        size = ctypes.c_size_t(size_bytes)
        code = self._raw("cuMemAlloc_v2", ctypes.byref(address), size)
        if code == _OUT_OF_MEMORY:
            room = f"{_gib(free.value)} of {_gib(total.value)} are free"
            _give_up(1, f"{_gib(size_bytes)} wanted on the GPU, and {room}")
        self._see("cuMemAlloc_v2", code)
        self._call("cuMemsetD8_v2", address, ctypes.c_ubyte(0xA5), size)
        self._call("cuCtxSynchronize")
        return address.value

    def _call(self, name: str, *arguments: object) -> None:
        self._see(name, self._raw(name, *arguments))

    def _raw(self, name: str, *arguments: object) -> int:
        return int(getattr(self._driver, name)(*arguments))

    def _see(self, name: str, code: int) -> None:
        if code == 0:
            return
        text = ctypes.c_char_p()
        self._raw("cuGetErrorName", ctypes.c_int(code), ctypes.byref(text))
        said = (text.value or b"an unknown error").decode()
        _give_up(1 if code == _OUT_OF_MEMORY else 3, f"{name}: {said} ({code})")


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / _GIB:.2f} GiB"


def _give_up(code: int, reason: str) -> NoReturn:
    sys.stderr.write(f"hold_memory: {reason}\n")
    sys.exit(code)


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
    held = Cuda().hold(options.bytes) if options.kind == "cuda" else hold_node(options.bytes)
    sys.stdout.write(f"holding {options.bytes} bytes of {options.kind}\n")
    sys.stdout.flush()
    while held:
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
