"""What devices there are and who has them: GPUs by NVML, the memory node of a CPU, the lock."""

from __future__ import annotations

from objectives.device.allocation import LargestAllocation, largest_allocation
from objectives.device.cgroup import oom_kills
from objectives.device.discovery import Own, cards_here, open_device, wait_for_memory
from objectives.device.lock import hold_device
from objectives.device.state import Activity, Device, DeviceState
from objectives.device.xid import XidWatch, device_faults

__all__ = [
    "Activity",
    "Device",
    "DeviceState",
    "LargestAllocation",
    "Own",
    "XidWatch",
    "cards_here",
    "device_faults",
    "hold_device",
    "largest_allocation",
    "oom_kills",
    "open_device",
    "wait_for_memory",
]
