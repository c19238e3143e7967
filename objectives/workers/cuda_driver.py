"""The few functions of the CUDA driver that programs of this folder take; no torch is needed.

Imported by the programs beside it, never by a study. The device is the first that
`CUDA_VISIBLE_DEVICES` shows. Whatever the driver refuses ends the program: exit code 1 where memory
is short, 3 where there is no such device.
"""

from __future__ import annotations

import ctypes
import sys
import uuid
from typing import NoReturn

GIB = 1 << 30
_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY, cuda.h


class CudaDriver:
    """The driver, with a context of this process on the device.

    Every call of `alloc` goes to the driver: there is no cache of an allocator between.
    """

    def __init__(self, program: str) -> None:
        self._program = program
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            give_up(program, 3, f"no NVIDIA driver on this machine: {error}")
        self.call("cuInit", ctypes.c_uint(0))
        self._device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(self._device), ctypes.c_int(0))
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self.call("cuCtxSetCurrent", context)

    @property
    def uuid(self) -> str:
        """The device's, as NVML writes it: "GPU-" and the number."""
        number = (ctypes.c_ubyte * 16)()
        self.call("cuDeviceGetUuid", number, self._device)
        return f"GPU-{uuid.UUID(bytes=bytes(number))}"

    def memory(self) -> tuple[int, int]:
        """Free and total bytes, this process's context taken off."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def alloc(self, size_bytes: int) -> int | None:
        """One allocation, not written: its address; None where memory is short."""
        address = ctypes.c_uint64()
        code = self._raw("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size_bytes))
        if code == _OUT_OF_MEMORY:
            return None
        self._see("cuMemAlloc_v2", code)
        return address.value

    def call(self, name: str, *arguments: object) -> None:
        """Call a function that must succeed."""
        self._see(name, self._raw(name, *arguments))

    def _raw(self, name: str, *arguments: object) -> int:
        return int(getattr(self._driver, name)(*arguments))

    def _see(self, name: str, code: int) -> None:
        if code == 0:
            return
        text = ctypes.c_char_p()
        self._raw("cuGetErrorName", ctypes.c_int(code), ctypes.byref(text))
        said = (text.value or b"an unknown error").decode()
        give_up(self._program, 1 if code == _OUT_OF_MEMORY else 3, f"{name}: {said} ({code})")


def gib(size_bytes: int) -> str:
    """Bytes as people read them."""
    return f"{size_bytes / GIB:.2f} GiB"


def give_up(program: str, code: int, reason: str) -> NoReturn:
    """End with one line on stderr."""
    sys.stderr.write(f"{program}: {reason}\n")
    sys.exit(code)
