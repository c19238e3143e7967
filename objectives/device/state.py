"""What every device has in common: its identity, its memory at one moment, how busy it is.

The two kinds are `objectives.device.cuda.CudaDevice` and `objectives.device.cpu.CpuNode`;
`objectives.device.discovery.open_device` opens either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from objectives.units import DeviceKind


@dataclass(frozen=True, kw_only=True)
class DeviceState:
    """A device's memory at one moment.

    Attributes:
        total_bytes: All of it: what a server's memory fraction is a fraction of.
        free_bytes: What a server that starts now would find free.
        used_bytes: `total_bytes - free_bytes`, whatever the driver itself calls "used".
        reserved_bytes: Of the used, what the driver keeps for itself; None where it does not say.
        cuda_total_bytes: What torch called the total, where an engine was asked.
        by_pid: Process id to its bytes; None for bytes that the driver does not tell.
            Empty where no process list is to be had, as on a CPU.
    """

    total_bytes: int
    free_bytes: int
    used_bytes: int
    reserved_bytes: int | None = None
    cuda_total_bytes: int | None = None
    by_pid: Mapping[int, int | None] = field(default_factory=dict)

    @property
    def server_total_bytes(self) -> int:
        """What a server's memory fraction is a fraction of: CUDA's total.

        Where torch was not asked, the driver's total less what it keeps for itself; that the two
        are the same holds on no card for certain.
        """
        if self.cuda_total_bytes is not None:
            return self.cuda_total_bytes
        return self.total_bytes - (self.reserved_bytes or 0)


@dataclass(frozen=True, kw_only=True)
class Activity:
    """How busy a device is at one moment; None for what it does not tell.

    Attributes:
        utilisation: Share of the last moment, 0 to 1, in which anything ran on it.
        power_w: Watts drawn.
        temperature_c: Degrees Celsius.
        energy_j: Joules since the driver was loaded.
        slowed_by: Reasons why the clocks are lower than they could be, idleness left out.
    """

    utilisation: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    energy_j: float | None = None
    slowed_by: tuple[str, ...] = ()


class Device(ABC):
    """One accelerator, or the memory node of the CPU.

    Attributes:
        name: As its maker calls it.
        uuid: The same for the same device after a restart; names its lock.
        index: The driver's number for it (PCI bus order); None for a CPU.
        passed_over: Devices that were looked at before this one was chosen, each with the reason
            why it was not taken.
        notes: What a person should know of how it was chosen.
        root: Where the machine's own files are.
        cuda_total_bytes: What torch calls its total; None where no engine was asked.
    """

    kind: DeviceKind
    name: str
    uuid: str
    index: int | None
    passed_over: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    root: Path = Path("/")
    cuda_total_bytes: int | None = None

    @property
    @abstractmethod
    def total_bytes(self) -> int:
        """All of its memory, read now."""

    @abstractmethod
    def read(self) -> DeviceState:
        """Its memory now.

        Raises:
            BenchError: The device no longer answers.
        """

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """JSON-able facts to store with a trial; None for what the device does not tell."""

    def _identity(self) -> dict[str, object]:
        """What every description has: who the device is, and its size."""
        names = ("kind", "name", "uuid", "index", "total_bytes")
        return {name: getattr(self, name) for name in names} | {
            "passed_over": list(self.passed_over)
        }

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Variables that make this, and only this, device visible to a server."""

    @property
    def spoken(self) -> str:
        """As people tell it from others: its name, and which of several it is."""
        return self.name

    @property
    def maps_memory(self) -> bool:
        """Whether a program may map its memory piece by piece, as expandable segments do."""
        return False

    def doubts(self) -> tuple[str, ...]:
        """What speaks against every figure that is measured on it, in sentences."""
        return ()

    def activity(self) -> Activity:
        """How busy it is now; nothing known, unless a kind of device knows better."""
        return Activity()

    def settle(self, *, deadline_s: float = 300.0) -> tuple[DeviceState, DeviceState]:
        """Bring its memory to the size that it will keep; most devices are born that way.

        Args:
            deadline_s: Seconds after which to be content with what was reached.

        Returns:
            The state before and after.
        """
        del deadline_s
        state = self.read()
        return state, state
