"""Whole machines, as NVML and CUDA show them: what is told on each, and what is not.

Each is a fake driver, to be `installed()`. What they leave out is as public reports have it:
containers without the host's process ids (to nvidia-docker, HAMi-core), WSL2 (no list of compute
processes, no events), MIG (to nvidia-container-toolkit), GB10 (to nvitop, gpud).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pynvml

from tests.fakes.fake_nvml import GIB, FakeGpu, FakeNvml

DRIVERS = {
    "550.163.01": 12040,
    "580.65.06": 13000,
    "590.44.01": 13010,
}
"""Driver to the newest CUDA that it runs."""

RTX_3060 = "GPU-30600000-1111-2222-3333-444444444444"
GTX_1080_TI = "GPU-10800000-1111-2222-3333-444444444444"
MEMORY = ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMemoryInfo_v2")
HOST_PIDS = 1 << 23
"""Beyond the largest id that a process can have here: nobody's in this namespace."""


class ServedGpu(FakeGpu):
    """A GPU on which fake servers hold what they take in a ledger (`tests.fakes.knobs`)."""

    ledger: Path | None = None
    _idle_bytes = 0

    @property
    def processes(self):
        files = [] if self.ledger is None or not self.ledger.is_dir() else self.ledger.iterdir()
        held = {int(file.name): int(file.read_text() or 0) for file in files}
        return {pid: size for pid, size in held.items() if Path(f"/proc/{pid}").exists()}

    @processes.setter
    def processes(self, processes):
        assert not processes, "the ledger has them"

    @property
    def used_bytes(self):
        return self._idle_bytes + sum(self.processes.values())

    @used_bytes.setter
    def used_bytes(self, size_bytes):
        self._idle_bytes = size_bytes


def refusing(names, code=pynvml.NVML_ERROR_NOT_SUPPORTED):
    """Functions that a GPU answers with an error."""
    return dict.fromkeys(names, code)


def on_driver(version, *gpus):
    """A machine with that driver, and all that it can tell."""
    return FakeNvml(*(gpus or (FakeGpu(uuid=RTX_3060),)), driver=version, cuda=DRIVERS[version])


def two_unlike_cards(driver="580.65.06"):
    """The slower card is first on the bus: CUDA's own order is the other way round."""
    slow = FakeGpu(
        uuid=GTX_1080_TI,
        name="NVIDIA GeForce GTX 1080 Ti",
        total_bytes=11 * GIB,
        capability=(6, 1),
        cuda_rank=1,
    )
    return on_driver(driver, slow, FakeGpu(uuid=RTX_3060, cuda_rank=0))


def container_with_foreign_pids():
    """The driver lists the host's process ids, which mean nothing here."""
    return FakeNvml(FakeGpu(uuid=RTX_3060, pid_shift=HOST_PIDS))


def container_without_bytes():
    """Newer drivers: the ids are those of the container, and every process holds 0 bytes."""
    return FakeNvml(FakeGpu(uuid=RTX_3060, tells_process_bytes=False))


def wsl2():
    """Windows' driver, seen from Linux; `/dev/dxg` is the machine's part of it."""
    untold = (
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetMPSComputeRunningProcesses_v3",
        "nvmlDeviceGetSupportedEventTypes",
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetMigMode",
    )
    return FakeNvml(FakeGpu(uuid=RTX_3060, graphics={22: None}, refused=refusing(untold)))


def mig_parent():
    """A card that is split, on the host."""
    return FakeNvml(FakeGpu(name="NVIDIA A100-SXM4-80GB", total_bytes=80 * GIB, mig=True))


def mig_container():
    """A container that was given a slice: the driver may tell little of the whole card."""
    untold = refusing((*MEMORY, "nvmlDeviceGetMigMode"), pynvml.NVML_ERROR_NO_PERMISSION)
    return FakeNvml(FakeGpu(name="NVIDIA A100-SXM4-80GB", total_bytes=80 * GIB, refused=untold))


def gb10():
    """Unified memory: there is none of the card's own to tell of."""
    card = FakeGpu(name="NVIDIA GB10", capability=(12, 1), refused=refusing(MEMORY))
    return on_driver("580.65.06", card)


def first_memory_call_only():
    """An old driver: nothing is said of what it keeps for itself."""
    driver = FakeNvml(FakeGpu(uuid=RTX_3060), driver="470.256.02", cuda=11040)
    driver.missing |= {"nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetCurrentClocksEventReasons"}
    return driver


def cuda_shows(driver: FakeNvml, environment: Mapping[str, str]) -> list[FakeGpu]:
    """What a program in that environment sees, in its own numbering; as CUDA reads the variables.

    A number counts in CUDA's order, the fastest card first, unless CUDA_DEVICE_ORDER says
    PCI_BUS_ID; a list ends at the first name that is unknown; a device that is named twice hides
    all (CUDA C++ Programming Guide, "CUDA Environment Variables").
    """
    order = list(driver.gpus)
    if environment.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        order.sort(key=lambda gpu: gpu.cuda_rank)
    wanted = environment.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return order
    shown: list[FakeGpu] = []
    for token in (part.strip() for part in wanted.split(",")):
        if token.isdecimal() and int(token) < len(order):
            shown.append(order[int(token)])
        elif token.startswith("GPU-") and (hits := [g for g in order if g.uuid.startswith(token)]):
            shown.append(hits[0])
        else:
            break
    return shown if len({gpu.uuid for gpu in shown}) == len(shown) else []
