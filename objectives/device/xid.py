"""XIDs: the NVIDIA driver's own word that something went wrong on a device.

Running out of memory raises none of them; they tell a faulty program from a faulty device. The
driver keeps no history that a plain user may read, so the watch must stand before the servers do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Self

import pynvml

from objectives.causes import APPLICATION_XIDS
from objectives.device import nvml
from objectives.device.cuda import CudaDevice
from objectives.device.state import Device
from objectives.errors import BenchError


def device_faults(xids: Iterable[int]) -> tuple[int, ...]:
    """Those XIDs that speak against the device or its driver, not against a program on it."""
    return tuple(xid for xid in xids if xid not in APPLICATION_XIDS)


class XidWatch:
    """Collects a device's XIDs from the first line of the `with` block on.

    A driver that offers no such events (WSL, some vGPUs) and a CPU give no evidence: `supported`
    is False and `seen()` stays empty, which is not the same as "nothing happened".

    Attributes:
        supported: Whether the driver took the watch.
    """

    def __init__(self, device: Device) -> None:
        self.supported = False
        self._device = device
        self._events: object | None = None
        self._seen: list[int] = []

    def __enter__(self) -> Self:
        if isinstance(self._device, CudaDevice):
            self._events = nvml.query(pynvml.nvmlEventSetCreate)
            self.supported = self._events is not None and self._register(self._device)
        return self

    def __exit__(self, *_: object) -> None:
        if self._events is None:
            return
        try:
            self.seen()
        except BenchError:  # a lost device answers no more; what it said before is kept
            self.supported = False
        with contextlib.suppress(pynvml.NVMLError):  # the set may have died with its device
            pynvml.nvmlEventSetFree(self._events)
        self._events = None

    @property
    def xids(self) -> tuple[int, ...]:
        """What was collected so far, in order; asks nobody."""
        return tuple(self._seen)

    def seen(self) -> tuple[int, ...]:
        """Every XID so far, in order; does not wait.

        Raises:
            BenchError: The device is lost.
        """
        while self.supported and self._events is not None:
            try:
                event = pynvml.nvmlEventSetWait_v2(self._events, 0)
            except pynvml.NVMLError_Timeout:  # the usual case: nothing happened
                break
            except pynvml.NVMLError as error:
                raise nvml.fault("nvmlEventSetWait", error) from error
            if event.eventType & pynvml.nvmlEventTypeXidCriticalError:
                self._seen.append(int(event.eventData))
        return self.xids

    def _register(self, device: CudaDevice) -> bool:
        offered = nvml.query(pynvml.nvmlDeviceGetSupportedEventTypes, device.handle) or 0
        wanted = offered & pynvml.nvmlEventTypeXidCriticalError
        if not wanted:
            return False
        try:
            pynvml.nvmlDeviceRegisterEvents(device.handle, wanted, self._events)
        except pynvml.NVMLError_NotSupported:
            return False
        except pynvml.NVMLError as error:
            raise nvml.fault("nvmlDeviceRegisterEvents", error) from error
        return True
