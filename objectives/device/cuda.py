"""One NVIDIA GPU, through NVML; nothing here needs CUDA or makes a context on the device.

Used memory is always total less free: whether the driver's own "used" holds what it reserves for
itself differs between versions of the call. Memory of single processes is a gift: WSL, containers
and some drivers do not give it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pynvml

from objectives.device import nvml
from objectives.device.state import Activity, Device, DeviceState
from objectives.errors import BenchError, UsageError

_SLOWDOWNS = {
    pynvml.nvmlClocksEventReasonSwPowerCap: "power_cap",
    pynvml.nvmlClocksEventReasonHwSlowdown: "hardware_slowdown",
    pynvml.nvmlClocksEventReasonSyncBoost: "sync_boost",
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: "thermal",
    pynvml.nvmlClocksEventReasonHwThermalSlowdown: "hardware_thermal",
    pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "power_brake",
}
_COMPUTE_MODES = {0: "default", 1: "exclusive_thread", 2: "prohibited", 3: "exclusive_process"}
_PROCESS_LISTS = (
    pynvml.nvmlDeviceGetComputeRunningProcesses,
    pynvml.nvmlDeviceGetGraphicsRunningProcesses,
    pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3,
)


class CudaDevice(Device):
    """A whole NVIDIA GPU, known by its UUID; handle and index, the PCI bus's order, are NVML's."""

    kind = "cuda"

    def __init__(self, handle: object, index: int, *, root: Path = Path("/")) -> None:
        self.handle = handle
        self.index: int = index
        self.root = root
        self.uuid = _needed(nvml.query(pynvml.nvmlDeviceGetUUID, handle), "UUID")
        self.name = _needed(nvml.query(pynvml.nvmlDeviceGetName, handle), "name")

    @property
    def spoken(self) -> str:
        """Its name, its number in the order of the PCI bus, and its UUID."""
        return f"{self.name} (number {self.index} by PCI bus, {self.uuid})"

    @property
    def total_bytes(self) -> int:
        """Memory of the whole device, read now."""
        return int(self._memory().total)

    def read(self) -> DeviceState:
        """Its memory and its processes now.

        Raises:
            BenchError: The device no longer answers.
        """
        memory = self._memory()
        total, free = int(memory.total), int(memory.free)
        reserved = getattr(memory, "reserved", None)
        return DeviceState(
            total_bytes=total,
            free_bytes=free,
            used_bytes=total - free,
            reserved_bytes=None if reserved is None else int(reserved),
            cuda_total_bytes=self.cuda_total_bytes,
            by_pid=self._processes(),
        )

    def activity(self) -> Activity:
        """Utilisation, power, temperature, energy and slowdowns, as far as the driver tells."""
        rates = self._told(pynvml.nvmlDeviceGetUtilizationRates)
        temperature = self._told(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU)
        return Activity(
            utilisation=None if rates is None else rates.gpu / 100,
            power_w=_thousandth(self._told(pynvml.nvmlDeviceGetPowerUsage)),
            temperature_c=None if temperature is None else float(temperature),
            energy_j=_thousandth(self._told(pynvml.nvmlDeviceGetTotalEnergyConsumption)),
            slowed_by=self._slowed_by(),
        )

    def describe(self) -> dict[str, object]:
        """Identity and conditions: driver, capability, modes, limits, clocks, slowdowns."""
        activity, persistence = self.activity(), self._told(pynvml.nvmlDeviceGetPersistenceMode)
        return {
            **self._identity(),
            "driver": nvml.query(pynvml.nvmlSystemGetDriverVersion),
            "cuda_driver": _cuda_version(nvml.query(pynvml.nvmlSystemGetCudaDriverVersion)),
            "compute_capability": self.compute_capability,
            "compute_mode": self._compute_mode(),
            "mig": self._mode(pynvml.nvmlDeviceGetMigMode),
            "mps": self._mps(),
            "ecc": self._mode(pynvml.nvmlDeviceGetEccMode),
            "persistence": None if persistence is None else bool(persistence),
            "wsl": self.is_wsl,
            "power_limit_w": _thousandth(self._told(pynvml.nvmlDeviceGetEnforcedPowerLimit)),
            "clocks_mhz": self._clocks(),
            "temperature_c": activity.temperature_c,
            "power_w": activity.power_w,
            "energy_j": activity.energy_j,
            "slowed_by": list(activity.slowed_by),
            "pids": self._pids(),
        }

    def environment(self) -> dict[str, str]:
        """This device alone, by its number in the order of the PCI bus, which is NVML's.

        Not by its UUID: up to 0.23, vLLM reads the variable with `int()`
        (`device_id_to_physical_device_id`). That it is the right one is proven afterwards.
        """
        return {"CUDA_VISIBLE_DEVICES": str(self.index), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}

    @property
    def is_wsl(self) -> bool:
        """Whether Windows' driver is behind it."""
        return (self.root / "dev/dxg").exists()

    @property
    def maps_memory(self) -> bool:
        """Not on WSL2, nor on MIG slices and other virtual GPUs.

        Source: reports to PyTorch (cuMemSetAccess fails on WSL2) and to vLLM (an internal assertion
        on MIG instead of an error of memory).
        """
        mode = self._told(pynvml.nvmlDeviceGetVirtualizationMode)
        is_virtual = mode == pynvml.NVML_GPU_VIRTUALIZATION_MODE_VGPU
        return not (self.is_wsl or is_virtual or self._mode(pynvml.nvmlDeviceGetMigMode))

    def doubts(self) -> tuple[str, ...]:
        """On WSL2, that Windows decides what stays on the device.

        Source: WDDM's residency, as reported to WSL's own project.
        """
        if not self.is_wsl:
            return ()
        return (
            "on WSL2 Windows decides what stays on the device: memory may go to the host instead "
            "of running out, and less can be had than is called free",
        )

    @property
    def compute_capability(self) -> str | None:
        """As in "8.6"; None where the driver does not tell."""
        capability = self._told(pynvml.nvmlDeviceGetCudaComputeCapability)
        return None if capability is None else "{}.{}".format(*capability)

    def refusal(self) -> str | None:
        """Why two servers cannot share this device; None if nothing speaks against it.

        Raises:
            BenchError: The device no longer answers.
        """
        if self._memory_told() is None:
            return self._why_no_memory()
        if self._mode(pynvml.nvmlDeviceGetMigMode):
            return "it is split by MIG, and only whole devices are supported (nvidia-smi -mig 0)"
        mode = self._compute_mode()
        if mode == "prohibited":
            return "its compute mode is Prohibited (nvidia-smi -c 0)"
        if mode == "exclusive_process" and not self._mps():
            return "its compute mode lets only one process in (nvidia-smi -c 0)"
        return None

    def _told(self, ask: Any, *args: object) -> Any:  # noqa: ANN401 - NVML is untyped
        """What the driver tells of this device; None where it does not."""
        return nvml.query(ask, self.handle, *args)

    def _memory(self) -> Any:  # noqa: ANN401 - NVML is untyped
        """NVML's memory structure: version 2 where the driver knows it.

        Raises:
            BenchError: It gives neither.
        """
        return _needed(self._memory_told(), "memory")

    def _memory_told(self) -> Any:  # noqa: ANN401 - NVML is untyped
        ask = pynvml.nvmlDeviceGetMemoryInfo
        return self._told(ask, pynvml.nvmlMemory_v2) or self._told(ask)

    def _why_no_memory(self) -> str:
        """Two kinds of machines do not tell it, and neither can be shared by fractions of it."""
        code = nvml.refusal_code(pynvml.nvmlDeviceGetMemoryInfo, self.handle)
        if code == pynvml.NVML_ERROR_NO_PERMISSION:
            return (
                "the driver may not tell its memory here, as in a container that was given a MIG "
                "slice, and only whole devices are supported (on the host: nvidia-smi -mig 0, "
                "then give the container the whole card)"
            )
        if code == pynvml.NVML_ERROR_NOT_SUPPORTED:
            return (
                "the driver does not tell its memory, as where CPU and GPU share theirs (GB10, "
                "Jetson), and only devices with memory of their own are supported"
            )
        return "the driver does not tell its memory, which everything here is a share of"

    def _processes(self) -> dict[int, int | None]:
        """Every process on the device with its bytes; a process in two lists is one process."""
        found: dict[int, int | None] = {}
        for ask in _PROCESS_LISTS:
            for process in self._told(ask) or ():
                held = process.usedGpuMemory or None  # no context is of 0 bytes: not told
                known = found.get(process.pid)
                found[process.pid] = max(held, known) if held and known else held or known
        return found

    def _slowed_by(self) -> tuple[str, ...]:
        reasons = self._told(pynvml.nvmlDeviceGetCurrentClocksEventReasons)
        if reasons is None:  # the older name, before driver 535
            reasons = self._told(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons)
        return tuple(name for bit, name in _SLOWDOWNS.items() if (reasons or 0) & bit)

    def _compute_mode(self) -> str | None:
        return _COMPUTE_MODES.get(self._told(pynvml.nvmlDeviceGetComputeMode))

    def _mode(self, ask: Any) -> bool | None:  # noqa: ANN401 - NVML is untyped
        """The current one of a pair (current, pending)."""
        pair = self._told(ask)
        return None if pair is None else bool(pair[0])

    def _mps(self) -> bool:
        """Whether a Multi-Process Service runs: its pipe is there, or it lists clients."""
        default = self.root / "tmp/nvidia-mps"
        pipes = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", default))
        clients = pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3
        return (pipes / "control").exists() or bool(self._told(clients))

    def _clocks(self) -> dict[str, int | None]:
        """MHz now and at most, of the multiprocessors and of the memory."""
        ask_now, ask_most = pynvml.nvmlDeviceGetClockInfo, pynvml.nvmlDeviceGetMaxClockInfo
        return {
            "sm": self._told(ask_now, pynvml.NVML_CLOCK_SM),
            "sm_max": self._told(ask_most, pynvml.NVML_CLOCK_SM),
            "memory": self._told(ask_now, pynvml.NVML_CLOCK_MEM),
            "memory_max": self._told(ask_most, pynvml.NVML_CLOCK_MEM),
        }

    def _pids(self) -> str:
        """Whether the listed process ids mean anything here: another namespace has other ids."""
        listed = self._processes()
        if not listed:
            return "none listed"
        here = all((self.root / "proc" / str(pid)).exists() for pid in listed)
        return "of this namespace" if here else "of another namespace"


