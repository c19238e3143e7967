"""A machine's GPUs as NVML would tell of them, behind the real pynvml.

pynvml looks each C function up by name in its module global `nvmlLib` and keeps what it found; so
the fake takes the library's place and the memory of the look-ups is cleared. Everything above that
- argument structs, versions, errors - is the real thing.

    with FakeNvml(FakeGpu(), FakeGpu(name="NVIDIA GeForce GTX 1080 Ti")).installed() as driver:
        driver.gpus[0].processes = {4711: 3 << 30}
        driver.refused["nvmlDeviceGetPowerUsage"] = pynvml.NVML_ERROR_NOT_SUPPORTED

`tests.fakes.machines` has whole machines: containers, WSL2, MIG, GB10, cards that differ.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import pynvml

GIB = 1 << 30
NOT_TOLD = (1 << 64) - 1
"""NVML's own number for a process's memory that the driver does not tell."""
_OF_THE_DRIVER = {"nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2"}
"""Functions without a handle of a device, whatever their names say."""


@dataclass
class FakeGpu:
    """One GPU; change its fields while the fake is installed.

    Attributes:
        cuda_rank: Its place in CUDA's own order, the fastest first.
        refused: C function to the error code that it answers with for this GPU.
        lost: It fell off the bus: every question about it is answered so.
        pid_shift: Process ids are listed as those of another namespace, so much higher.
        tells_process_bytes: Else its lists have ids, and 0 bytes for each.
    """

    uuid: str = "GPU-11111111-2222-3333-4444-555555555555"
    name: str = "NVIDIA GeForce RTX 3060"
    total_bytes: int = 12 * GIB
    used_bytes: int = 1 * GIB
    reserved_bytes: int = 200 << 20
    processes: Mapping[int, int | None] = field(default_factory=dict)
    graphics: Mapping[int, int | None] = field(default_factory=dict)
    mps_clients: Mapping[int, int | None] = field(default_factory=dict)
    capability: tuple[int, int] = (8, 6)
    compute_mode: int = 0
    mig: bool | None = None
    busy_percent: int = 37
    power_mw: int = 120_500
    energy_mj: int = 5_000_000
    temperature_c: int = 61
    slowed_bits: int = 0
    event_types: int = 0x8
    cuda_rank: int = 0
    refused: MutableMapping[str, int] = field(default_factory=dict)
    lost: bool = False
    pid_shift: int = 0
    tells_process_bytes: bool = True
    virtualization: int = 0
    events: list[tuple[int, int]] = field(default_factory=list)


class FakeNvml:
    """Stands where the C library stands.

    Attributes:
        gpus: In the order of the PCI bus.
        refused: C function to the error code that it answers with.
        missing: C functions that this "old driver" does not export.
        open_event_sets: How many event sets were made and not freed.
        driver: Its version.
        cuda: The newest CUDA that it runs, as NVML writes it: 12040 is 12.4.
    """

    def __init__(self, *gpus: FakeGpu, driver: str = "580.65.06", cuda: int = 13000) -> None:
        self.gpus = list(gpus)
        self.driver, self.cuda = driver, cuda
        self.refused: MutableMapping[str, int] = {}
        self.missing: set[str] = set()
        self.open_event_sets = 0
        self._watched: set[int] = set()

    @contextmanager
    def installed(self) -> Iterator[FakeNvml]:
        """Take the library's place, and give it back."""
        before = pynvml.nvmlLib
        pynvml.nvmlLib = self
        pynvml._nvmlGetFunctionPointer_cache.clear()
        try:
            yield self
        finally:
            pynvml.nvmlLib = before
            pynvml._nvmlGetFunctionPointer_cache.clear()

    def __getattr__(self, name: str) -> Callable[..., int]:
        body = None if name in self.missing else getattr(type(self), f"_{name}", None)
        if body is None:
            raise AttributeError(name)

        def function(*args: object) -> int:
            if name in self.refused:
                return self.refused[name]
            if name.startswith("nvmlDevice") and name not in _OF_THE_DRIVER:
                gpu = self._gpu(args[0])
                if gpu.lost:
                    return pynvml.NVML_ERROR_GPU_IS_LOST
                if name in gpu.refused:
                    return gpu.refused[name]
            return body(self, *args) or pynvml.NVML_SUCCESS

        return function

    def _nvmlInitWithFlags(self, flags):
        pass

    def _nvmlSystemGetDriverVersion(self, text, size):
        text.value = self.driver.encode()

    def _nvmlSystemGetCudaDriverVersion(self, number):
        number._obj.value = self.cuda

    def _nvmlDeviceGetCount_v2(self, number):
        number._obj.value = len(self.gpus)

    def _nvmlDeviceGetHandleByIndex_v2(self, index, handle):
        ctypes.c_void_p.from_buffer(handle._obj).value = index.value + 1

    def _nvmlDeviceGetUUID(self, handle, text, size):
        text.value = self._gpu(handle).uuid.encode()

    def _nvmlDeviceGetName(self, handle, text, size):
        text.value = self._gpu(handle).name.encode()

    def _nvmlDeviceGetMemoryInfo(self, handle, memory):
        gpu = self._gpu(handle)
        memory._obj.total = gpu.total_bytes
        memory._obj.used = gpu.used_bytes
        memory._obj.free = gpu.total_bytes - gpu.used_bytes

    def _nvmlDeviceGetMemoryInfo_v2(self, handle, memory):
        gpu = self._gpu(handle)
        if memory._obj.version != pynvml.nvmlMemory_v2:
            return pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH
        self._nvmlDeviceGetMemoryInfo(handle, memory)
        memory._obj.reserved = gpu.reserved_bytes
        memory._obj.used = gpu.used_bytes - gpu.reserved_bytes  # as some drivers count
        return pynvml.NVML_SUCCESS

    def _nvmlDeviceGetComputeRunningProcesses_v3(self, handle, count, array):
        return _list_processes(self._gpu(handle), "processes", count, array)

    def _nvmlDeviceGetGraphicsRunningProcesses_v3(self, handle, count, array):
        return _list_processes(self._gpu(handle), "graphics", count, array)

    def _nvmlDeviceGetMPSComputeRunningProcesses_v3(self, handle, count, array):
        return _list_processes(self._gpu(handle), "mps_clients", count, array)

    def _nvmlDeviceGetUtilizationRates(self, handle, rates):
        rates._obj.gpu = self._gpu(handle).busy_percent
        rates._obj.memory = 5

    def _nvmlDeviceGetTemperature(self, handle, sensor, number):
        number._obj.value = self._gpu(handle).temperature_c

    def _nvmlDeviceGetPowerUsage(self, handle, number):
        number._obj.value = self._gpu(handle).power_mw

    def _nvmlDeviceGetEnforcedPowerLimit(self, handle, number):
        number._obj.value = 170_000

    def _nvmlDeviceGetTotalEnergyConsumption(self, handle, number):
        number._obj.value = self._gpu(handle).energy_mj

    def _nvmlDeviceGetCurrentClocksEventReasons(self, handle, bits):
        bits._obj.value = self._gpu(handle).slowed_bits

    def _nvmlDeviceGetCurrentClocksThrottleReasons(self, handle, bits):
        bits._obj.value = self._gpu(handle).slowed_bits

    def _nvmlDeviceGetCudaComputeCapability(self, handle, major, minor):
        major._obj.value, minor._obj.value = self._gpu(handle).capability

    def _nvmlDeviceGetComputeMode(self, handle, number):
        number._obj.value = self._gpu(handle).compute_mode

    def _nvmlDeviceGetMigMode(self, handle, current, pending):
        mig = self._gpu(handle).mig
        if mig is None:
            return pynvml.NVML_ERROR_NOT_SUPPORTED
        current._obj.value = pending._obj.value = int(mig)
        return pynvml.NVML_SUCCESS

    def _nvmlDeviceGetVirtualizationMode(self, handle, number):
        number._obj.value = self._gpu(handle).virtualization

    def _nvmlDeviceGetPersistenceMode(self, handle, number):
        number._obj.value = 1

    def _nvmlDeviceGetClockInfo(self, handle, domain, number):
        number._obj.value = 1777

    def _nvmlDeviceGetMaxClockInfo(self, handle, domain, number):
        number._obj.value = 2100

    def _nvmlEventSetCreate(self, event_set):
        ctypes.c_void_p.from_buffer(event_set._obj).value = 77
        self.open_event_sets += 1

    def _nvmlDeviceGetSupportedEventTypes(self, handle, bits):
        bits._obj.value = self._gpu(handle).event_types

    def _nvmlDeviceRegisterEvents(self, handle, bits, event_set):
        self._gpu(handle).events.clear()  # there is no history
        self._watched.add(self._place(handle))

    def _nvmlEventSetWait_v2(self, event_set, data, timeout_ms):
        for place in sorted(self._watched):
            if self.gpus[place].events:
                kind, number = self.gpus[place].events.pop(0)
                data._obj.eventType, data._obj.eventData = kind, number
                return pynvml.NVML_SUCCESS
        return pynvml.NVML_ERROR_TIMEOUT

    def _nvmlEventSetFree(self, event_set):
        self.open_event_sets -= 1

    def _nvmlErrorString(self, code):
        return b"the fake's word for it"

    def _place(self, handle) -> int:
        return ctypes.cast(handle, ctypes.c_void_p).value - 1

    def _gpu(self, handle) -> FakeGpu:
        return self.gpus[self._place(handle)]


def _list_processes(gpu, which, count, array):
    """NVML's way with lists: asked without an array, it says how long one must be."""
    processes, room = getattr(gpu, which), count._obj.value
    count._obj.value = len(processes)
    if not processes:
        return pynvml.NVML_SUCCESS
    if array is None or room < len(processes):
        return pynvml.NVML_ERROR_INSUFFICIENT_SIZE
    for slot, (pid, held) in zip(array, processes.items(), strict=False):
        slot.pid = pid + gpu.pid_shift
        told = held if gpu.tells_process_bytes else 0
        slot.usedGpuMemory = NOT_TOLD if told is None else told
    return pynvml.NVML_SUCCESS