def visible_devices() -> tuple[list[CudaDevice], list[str]]:
    """The devices that `CUDA_VISIBLE_DEVICES` leaves, in its order; a line for each mute one.

    Raises:
        NoNvmlError: There is no NVIDIA driver.
        UsageError: `CUDA_VISIBLE_DEVICES` names a MIG slice.
    """
    found, broken = all_devices()
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return found, broken
    chosen: list[CudaDevice] = []
    for token in (part.strip() for part in wanted.split(",")):
        if token.startswith("MIG-"):
            raise UsageError(
                f"CUDA_VISIBLE_DEVICES is {wanted!r}, a MIG slice; only whole devices are supported"
            )
        match = next((device for device in found if _is_named(device, token)), None)
        if match is None:  # CUDA itself stops at the first name that it does not know
            break
        chosen.append(match)
    _warn_of_numbers(wanted, found, chosen)
    return chosen, broken


def _warn_of_numbers(wanted: str, found: list[CudaDevice], chosen: list[CudaDevice]) -> None:
    """Note on each chosen device that CUDA itself may count otherwise."""
    by_number = any(part.strip().isdecimal() for part in wanted.split(","))
    bus_order = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if bus_order or not by_number or len({device.name for device in found}) < 2:
        return
    for device in chosen:
        device.notes = (
            f"CUDA_VISIBLE_DEVICES={wanted} was read in the order of the PCI bus: {device.spoken}."
            " The cards differ, and CUDA itself counts the fastest first: set"
            f" CUDA_DEVICE_ORDER=PCI_BUS_ID, or name the card: device: {device.uuid}",
        )


def all_devices() -> tuple[list[CudaDevice], list[str]]:
    """Every device of the driver, and one line for each that does not answer.

    Raises:
        NoNvmlError: There is no NVIDIA driver.
    """
    nvml.start()
    found: list[CudaDevice] = []
    broken: list[str] = []
    for index in range(nvml.query(pynvml.nvmlDeviceGetCount) or 0):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            found.append(CudaDevice(handle, index))
        except (pynvml.NVMLError, BenchError) as error:
            broken.append(f"cuda:{index}: {error}")
    return found, broken


def _is_named(device: CudaDevice, token: str) -> bool:
    if token.isdecimal():
        return device.index == int(token)
    return token.startswith("GPU-") and device.uuid.startswith(token)


def _needed(value: Any, what: str) -> Any:  # noqa: ANN401 - NVML is untyped
    if value is None:
        raise BenchError(f"the NVIDIA driver does not tell the device's {what}")
    return value


def _thousandth(value: int | None) -> float | None:
    """From mW or mJ to W or J."""
    return None if value is None else value / 1000


def _cuda_version(value: int | None) -> str | None:
    """12080 is "12.8"."""
    return None if value is None else f"{value // 1000}.{value % 1000 // 10}"
